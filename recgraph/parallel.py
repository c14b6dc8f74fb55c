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
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
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
        if self.workers is not None or self.name == "local":
            return self.workers or 1
        return max(1, int(_connected(self).cluster_resources().get("CPU", 1)) // self.threads)


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
    settings = {name: value for name, value in os.environ.items() if name.startswith("RECGRAPH_")}
    work = cloudpickle.dumps((function, shared))
    common = cloudpickle.dumps((engine.threads, os.getcwd(), settings, registry.to_import(), work))
    begin = _processes if engine.name == "local" else _cluster
    numbered, size, given = enumerate(pieces), engine.size, 0
    running: dict[Future[bytes], tuple[int, Piece[T], int]] = {}
    done: dict[int, bytes] = {}
    with begin(engine, common) as submit:
        while True:
            for number, piece in islice(
                numbered, max(0, min(size, 2 * size - len(done)) - len(running))
            ):
                running[submit(piece)] = number, piece, 0
            if not running:
                return
            dead = []  # a worker that dies takes others with it: their pieces begin anew
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number, piece, deaths = running.pop(future)
                try:
                    done[number] = future.result()
                except Exception as error:  # loky's and Ray's: the function's own are results
                    dead.append((number, piece, deaths, error))
            for number, piece, deaths, death in dead:
                if deaths >= engine.retries:
                    raise TaskFailed(
                        f"task {' or '.join(each[1].name for each in dead)}: the worker died ({type(death).__name__}); "
                        "the machine may have run out of memory: take smaller pieces or fewer workers"
                    ) from death
                _log.warning(
                    "task %s: a worker died (%s); done again", piece.name, type(death).__name__
                )
                running[submit(piece)] = number, piece, deaths + 1
            while done and (given in done or not ordered):
                result, failure = pickle.loads(done.pop(given if ordered else next(iter(done))))
                if failure is not None:
                    raise failure
                yield result
                given += 1


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
    token, there = uuid.uuid4().hex, ray.put(common)
    references: WeakKeyDictionary[Future[bytes], Any] = WeakKeyDictionary()

    def submit(piece: Piece[Any]) -> Future[bytes]:
        reference = task.remote(token, there, cloudpickle.dumps(piece))
        future: Future[bytes] = reference.future()
        references[future] = reference
        return future

    try:
        yield submit
    except BaseException:
        left = [*references.values()]
        for reference in left:
            ray.cancel(reference, force=True)
        if left:  # none still writes when the caller clears up
            ray.wait(left, num_returns=len(left), timeout=60)
        raise


def _connected(engine: Engine) -> Any:
    """The package ``ray``, connected to the engine's cluster."""
    os.environ.setdefault(
        "RAY_USAGE_STATS_ENABLED", "0"
    )  # nothing that is started from here reports to anybody
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
    try:
        if token not in _shared:
            _shared.clear()
            content = common.read_bytes() if isinstance(common, Path) else common
            threads, folder, settings, own, body = pickle.loads(content)
            torch.set_num_threads(threads)
            if Path(folder).is_dir():
                os.chdir(folder)
            os.environ.update(settings)
            registry.import_all(own)
            logging.getLogger("recgraph").addHandler(
                logging.NullHandler()
            )  # the caller has warned of what all find
            _shared[token] = pickle.loads(body)
        answer: tuple[Any, Exception | None] = (_do(*_shared[token], pickle.loads(piece)), None)
    except Exception as error:
        answer = (None, error)
    return cast(bytes, cloudpickle.dumps(answer))


def _do(function: Callable[[Any, T], R], shared: Any, piece: Piece[T]) -> R:
    """A piece's result; an error names the piece."""
    try:
        return function(shared, piece.value)
    except ValueError as error:
        error.add_note(f"in the task {piece.name}")
        raise
    except Exception as error:
        raise TaskFailed(f"task {piece.name}: {type(error).__name__}: {error}") from error
