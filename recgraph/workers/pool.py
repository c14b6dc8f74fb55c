"""Pools of worker processes, that of this machine, and the main function of a worker.

A worker is ``python -m MODULE``, whose main function is :func:`run_worker`. It reads its orders from stdin as one JSON
object and writes to its log alone. It ends in order (``KeyboardInterrupt``, so that a training is saved) when it gets
SIGINT, and when the process that started it is gone. Its log records reach that process, see
:mod:`recgraph.workers.records`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

from recgraph import imports
from recgraph.files import write_text
from recgraph.workers.records import Inbox, log_in_worker

__all__ = [
    "BUSY",
    "DONE",
    "FAILED",
    "INTERRUPTED",
    "TO_SAVE",
    "Outcome",
    "Pool",
    "Task",
    "WorkerPool",
    "run_worker",
]

#: exit codes of a worker
DONE, FAILED, BUSY, INTERRUPTED = 0, 1, 75, 130
#: seconds between two looks at the workers, and between two looks of a worker at its parent
_POLL, _POLL_PARENT = 0.05, 0.5
#: seconds that a worker has to save its training when it is interrupted
TO_SAVE = 60.0


@dataclass(frozen=True)
class Task:
    """What one worker is to do.

    Attributes:
        name: for messages.
        orders: plain values for its stdin; they may hold a password, so that they are neither on the command line nor
            on disk.
        log: the file that gets its output; what was there stays.
        seconds: the most that it may take, or None.
        waits: whether it waits for another process that works on the same, or ends as ``"busy"``; in the worker's
            orders, too. The pool sets it where no other task is free.
    """

    name: str
    orders: Mapping[str, Any]
    log: Path
    seconds: float | None = None
    waits: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a worker ended.

    Attributes:
        status: ``"done"``; ``"failed"``, with an error; ``"killed"``, by a signal; ``"interrupted"``, by a signal or at
            the pool's deadline; ``"late"``, interrupted when its task's seconds were over; ``"busy"``: another process
            works on it.
        message: what failed or killed it, else empty.
    """

    status: Literal["done", "failed", "killed", "interrupted", "late", "busy"]
    message: str = ""


@dataclass
class _Worker:
    task: Task
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    records: Inbox
    ends: float | None
    interrupted: Literal["", "interrupted", "late"] = ""

    def close(self) -> None:
        self.log.close()
        self.records.close()


