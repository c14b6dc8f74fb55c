"""Processes of their own that need not import the library first, forks of one that has: commands,
connected ranks.

For tests of what becomes of a process: killed, interrupted, beside another. What a command prints
or writes is tested in the process of the tests (:mod:`command_line`).
"""

from __future__ import annotations

import importlib
import os
import pickle
import random
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import cache
from multiprocessing import forkserver, get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[1]
#: what commands import when they need it
_PRELOADED = [
    *("recgraph.cli.app", "recgraph.train.fit", "recgraph.train.run", "recgraph.tuning.study"),
    *("recgraph.leaderboard.runner", "recgraph.serve.bundle", "recgraph.models.sequence.sasrec"),
    *(
        "optuna.storages",
        "sklearn.cluster",
        "torch._dynamo",
        "torch.distributed",
        "narwhals._polars.dataframe",
    ),
]


@cache
def _forks() -> ForkServerContext:
    """The server, which runs with one thread until this process ends."""
    context = get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")
    more = {
        **dict.fromkeys(names, "1"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
    }
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    return context


def _begin(
    call: Callable[..., None],
    arguments: tuple[Any, ...],
    env: dict[str, str],
    cwd: str,
    folder: str,
) -> None:
    """In the child: its own session, files, folder and environment; then the call."""
    os.setsid()
    for number, name in ((1, "output"), (2, "error")):
        file = os.open(f"{folder}/{name}", os.O_WRONLY)
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    call(*arguments)


def _run_module(name: str, arguments: list[str]) -> None:
    sys.argv[:] = [name, *arguments]
    sys.path.insert(0, str(Path(name).parent) if name.endswith(".py") else os.getcwd())
    if name.endswith(".py"):
        runpy.run_path(name, run_name="__main__")
    else:
        runpy.run_module(name, run_name="__main__", alter_sys=True)


def _run_function(name: str, function: str, arguments: tuple[Any, ...]) -> None:
    getattr(importlib.import_module(name), function)(*arguments)


class Printing:
    """A process that leads a session of its own, and whose output gets into files; it runs no
    longer than ``with``.
    """

    def __init__(
        self,
        call: Callable[..., None],
        arguments: tuple[Any, ...],
        env: Mapping[str, str] | None,
        cwd: Path | None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="forked")
        for stream in ("output", "error"):
            Path(self._folder.name, stream).touch()
        environment = dict(os.environ if env is None else env)
        given = (call, arguments, environment, str(cwd or Path.cwd()), self._folder.name)
        self._process = _forks().Process(target=_begin, args=given)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None: it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self._process.exitcode

    def wait(self, timeout: float = 300) -> int:
        """Its exit code, once it has ended; an error if it has not after so many seconds."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(f"{self.pid}", timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it, and what it has started, at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.send_signal(signal.SIGKILL)
        self.wait()

    def until(self, holds: Callable[[], object], seconds: float = 300) -> None:
        """Wait until something holds, of a process that goes on meanwhile."""
        end = time.monotonic() + seconds
        while not holds():
            assert self.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.02)

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return Path(self._folder.name, "output").read_text(encoding="utf-8", errors="replace")

    @property
    def error(self) -> str:
        """What it has printed to stderr so far."""
        return Path(self._folder.name, "error").read_text(encoding="utf-8", errors="replace")

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
    name: str, *arguments: object, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Printing:
    """Start ``python -m name arguments``, or, of a file, ``python name arguments``."""
    return Printing(_run_module, (name, [str(one) for one in arguments]), env, cwd)


def call(
    module: str,
    function: str,
    *arguments: Any,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Printing:
    """Start a function of a module that can be imported, with arguments that can be pickled."""
    return Printing(_run_function, (module, function, arguments), env, cwd)


# -- ranks: a function on several that are connected, as a launcher would; or a command under
# torchrun


def free_port() -> int:
    """A port at which nobody listens, below those that Linux gives to whoever asks for any (from
    32,768 on).
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_768)
        with socket.socket() as found, suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun tells a process, with the tests and the library in reach."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": "1",
    }


def on_ranks(
    count: int, function: Callable[..., Any], *arguments: Any, seconds: float = 240
) -> list[Any]:
    """What ``function(*arguments)``, of a module that can be imported, gives on each of ``count``
    gloo ranks.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as name, ExitStack() as ends:
        task, out = Path(name, "task"), Path(name, "out")
        task.write_bytes(pickle.dumps((function, arguments, str(out))))
        ranks = [
            ends.enter_context(
                call("forked", "on_a_rank", str(task), env=environment(rank, count, port))
            )
            for rank in range(count)
        ]
        end = time.monotonic() + seconds
        while time.monotonic() < end and any(one.poll() is None for one in ranks):
            if any(one.poll() for one in ranks):  # the others have ten seconds from when one fails
                end = min(end, time.monotonic() + 10)
            time.sleep(0.02)
        for one in ranks:
            one.kill()
        failed = [
            f"rank {rank} ended with {one.returncode}:\n{one.said}"
            for rank, one in enumerate(ranks)
            if one.returncode
        ]
        assert not failed, "\n".join(failed)
        return [pickle.loads(Path(f"{out}.{rank}").read_bytes()) for rank in range(count)]


def on_a_rank(task: str) -> None:
    """In a process of :func:`on_ranks`: join the others, call the function, write what it gives."""
    import torch.distributed as dist

    function, arguments, out = pickle.loads(Path(task).read_bytes())
    # a file, not a port: of two tests that look for a free port both may find one
    rank, count = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    dist.init_process_group("gloo", init_method=f"file://{out}.store", rank=rank, world_size=count)
    try:
        Path(f"{out}.{dist.get_rank()}").write_bytes(pickle.dumps(function(*arguments)))
    finally:
        dist.destroy_process_group()


def torchrun(count: int, *arguments: object, env: dict[str, str]) -> Printing:
    """Start ``torchrun --nproc-per-node count -m recgraph arguments``, whose processes are forks,
    too.
    """
    return call("forked", "as_torchrun", str(count), [str(one) for one in arguments], env=env)


def as_torchrun(count: str, arguments: list[str]) -> None:
    """In the process of :func:`torchrun`: what torchrun does, with a function for the program that
    it starts.
    """
    from torch.distributed import run
    from torch.distributed.launcher.api import elastic_launch

    options = [
        "--nproc-per-node",
        count,
        "--master-port",
        str(free_port()),
        "--start-method",
        "fork",
    ]
    config, _, _ = run.config_from_args(run.parse_args([*options, "-m", "recgraph", *arguments]))
    elastic_launch(config, entrypoint=_command)(*arguments)


def _command(*arguments: str) -> None:
    """In a process that torchrun starts; it begins without the launcher's handlers, as a new
    program does.
    """
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[1:] = arguments
    runpy.run_module("recgraph", run_name="__main__", alter_sys=True)
