"""Worker processes, each with one job: started, watched over, ended when their time is up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from recgraph.leaderboard.plan import Job
from recgraph.leaderboard.store import Store
from recgraph.leaderboard.worker import DONE, FAILED, INTERRUPTED, failure

__all__ = ["Pool", "Task"]

_POLL = 0.05
#: seconds that a worker has to save its training when it is interrupted
_TO_SAVE = 60.0


@dataclass(frozen=True)
class Task:
    """A job with all that a worker has to know.

    Attributes:
        name: shown.
        budget: the most seconds that it may take, or None.
        values: it is done only where its values of users are at hand.
    """

    name: str
    job: Job
    store: Store
    data_hash: str
    budget: float | None = None
    values: bool = False


@dataclass
class _Worker:
    task: Task
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    ends: float | None
    late: bool = False


class Pool:
    """Processes that do tasks.

    Args:
        size: how many at a time.
        device: where they compute.
        until: the time (``time.monotonic``) at which all are to end, or None.
        told: called with a task and how it ended: ``"done"``, ``"failed"``, ``"stopped"``.
    """

    def __init__(self, size: int, device: str | None, until: float | None, told: Callable[[Task, str], None]) -> None:
        self._size, self._device, self._until, self._told = size, device, until, told
        self._workers: list[_Worker] = []

    def run(self, tasks: Sequence[Task]) -> None:
        """Do all tasks, in order, as far as the time goes.

        Raises:
            KeyboardInterrupt: every worker has saved its training.
        """
        waiting = list(tasks)
        try:
            while waiting or self._workers:
                while waiting and len(self._workers) < self._size and not self._is_over():
                    self._workers.append(self._start(waiting.pop(0)))
                if self._is_over():
                    waiting = []
                for worker in [*self._workers]:
                    self._look_after(worker)
                time.sleep(_POLL)
        finally:
            self._stop()

    def _is_over(self) -> bool:
        return self._until is not None and time.monotonic() >= self._until

    def _start(self, task: Task) -> _Worker:
        work = task.store.work(task.job)
        work.mkdir(parents=True, exist_ok=True)
        log = (work / "log.txt").open("ab")
        # one thread, however many workers: the number of threads may alter last digits
        process = subprocess.Popen(
            [sys.executable, "-m", "recgraph.leaderboard.worker"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={"OMP_NUM_THREADS": "1", **os.environ},
            start_new_session=True,  # Ctrl-C reaches us alone, and we pass it on once
        )
        orders = {
            "job": task.job.to_dict(),
            "folder": str(task.store.folder.resolve()),
            "data_hash": task.data_hash,
            "values": task.values,
            "device": self._device,
            "parent": os.getpid(),
        }
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(orders).encode())
            process.stdin.close()
        except BrokenPipeError:  # it died at once; its exit code says how
            pass
        ends = time.monotonic() + task.budget if task.budget is not None else None
        return _Worker(task, process, log, ends)

    def _look_after(self, worker: _Worker) -> None:
        code = worker.process.poll()
        if code is not None:
            self._workers.remove(worker)
            worker.log.close()
            self._ended(worker, code)
        elif not worker.late and (self._is_over() or (worker.ends is not None and time.monotonic() >= worker.ends)):
            worker.late, worker.ends = True, time.monotonic() + _TO_SAVE
            worker.process.send_signal(signal.SIGINT)
        elif worker.late and worker.ends is not None and time.monotonic() >= worker.ends:
            worker.process.kill()

    def _ended(self, worker: _Worker, code: int) -> None:
        task = worker.task
        if code == DONE:
            self._told(task, "done")
        elif worker.late and not self._is_over() and task.budget is not None:
            hours = f"{task.budget / 3600:.3g}"
            message = f"not done after {hours} hours, the board's budget_hours of one training"
            self._told(task, _failed(task, "BudgetExceeded", message))
        elif code == INTERRUPTED or worker.late:
            self._told(task, "stopped")
        elif code == FAILED and task.store.failure(task.job) is not None:
            self._told(task, "failed")
        else:
            self._told(task, _failed(task, *_death(code), _end_of(task.store.work(task.job) / "log.txt")))

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


def _failed(task: Task, error: str, message: str, trace: str = "") -> str:
    """Keep how a worker failed, and say how its task ended: of another runner the job may be done, or under way."""
    store, job = task.store, task.job
    try:
        with store.alone(job, wait=False):
            if store.is_done(job, task.data_hash, task.values):
                return "done"
            # one that was killed goes on from its last checkpoint
            store.put_failure(job, failure(job, error, message, trace), tidy=error != "WorkerKilled")
    except BlockingIOError:
        return "stopped"
    return "failed"


def _death(code: int) -> tuple[str, str]:
    if code >= 0:
        return "WorkerFailed", f"the process ended with exit code {code}"
    name = signal.Signals(-code).name
    why = "; the machine may have run out of memory" if name == "SIGKILL" else ""
    return "WorkerKilled", f"the process was ended by {name}{why}"


def _end_of(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-4000:] if log.exists() else ""
