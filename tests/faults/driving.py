"""The driver: runs any command, or call, in a child, with a harm ordered at one of its events."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil
from disks import Disk
from forked import ROOT, Forks, server
from injecting import COUNT, Harm, Seen, build, read_orders, write_orders

#: seconds; more than any case takes on a busy machine
LONG = 300.0


@dataclass(frozen=True)
class Call:
    """A function of a module, called in the child, with JSON arguments."""

    module: str
    function: str
    arguments: tuple[Any, ...] = ()

    def __str__(self) -> str:
        if self.function == "app":
            return f"recgraph {' '.join(self.arguments[0])}"
        return f"{self.module}.{self.function}{self.arguments}"


def command(line: str) -> Call:
    """A ``recgraph`` command as it is typed."""
    return Call("recgraph.cli.app", "app", (line.split(),))


@dataclass(frozen=True)
class Done:
    """How a child ended.

    Attributes:
        code: its exit code, or minus the signal that ended it.
        output, error: what it printed.
        seen: what was counted, and hit.
        cpu_seconds: of it and of its own children that have ended.
    """

    code: int
    output: str
    error: str
    seen: Seen
    cpu_seconds: float


class Child:
    """A child that runs."""

    def __init__(self, forks: Forks, pid: int, files: Path) -> None:
        self._forks, self.pid, self._files = forks, pid, files

    def _printed(self, stream: str) -> str:
        return self._files.with_suffix(stream).read_text(encoding="utf-8", errors="replace")

    def wait(self, seconds: float = LONG) -> Done | None:
        """How it ended; None where it still runs after so many seconds."""
        until = time.monotonic() + seconds
        while (found := self._forks.ask({"do": "wait", "pid": self.pid})) is None:
            if time.monotonic() > until:
                return None
            time.sleep(0.002)
        seen = read_orders(self._files.with_suffix(".orders"))
        return Done(found[0], self._printed(".output"), self._printed(".error"), seen, found[1])

    def end(self) -> Done:
        """Wait for its end; one that hangs is killed and fails the test."""
        done = self.wait()
        if done is None:
            os.killpg(self.pid, signal.SIGKILL)
            raise AssertionError(f"still runs after {LONG:.0f} s: {self._printed('.error')}")
        return done

    def until_it_stops(self) -> None:
        """Wait until it has stopped itself (SIGSTOP), or has ended."""
        until = time.monotonic() + LONG
        while psutil.Process(self.pid).status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
            assert time.monotonic() < until, f"{self.pid} does not stop"
            time.sleep(0.002)

    def go_on(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)


class Driver:
    """A process that has imported all, and its children.

    Args:
        folder: for what the driver writes.
    """

    def __init__(self, folder: Path) -> None:
        self._scratch = Path(tempfile.mkdtemp(dir=folder))
        self._number = 0
        here = str(Path(__file__).parent)
        self._env = {
            **os.environ,
            "LD_PRELOAD": str(build(self._scratch)),
            "PYTHONPATH": os.pathsep.join([str(ROOT), here, os.environ.get("PYTHONPATH", "")]),
            "COLUMNS": "200",
        }
        self._server = server(self._env)

    def __enter__(self) -> Self:
        self._forks = self._server.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._server.__exit__(*error)

    def start(
        self,
        call: Call,
        folder: Path,
        harm: Harm = COUNT,
        at: int = 0,
        *,
        file_limit: int = 0,
        dies_of_it: bool = False,
        disk: Disk | None = None,
        env: dict[str, str] | None = None,
    ) -> Child:
        """Start a child in a folder.

        Args:
            call: what it runs.
            folder: where; only what happens to files below it counts.
            harm: what happens.
            at: at which event, from 1.
            file_limit: bytes that a file of the child may have at most (RLIMIT_FSIZE); 0: any.
            dies_of_it: whether the signal that tells it so (SIGXFSZ) ends it, or its call fails (EFBIG).
            disk: that the folder lies on, for the child; None: on that of all.
            env: variables beside ``RECGRAPH_HOME``, which is ``home`` in the folder.
        """
        self._number += 1
        files = self._scratch / f"{self._number}.orders"
        write_orders(files, harm, at, folder)
        request = {
            "do": "start",
            "call": [call.module, call.function, call.arguments],
            "cwd": str(folder),
            "env": {**self._env, "RECGRAPH_HOME": str(folder / "home"), **(env or {})},
            "orders": str(files),
            "output": str(files.with_suffix(".output")),
            "error": str(files.with_suffix(".error")),
            "file_limit": file_limit,
            "dies_of_it": dies_of_it,
            "disk": disk and {"pid": disk.pid, "own_user": disk.own_user},
        }
        return Child(self._forks, self._forks.ask(request), files)

    def run(self, call: Call, folder: Path, harm: Harm = COUNT, at: int = 0, **more: Any) -> Done:
        """Run a child to its end, see :meth:`start`."""
        return self.start(call, folder, harm, at, **more).end()
