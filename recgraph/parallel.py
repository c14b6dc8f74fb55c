"""Independent pieces of work: in this process, in processes of this machine (joblib's loky), or on
a Ray cluster.

The same call gives the same results in all three. What is pickled is the value and the result of
each piece and, once for each worker, what all pieces share. Ray is imported here alone.
"""

from __future__ import annotations

import logging
import os
import pickle
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Generic, TypeVar, cast
from weakref import WeakKeyDictionary

import cloudpickle
import torch
from pydantic import Field

from recgraph import registry
from recgraph.config import Config

T = TypeVar("T")
R = TypeVar("R")
_log = logging.getLogger(__name__)


class TaskFailed(RuntimeError):
    """A piece ended with an error, or its workers died each time that it was tried; the message
    names the piece.
    """


@dataclass(frozen=True)
class Piece(Generic[T]):
    """One task: its name for messages, e.g. ``"rows 0 to 4,095"``, and what the function gets."""

    name: str
    value: T


class Engine(Config):
    """Where pieces run. Machines of a cluster need recgraph and the files that pieces read at the
    same paths.
    """

    name: str = Field(
        "local",
        pattern="^(local|ray|ray://.+)$",
        description="local; ray: of RAY_ADDRESS or new; ray://HOST:10001",
    )
    workers: int | None = Field(
        None, ge=1, description="pieces at a time; none: 1, or the cores of the cluster"
    )
    threads: int = Field(1, ge=1, description="cores of a worker")
    retries: int = Field(3, ge=0, description="how often a piece is done again whose worker died")

    @property
    def size(self) -> int:
        """How many pieces it works on at a time."""
        if self.workers is not None:
            return self.workers
        if self.name == "local":
            return 1
        return max(1, int(_connected(self).cluster_resources().get("CPU", 1)) // self.threads)


@dataclass
class _Attempt:
    """A piece that a worker has begun, its place among all and how often its worker has died."""

    number: int
    piece: Piece[Any]
    deaths: int = 0


def map(
    function: Callable[[Any, T], R],
    pieces: Iterable[Piece[T]],
    shared: Any = None,
    engine: Engine | None = None,
    ordered: bool = True,
) -> Iterator[R]:
    """``function(shared, piece.value)`` of each piece, in their order or as they come; in this
    process by default.

    Pieces are read as they are needed. One may be begun several times, where workers die, and its
    result is given once: a function, of a module that other processes can import, returns what it
    has found, or writes files that take their place whole, and leaves what is shared as it is. An
    error is a TaskFailed that names the piece, or a ValueError of the function with a note that
    does.
    """
    if engine is None or (engine.name == "local" and engine.size == 1):
        for piece in pieces:
            yield _do(function, shared, piece)
        return
    begin = _processes if engine.name == "local" else _cluster
    size = engine.size
    numbered = enumerate(pieces)
    running: dict[Future[bytes], _Attempt] = {}
    # results by their turn: the number of the piece, or of the result as they come
    results: dict[int, bytes] = {}
    turns = count()
    next_turn = 0
    with begin(engine, _pack(function, shared, engine.threads)) as submit:
        while True:
            # results that wait for an earlier one take room, too
            room = min(size, 2 * size - len(results)) - len(running)
            for number, piece in islice(numbered, max(0, room)):
                running[submit(piece)] = _Attempt(number, piece)
            if not running:
                return
            for number, result in _ended(running, submit, engine.retries):
                results[number if ordered else next(turns)] = result
            while next_turn in results:
                value, error = pickle.loads(results.pop(next_turn))
                if error is not None:
                    raise error
                yield value
                next_turn += 1


def _pack(function: Callable[[Any, T], R], shared: Any, threads: int) -> bytes:
    """What each worker reads once, see :func:`_run`."""
    settings = {name: value for name, value in os.environ.items() if name.startswith("RECGRAPH_")}
    # its own pickle, read after the files of the user's own are imported
    work = cloudpickle.dumps((function, shared))
    return cast(
        bytes, cloudpickle.dumps((threads, os.getcwd(), settings, registry.to_import(), work))
    )


def _ended(
    running: dict[Future[bytes], _Attempt],
    submit: Callable[[Piece[Any]], Future[bytes]],
    retries: int,
) -> list[tuple[int, bytes]]:
    """Wait for pieces -> number and result of those that have ended; those whose worker has died
    begin anew."""
    results = []
    dead = []  # a worker that dies takes others with it
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        attempt = running.pop(future)
        try:
            results.append((attempt.number, future.result()))
        except Exception as error:  # loky's and Ray's: the function's own are results
            dead.append((attempt, error))
    for attempt, death in dead:
        if attempt.deaths >= retries:
            names = " or ".join(other.piece.name for other, _ in dead)
            raise TaskFailed(
                f"task {names}: the worker died ({type(death).__name__}); the machine may have run "
                "out of memory: take smaller pieces or fewer workers"
            ) from death
        _log.warning(
            "task %s: a worker died (%s); done again", attempt.piece.name, type(death).__name__
        )
        attempt.deaths += 1
        running[submit(attempt.piece)] = attempt
    return results


@contextmanager
def _processes(engine: Engine, common: bytes) -> Iterator[Callable[[Piece[Any]], Future[bytes]]]:
    """Processes of this machine; they are killed where this ends early."""
    from joblib.externals.loky import get_reusable_executor

    # asked for each time: there is another one after a worker died
    pool = partial(get_reusable_executor, engine.size, env={"OMP_NUM_THREADS": str(engine.threads)})
    with TemporaryDirectory(prefix="recgraph-") as folder:
        file = Path(folder, uuid.uuid4().hex)
        file.write_bytes(common)
        try:
            yield lambda piece: pool().submit(_run, file.name, file, cloudpickle.dumps(piece))
        except BaseException:
            pool().shutdown(kill_workers=True)
            raise


@contextmanager
def _cluster(engine: Engine, common: bytes) -> Iterator[Callable[[Piece[Any]], Future[bytes]]]:
    """Tasks of Ray; they are cancelled where this ends early."""
    ray = _connected(engine)
    task = ray.remote(_run).options(num_cpus=engine.threads, max_retries=0)  # :func:`map` does it
    token = uuid.uuid4().hex
    there = ray.put(common)
    references: WeakKeyDictionary[Future[bytes], Any] = WeakKeyDictionary()

    def submit(piece: Piece[Any]) -> Future[bytes]:
        reference = task.remote(token, there, cloudpickle.dumps(piece))
        future: Future[bytes] = reference.future()
        references[future] = reference
        return future

    try:
        yield submit
    except BaseException:
        tasks = [*references.values()]
        for reference in tasks:
            ray.cancel(reference, force=True)
        if tasks:  # none still writes when the caller clears up
            ray.wait(tasks, num_returns=len(tasks), timeout=60)
        raise


def _connected(engine: Engine) -> Any:
    """The package ``ray``, connected to the engine's cluster."""
    # nothing that is started from here reports to anybody
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ImportError("engine 'ray' needs Ray: pip install 'recgraph[ray]'") from error
    if not ray.is_initialized():
        address = None if engine.name == "ray" else engine.name
        ray.init(
            address=address, include_dashboard=False, log_to_driver=False, configure_logging=False
        )
    # its thread prints what raylet says of dead workers to standard output, which is ours
    ray._private.worker.print_to_stdstream = lambda data, **_: _log.warning(
        "Ray: %s", "\n".join(data["lines"])
    )
    return ray


#: in a worker: the function and what the pieces share, of the last map, by its token
_shared: dict[str, tuple[Callable[[Any, Any], Any], Any]] = {}


def _run(token: str, common: bytes | Path, piece: bytes) -> bytes:
    """One piece, in a worker: its result or its error."""
    answer: tuple[Any, Exception | None]
    try:
        function, shared = _shared_of(token, common)
        answer = (_do(function, shared, pickle.loads(piece)), None)
    except Exception as error:
        answer = (None, error)
    return cast(bytes, cloudpickle.dumps(answer))


def _shared_of(token: str, common: bytes | Path) -> tuple[Callable[[Any, Any], Any], Any]:
    """What :func:`_pack` has packed, read at a worker's first piece, which it prepares."""
    if token not in _shared:
        _shared.clear()
        content = common.read_bytes() if isinstance(common, Path) else common
        threads, folder, settings, own_files, work = pickle.loads(content)
        torch.set_num_threads(threads)
        with suppress(OSError):  # a machine of a cluster may lack the folder
            os.chdir(folder)
        os.environ.update(settings)
        registry.import_all(own_files)
        # the caller has warned of what all find
        logging.getLogger("recgraph").addHandler(logging.NullHandler())
        _shared[token] = pickle.loads(work)
    return _shared[token]


def _do(function: Callable[[Any, T], R], shared: Any, piece: Piece[T]) -> R:
    """A piece's result; an error names the piece."""
    try:
        return function(shared, piece.value)
    except ValueError as error:
        error.add_note(f"in the task {piece.name}")
        raise
    except Exception as error:
        raise TaskFailed(f"task {piece.name}: {type(error).__name__}: {error}") from error
