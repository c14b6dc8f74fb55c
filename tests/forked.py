"""Commands in processes of their own that need not import the library first: forks of one that has.

For tests of what becomes of a process: killed, interrupted, beside another. What a command prints or writes is tested
in the process of the tests (:mod:`command_line`), and how a program begins, with :mod:`subprocess`.
"""

from __future__ import annotations

import atexit
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).resolve().parents[1]
#: where modules are looked for once all tests are collected: what serves many tests must not keep one test's folders
PATHS: list[str] = []
#: seconds between two looks at a process
_LOOK = 0.01
#: the variable that holds the path of the socket of the process that forks
_WHERE = "RECGRAPH_TEST_FORKS"


class Forks:
    """A connection to a process that has imported the library and forks (:mod:`fork_server`).

    Args:
        where: the path of its socket.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self._one_at_a_time = threading.Lock()
        self._connect()

    def _connect(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(self.where)

    def ask(self, request: Mapping[str, Any], fds: Sequence[int] = ()) -> Any:
        """Send a request, and file descriptors with it -> the answer."""
        with self._one_at_a_time:
            try:
                return self._ask(json.dumps(request).encode() + b"\n", fds)
            except BaseException:  # Ctrl-C too: the answer to this request must not be taken for that to the next
                self._socket.close()
                self._connect()
                raise

    def _ask(self, text: bytes, fds: Sequence[int]) -> Any:
        sent = socket.send_fds(self._socket, [text], fds)
        self._socket.sendall(text[sent:])
        said = b""
        while not said.endswith(b"\n"):
            more = self._socket.recv(2**16)
            assert more, "the process that forks children has ended"
            said += more
        return json.loads(said)

    def close(self) -> None:
        self._socket.close()


@contextmanager
def server(env: Mapping[str, str]) -> Iterator[Forks]:
    """Within the block a process that forks runs, with an environment; its children may outlive it."""
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
    # paths of sockets must be short
    with tempfile.TemporaryDirectory(prefix="forks", dir="/tmp") as folder:
        where = f"{folder}/socket"
        command = [sys.executable, str(Path(__file__).with_name("fork_server.py")), where]
        process = subprocess.Popen(
            command, env={**env, **single}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            forks = Forks(where)
            yield forks
            forks.close()
        finally:
            process.communicate()


@cache
def _forks() -> Forks:
    """The connection of this process; all processes of a run of the tests ask the same server."""
    if _WHERE in os.environ:
        return Forks(os.environ[_WHERE])
    made = server({**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, PATHS)])})
    atexit.register(made.__exit__, None, None, None)
    return made.__enter__()


class Forked:
    """A process.

    Attributes:
        pid: of the process, which leads a session of its own.
        returncode: its exit code, or minus the signal that ended it; None: it has not been seen to end.
    """

    def __init__(self, request: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        self.returncode: int | None = None
        self.pid: int = _forks().ask({"do": "start", "parent": os.getpid(), **request}, fds)

    def poll(self) -> int | None:
        """Its exit code; None: it runs."""
        if self.returncode is None:
            ended = _forks().ask({"do": "wait", "pid": self.pid})
            self.returncode = ended and ended[0]
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        """Its exit code, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not after so many seconds.
        """
        until = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(f"{self.pid}", timeout)
            time.sleep(_LOOK)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)
        self.wait()


class Printing(Forked):
    """A process whose output gets into files; with ``with`` it runs no longer than the block."""

    def __init__(self, request: Mapping[str, Any], env: Mapping[str, str] | None, cwd: Path | None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="forked")
        files = {stream: str(Path(self._folder.name, stream)) for stream in ("output", "error")}
        for file in files.values():
            Path(file).touch()
        own = {**(os.environ if env is None else env), _WHERE: _forks().where}
        super().__init__({"cwd": str(cwd or Path.cwd()), "env": own, **files, **request})

    def file(self, stream: str) -> Path:
        """What it has printed to a stream so far, as it is."""
        return Path(self._folder.name, stream)

    def _read(self, stream: str) -> str:
        return self.file(stream).read_text(encoding="utf-8", errors="replace")

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._read("output")

    @property
    def error(self) -> str:
        """What it has printed to stderr so far."""
        return self._read("error")

    @property
    def said(self) -> str:
        """Both."""
        return self.output + self.error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._folder.cleanup()


def module(
    name: str,
    *arguments: object,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Printing:
    """Start ``python -m name arguments``, or, of a file, ``python name arguments``; its workers are forks, too."""
    return Printing({"module": [name, [str(one) for one in arguments]], "forks_workers": True}, env, cwd)


def call(
    module: str, function: str, *arguments: Any, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Printing:
    """Start a function of a module that can be imported, with arguments that JSON can hold."""
    return Printing({"call": [module, function, arguments]}, env, cwd)


def code(text: str, *arguments: object, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """What a program prints, as of ``python -c text arguments``.

    Raises:
        AssertionError: it fails; with what it printed.
    """
    with tempfile.TemporaryDirectory(prefix="forked") as folder:
        program = Path(folder, "program.py")
        program.write_text(text, encoding="utf-8")
        with module(str(program), *arguments, env=env, cwd=cwd) as process:
            assert process.wait() == 0, process.said
            return process.output


class Worker(Forked):
    """A worker of :class:`recgraph.workers.pool.Pool`, in the place of a :class:`subprocess.Popen`."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdin: int,
        stdout: IO[bytes],
        stderr: IO[bytes],
        env: Mapping[str, str],
        pass_fds: Sequence[int],
        start_new_session: bool,
    ) -> None:
        assert (list(command[:2]), stdin, start_new_session) == ([sys.executable, "-m"], subprocess.PIPE, True)
        read, write = os.pipe()
        self.stdin = os.fdopen(write, "wb")
        files = {0: read, 1: stdout.fileno(), 2: stderr.fileno(), **{fd: fd for fd in pass_fds}}
        request = {"module": [command[2], list(command[3:])], "cwd": os.getcwd(), "env": {**env}, "fds": [*files]}
        super().__init__(request, [*files.values()])
        os.close(read)


def fork_workers(patch: pytest.MonkeyPatch | None = None) -> list[Worker]:
    """From now on the workers of this process's pools are forks; gives a list that gets them."""
    from recgraph.workers import pool

    started: list[Worker] = []

    def start(*command: Any, **files: Any) -> Worker:
        started.append(Worker(*command, **files))
        return started[-1]

    instead = SimpleNamespace(Popen=start, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired)
    (setattr if patch is None else patch.setattr)(pool, "subprocess", instead)
    return started


def main() -> int:
    """``python forked.py NAME arguments``: ``python -m NAME arguments``, with the files of this process."""
    env = {**os.environ, "JPY_PARENT_PID": str(os.getpid())}  # a Jupyter kernel ends when its parent does
    request = {"module": [sys.argv[1], sys.argv[2:]], "cwd": os.getcwd(), "env": env, "fds": [0, 1, 2]}
    process = Forked({**request, "forks_workers": True}, fds=(0, 1, 2))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os.kill(process.pid, number))
    return process.wait(float("inf"))


def write_program(folder: Path) -> None:
    """Write a program ``recgraph``."""
    program = folder / "recgraph"
    command = shlex.join(command_of("recgraph.cli"))
    program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    program.chmod(0o755)


def command_of(name: str) -> list[str]:
    """What does ``python -m name`` in a fork, from any process."""
    return ["env", f"{_WHERE}={_forks().where}", sys.executable, str(Path(__file__)), name]


if __name__ == "__main__":
    sys.exit(main())
