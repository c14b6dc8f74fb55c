"""Worker processes of one study: started with their orders, watched, and asked to stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from recgraph.tuning.plan import Plan
from recgraph.tuning.worker import DONE, INTERRUPTED

__all__ = ["POLL", "Crew", "WorkerFailed"]

#: seconds between two looks at the workers
POLL = 0.1
#: deaths of workers in a row, without anything done in between, after which no more are started
_MOST_DEATHS = 6
#: seconds that a worker has to save its training when it is interrupted
_TO_SAVE = 60.0


class WorkerFailed(RuntimeError):
    """A worker ended with an error, or workers die without getting anything done."""


@dataclass
class _Worker:
    name: str
    process: subprocess.Popen[bytes]
    trouble: Path
    log: IO[bytes]


class Crew:
    """Base of those who have work done by processes.

    Args:
        plan: of the study; it has a folder.
        split: folder of the split without its test part.
        size: how many processes at most.
    """

    def __init__(self, plan: Plan, split: Path, size: int) -> None:
        assert plan.folder is not None
        self._plan, self._split, self._size = plan, split, size
        self._folder = plan.folder / "workers"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._workers: list[_Worker] = []
        self._deaths = self._done = 0

    def _start(self, name: str, /, **orders: Any) -> None:
        """Start a worker.

        Args:
            name: of its log.
            orders: what it is to do.
        """
        trouble = self._folder / f"{name}.trouble"
        trouble.unlink(missing_ok=True)
        log = (self._folder / f"{name}.log").open("ab")
        threads = str(max(1, (os.cpu_count() or 1) // self._size))
        # a group of its own: Ctrl-C reaches the command alone, which passes it on once
        process = subprocess.Popen(
            [sys.executable, "-m", "recgraph.tuning.worker"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={"OMP_NUM_THREADS": threads, **os.environ},
            start_new_session=True,
        )
        assert process.stdin is not None
        told: dict[str, Any] = {
            "plan": self._plan.to_dict(),
            "split": str(self._split),
            "trouble": str(trouble),
            "parent": os.getpid(),
            **orders,
        }
        try:
            process.stdin.write(json.dumps(told).encode())
            process.stdin.close()
        except BrokenPipeError:  # it died at once; its exit code says how
            pass
        self._workers.append(_Worker(name, process, trouble, log))

    def _ended(self) -> list[tuple[str, bool]]:
        """Those that have ended since the last time: their names, and whether they did what they were to do.

        Raises:
            KeyboardInterrupt: one was interrupted.
            WorkerFailed: one ended with an error.
        """
        found = []
        for worker in [*self._workers]:
            code = worker.process.poll()
            if code is None:
                continue
            self._workers.remove(worker)
            worker.log.close()
            if code == INTERRUPTED:
                raise KeyboardInterrupt
            if code > DONE:
                said = worker.trouble.read_text(encoding="utf-8") if worker.trouble.exists() else f"exit code {code}"
                raise WorkerFailed(f"worker {worker.name} failed: {said}; see {worker.log.name}")
            found.append((worker.name, code == DONE))
        return found

    def _count_death(self, name: str, done: int) -> None:
        """A worker was killed when so much was done; whoever starts it again may.

        Raises:
            WorkerFailed: that happens again and again and nothing gets done.
        """
        self._deaths = self._deaths + 1 if done == self._done else 1
        self._done = done
        if self._deaths > _MOST_DEATHS:
            raise WorkerFailed(f"workers are killed and nothing gets done; see {self._folder / name}.log")

    def _stop(self) -> None:
        """Interrupt those who still run, and wait until they have saved; a second Ctrl-C ends them at once."""
        for worker in self._workers:
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGINT)
        try:
            until = time.monotonic() + _TO_SAVE
            for worker in self._workers:
                worker.process.wait(max(0.1, until - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            for worker in self._workers:
                worker.process.kill()
                worker.process.wait()
        finally:
            for worker in self._workers:
                worker.log.close()
            self._workers.clear()