class WorkerPool(ABC):
    """Worker processes that do tasks; a subclass says where they run.

    Args:
        module: that a worker runs.
        size: how many workers at a time.
        threads: of a worker.
        deadline: the time (``time.monotonic``) at which running workers are interrupted and no more are started.
    """

    def __init__(self, module: str, size: int, threads: int, deadline: float | None = None) -> None:
        self._module, self._size, self._threads, self._deadline = module, size, threads, deadline

    def run(
        self,
        tasks: Sequence[Task],
        on_end: Callable[[Task, Outcome], bool],
        on_start: Callable[[Task], bool | None] | None = None,
        is_free: Callable[[Task], bool] = lambda _: True,
    ) -> None:
        """Do all tasks in order, each in a process of its own, until none is left or the deadline has passed.

        However this ends, no worker is left: those that run are interrupted and waited for.

        Args:
            tasks: to do.
            on_end: called when a worker has ended; returns whether its task is to be done again, before all others.
            on_start: called before a worker is started; one that returns False leaves the task out.
            is_free: whether no other process works on a task; tasks that are not free are started last, and wait.

        Raises:
            KeyboardInterrupt: every worker has saved its training.
            Exception: whatever ``on_end`` raises.
        """
        waiting = list(tasks)
        with self._working():
            while waiting or self._n_running():
                if self._is_over():
                    waiting.clear()
                while waiting and self._n_running() < self._size:
                    place = next((place for place, task in enumerate(waiting) if is_free(task)), None)
                    task = waiting.pop(place or 0)
                    if place is None:
                        task = replace(task, waits=True)
                    if on_start is None or on_start(task) is not False:
                        self._start(task)
                for task, outcome in self._ended():
                    if on_end(task, outcome):
                        waiting.insert(0, task)

    def _is_over(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    @abstractmethod
    def _working(self) -> AbstractContextManager[None]:
        """Within the block workers may be started; at its end those that still run are interrupted and waited for."""

    @abstractmethod
    def _n_running(self) -> int:
        """How many workers run."""

    @abstractmethod
    def _start(self, task: Task) -> None:
        """Start a worker."""

    @abstractmethod
    def _ended(self) -> Iterator[tuple[Task, Outcome]]:
        """Look at the workers once: those that have ended, which no longer count as running. Then wait a moment."""


class Pool(WorkerPool):
    """Worker processes of this machine.

    Args:
        module, size, deadline: see :class:`WorkerPool`.
        threads: of a worker, unless ``OMP_NUM_THREADS`` is set.
        own: what workers import, see :func:`recgraph.imports.orders`; None: what this process has imported.
    """

    def __init__(
        self,
        module: str,
        size: int,
        threads: int,
        deadline: float | None = None,
        own: Sequence[str] | None = None,
    ) -> None:
        super().__init__(module, size, threads, deadline)
        self._own = own
        self._workers: list[_Worker] = []

    @contextmanager
    def _working(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._stop()

    def _n_running(self) -> int:
        return len(self._workers)

    def _ended(self) -> Iterator[tuple[Task, Outcome]]:
        for worker in [*self._workers]:
            code = worker.process.poll()
            worker.records.read()
            if code is None:
                self._enforce_limits(worker)
                continue
            self._workers.remove(worker)
            worker.close()
            yield worker.task, _outcome(worker, code)
        time.sleep(_POLL)

    def _start(self, task: Task) -> None:
        task.log.parent.mkdir(parents=True, exist_ok=True)
        error = _error_file(task)
        error.unlink(missing_ok=True)
        log, records = task.log.open("ab"), Inbox(task.name)
        process = subprocess.Popen(
            [sys.executable, "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={"OMP_NUM_THREADS": f"{self._threads}", **os.environ},
            pass_fds=(records.fileno(),),
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on once
        )
        assert process.stdin is not None
        try:
            own = imports.orders() if self._own is None else self._own
            more = {"parent": os.getpid(), "error": str(error), "records": records.orders(), "own": own}
            process.stdin.write(json.dumps({**task.orders, **more, "waits": task.waits}).encode())
            process.stdin.close()
        except BrokenPipeError:  # it died at once; its exit code says how
            pass
        ends = None if task.seconds is None else time.monotonic() + task.seconds
        self._workers.append(_Worker(task, process, log, records, ends))

    def _enforce_limits(self, worker: _Worker) -> None:
        """Interrupt a worker whose time is over, and kill it when the time to save is over, too."""
        now = time.monotonic()
        is_late = worker.ends is not None and now >= worker.ends
        if worker.interrupted:
            if is_late:
                worker.process.kill()
        elif is_late or self._is_over():
            worker.interrupted = "interrupted" if self._is_over() else "late"
            worker.ends = now + TO_SAVE
            worker.process.send_signal(signal.SIGINT)

    def _stop(self) -> None:
        """Interrupt the workers that still run, and wait until they have saved; a second Ctrl-C ends them at once."""
        for worker in self._workers:
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGINT)
        try:
            until = time.monotonic() + TO_SAVE
            for worker in self._workers:
                worker.process.wait(max(0.1, until - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            for worker in self._workers:
                worker.process.kill()
                worker.process.wait()
        finally:
            for worker in self._workers:
                worker.close()
            self._workers.clear()


def _error_file(task: Task) -> Path:
    return task.log.with_suffix(".error")


def _outcome(worker: _Worker, code: int) -> Outcome:
    if code == DONE:
        return Outcome("done")
    if worker.interrupted:
        return Outcome(worker.interrupted)
    if code == INTERRUPTED:
        return Outcome("interrupted")
    if code == BUSY:
        return Outcome("busy")
    if code < 0:
        name = signal.Signals(-code).name
        why = "; the machine may have run out of memory" if name == "SIGKILL" else ""
        return Outcome("killed", f"the process was ended by {name}{why}")
    error = _error_file(worker.task)
    exit_code = f"the process ended with exit code {code}"
    return Outcome("failed", error.read_text(encoding="utf-8") if error.exists() else exit_code)


def run_worker(work: Callable[[dict[str, Any]], int]) -> int:
    """The main function of a worker: do what its orders say.

    Args:
        work: does it and returns the exit code; an exception that it raises is a failure.

    Returns:
        The exit code of the process.
    """
    orders: dict[str, Any] = json.load(sys.stdin)
    try:
        # it is ignored where a shell has started the command in the background, and blocked where Ray has
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        log_in_worker(orders.get("records"))
        threading.Thread(target=_end_with, args=(orders["parent"],), name="parent", daemon=True).start()
        imports.follow(orders["own"])
        return work(orders)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        traceback.print_exc()
        write_text(f"{type(error).__name__}: {error}", Path(orders["error"]))
        return FAILED


def _end_with(parent: int) -> None:
    """Interrupt this process once its parent is gone, so that it saves its training and ends."""
    while os.getppid() == parent:
        time.sleep(_POLL_PARENT)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(TO_SAVE)
    os._exit(INTERRUPTED)
