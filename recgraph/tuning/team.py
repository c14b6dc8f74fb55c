"""A team of worker processes: started, replaced when they die, and asked to stop."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from recgraph.tuning.plan import Plan
from recgraph.tuning.trials import Trials
from recgraph.tuning.worker import DONE, INTERRUPTED

__all__ = ["Team", "WorkerFailed"]

_POLL = 0.1
#: deaths of workers in a row, without a finished trial in between, after which no more are started
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


class Team:
    """Worker processes on one study.

    Args:
        plan: what is tuned; it has a folder.
        trials: of the study, for replacing those of workers that die.
        split: folder of the split without its test part.
        size: how many workers.
    """

    def __init__(self, plan: Plan, trials: Trials, split: Path, size: int) -> None:
        assert plan.folder is not None
        self._plan, self._trials, self._split, self._size = plan, trials, split, size
        self._folder = plan.folder / "workers"
        self._workers: list[_Worker] = []
        # teams of several machines draw different trials; a team on a file draws the same when it is started again
        shared = trials.storage.url.startswith("postgres")
        self._place = f"{platform.node()}:{os.getpid()}" if shared else "team"
        self._deaths = self._finished = 0

    def run(self) -> None:
        """Work until the study is done.

        Raises:
            KeyboardInterrupt: every worker has saved its training and given its trial back.
            WorkerFailed: names the error and the log.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            for _ in range(self._size):
                self._workers.append(self._start())
            while self._workers:
                for worker in [*self._workers]:
                    if worker.process.poll() is not None:
                        self._ended(worker)
                time.sleep(_POLL)
        finally:
            self._stop()

    def _start(self) -> _Worker:
        taken = {worker.name for worker in self._workers}
        name = next(f"{number}" for number in range(self._size) if f"{number}" not in taken)
        trouble = self._folder / f"{name}.trouble"
        trouble.unlink(missing_ok=True)
        log = (self._folder / f"{name}.log").open("ab")
        threads = str(max(1, (os.cpu_count() or 1) // self._size))
        # a group of its own: Ctrl-C reaches the team alone, which passes it on once
        process = subprocess.Popen(
            [sys.executable, "-m", "recgraph.tuning.worker"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={"OMP_NUM_THREADS": threads, **os.environ},
            start_new_session=True,
        )
        assert process.stdin is not None
        orders: dict[str, Any] = {
            "plan": self._plan.to_dict(),
            "storage": self._trials.storage.url,  # may hold a password: not on the command line, not on disk
            "split": str(self._split),
            "name": f"{self._place}/{name}",
            "trouble": str(trouble),
            "parent": os.getpid(),
        }
        try:
            process.stdin.write(json.dumps(orders).encode())
            process.stdin.close()
        except BrokenPipeError:  # it died at once; its exit code says how
            pass
        return _Worker(name, process, trouble, log)

    def _ended(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.log.close()
        code = worker.process.returncode
        if code == DONE:
            return
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code > 0:
            said = worker.trouble.read_text(encoding="utf-8") if worker.trouble.exists() else f"exit code {code}"
            raise WorkerFailed(f"worker {worker.name} failed: {said}; see {worker.log.name}")
        self._trials.reap()
        finished = self._trials.counts().finished
        self._deaths = self._deaths + 1 if finished == self._finished else 1
        self._finished = finished
        if self._deaths > _MOST_DEATHS:
            name = signal.Signals(-code).name
            raise WorkerFailed(f"workers die ({name}) and no trial is finished; see {worker.log.name}")
        if finished < self._plan.n_trials:
            self._workers.append(self._start())

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
            if self._workers:
                self._trials.reap()
            self._workers.clear()
