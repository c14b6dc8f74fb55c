"""A pool of worker processes on the machines of a Ray cluster.

Each task is a Ray task that runs :class:`recgraph.workers.pool.Pool` for it where it is placed: the worker is the same
process, with the same orders, and ends in the same ways. What it works on lies in a folder that the machines share.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from recgraph import imports
from recgraph.config import ConfigError
from recgraph.parallel import Engine, connected
from recgraph.workers.pool import TO_SAVE, Outcome, Pool, Task, WorkerPool

__all__ = ["RayPool", "pool_on", "workers_on"]

_POLL = 0.2
#: seconds between two requests to end: Ray may miss one while a task is being set up
_AGAIN = 2.0
#: seconds that a task may take, beyond those that its worker has to save, until it has said that it was cancelled
_TO_CANCEL = 15.0


def workers_on(engine: Engine | None, workers: int | None) -> int:
    """How many worker processes are wanted at a time: as given, else as many as an engine has, else 1.

    Raises:
        ValueError: below 1.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers = {workers} must be at least 1")
    return workers or (1 if engine is None else engine.size)


def pool_on(engine: Engine | None, module: str, size: int, threads: int, deadline: float | None = None) -> WorkerPool:
    """The pool of an engine: of this machine, unless it is Ray; see :class:`recgraph.workers.pool.WorkerPool`."""
    if engine is not None and engine.name != "local":
        return RayPool(engine, module, size, threads, deadline)
    return Pool(module, size, threads, deadline)


@dataclass(frozen=True)
class _Place:
    """What a worker needs of the process that gave its orders: where that is, and what it has imported."""

    folder: str
    environment: Mapping[str, str]
    own: Sequence[str]

    @classmethod
    def here(cls) -> _Place:
        ours = {name: value for name, value in os.environ.items() if name.startswith("RECGRAPH_")}
        return cls(str(Path.cwd()), ours, imports.orders())


class RayPool(WorkerPool):
    """Worker processes on a cluster. A task whose machine is lost is one whose worker was killed.

    Args:
        engine: the cluster.
        module, size, threads, deadline: see :class:`recgraph.workers.pool.WorkerPool`; each task reserves ``threads``
            cores.
    """

    def __init__(self, engine: Engine, module: str, size: int, threads: int, deadline: float | None = None) -> None:
        super().__init__(module, size, threads, deadline)
        self._engine = engine
        self._running: dict[Any, Task] = {}
        self._cancelled = 0.0

    @contextmanager
    def _working(self) -> Iterator[None]:
        self._ray, self._place = connected(self._engine), _Place.here()
        self._submit = _starter(self._engine, self._threads)
        with _Interrupts() as self._interrupts:
            try:
                yield
            finally:
                self._stop()

    def _is_over(self) -> bool:
        if self._interrupts.count:
            raise KeyboardInterrupt
        return super()._is_over()

    def _n_running(self) -> int:
        return len(self._running)

    def _start(self, task: Task) -> None:
        self._running[self._submit(self._place, self._module, task, self._threads)] = task

    def _ended(self) -> Iterator[tuple[Task, Outcome]]:
        if self._is_over():
            self._cancel()
        if self._running:
            for done in self._wait(1):
                yield self._running.pop(done), _outcome(self._ray, done)

    def _wait(self, n: int) -> list[Any]:
        """Wait a moment until ``n`` have ended; those that have."""
        ended: list[Any] = self._ray.wait([*self._running], num_returns=n, timeout=_POLL)[0]
        return ended

    def _cancel(self) -> None:
        """Ask what runs to end, if that was not asked just now."""
        if time.monotonic() - self._cancelled > _AGAIN:
            self._cancelled = time.monotonic()
            for running in self._running:
                self._ray.cancel(running)

    def _stop(self) -> None:
        """Interrupt what still runs and wait until it has saved; a second Ctrl-C ends it at once."""
        before, until = self._interrupts.count, time.monotonic() + TO_SAVE + _TO_CANCEL
        while self._running and time.monotonic() < until and self._interrupts.count <= before:
            self._cancel()
            for done in self._wait(len(self._running)):
                del self._running[done]
        for left in self._running:  # its worker sees that it is alone, saves and ends
            self._ray.cancel(left, force=True)
        self._running.clear()


class _Interrupts:
    """Counts Ctrl-C within its block: an exception would be lost where Ray's own code is at work.

    In a thread that gets no signals it counts nothing.
    """

    count = 0

    def __enter__(self) -> Self:
        self._is_main = threading.current_thread() is threading.main_thread()
        if self._is_main:
            self._before = signal.signal(signal.SIGINT, self._add)
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        if self._is_main:
            signal.signal(signal.SIGINT, self._before)

    def _add(self, *_: object) -> None:
        self.count += 1


def _starter(engine: Engine, threads: int) -> Any:
    """A function that starts :func:`_work` on the cluster and returns its reference."""
    ray = connected(engine)
    memory = {} if engine.memory_mib is None else {"memory": engine.memory_mib * 2**20}
    task = ray.remote(_task(__name__, "_work")).options(num_cpus=threads, max_retries=0, **memory)
    # within a list the arguments are not unpacked before the task has begun
    return lambda *arguments: task.remote([ray.put(arguments)])


def _deaths(ray: Any) -> tuple[type[Exception], ...]:
    """The errors that say nothing about the task: its worker, machine or input is gone."""
    names = ("WorkerCrashedError", "OutOfMemoryError", "NodeDiedError", "LocalRayletDiedError", "ObjectLostError")
    return tuple(getattr(ray.exceptions, name) for name in names if hasattr(ray.exceptions, name))


def _task(module: str, name: str) -> Any:
    """A Ray task, pickled by value, that calls a function of a module; an interrupt ends its process."""

    def task(arguments: list[Any]) -> Any:
        import importlib
        import os

        import ray

        try:
            return getattr(importlib.import_module(module), name)(*ray.get(arguments[0]))
        except KeyboardInterrupt:
            os._exit(1)

    return task


def _outcome(ray: Any, done: Any) -> Outcome:
    try:
        outcome: Outcome = ray.get(done)
        return outcome
    except ray.exceptions.TaskCancelledError:
        return Outcome("interrupted")
    except _deaths(ray) as error:
        return Outcome("killed", f"the process of its Ray worker ended ({type(error).__name__})")
    except ray.exceptions.RayTaskError as error:
        return Outcome("failed", f"{type(error.cause).__name__}: {error.cause}")


class _Stoppable(Pool):
    """A pool that also ends in order where it is asked to."""

    is_asked = False

    def ask(self, *_: object) -> None:
        self.is_asked = True

    def _is_over(self) -> bool:
        return self.is_asked or super()._is_over()


def _work(place: _Place, module: str, task: Task, threads: int) -> Outcome:
    """One task, where Ray has placed it."""
    # without an outcome it was ended before it had begun
    outcomes = [Outcome("interrupted")]

    def ended(_: Task, outcome: Outcome) -> bool:
        outcomes.append(outcome)
        return False

    os.environ.update(place.environment)
    pool = _Stoppable(module, 1, threads, own=place.own)
    # relative paths of the orders count from there, as they do in a worker of the same machine
    there = chdir(place.folder) if Path(place.folder).is_dir() else nullcontext()
    # Ray ends a task by this signal, at any line
    before = signal.signal(signal.SIGINT, pool.ask)
    try:
        with there:
            pool.run([task], ended)
    finally:
        signal.signal(signal.SIGINT, before)
    return outcomes[-1]
