"""Engines by name: ``"local"`` is this process, ``"ray"`` a Ray cluster (of this machine, where there is no other).

The same call runs on both: what is divided into pieces is given an :class:`recgraph.engine.Engine`; boards and studies
start their worker processes in the engine's pool (:mod:`recgraph.workers.ray_pool`).
"""

from __future__ import annotations

import io
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import Field

from recgraph import imports
from recgraph.config import Config, ConfigError
from recgraph.engine import Engine, Local, Piece, TaskFailed, failure

__all__ = ["Ray", "RayConfig", "deaths", "engine_of"]

T = TypeVar("T")
R = TypeVar("R")
_log = logging.getLogger(__name__)
_SCHEME = "ray://"
#: pieces that are begun ahead of the one whose result is wanted next, for each worker
_AHEAD = 2
#: seconds that pieces have to end when they are cancelled
_END_SECONDS = 60


class RayConfig(Config):
    """How pieces are run on a Ray cluster."""

    workers: int | None = Field(None, ge=1, description="pieces at a time; none: as many as the cluster has cores")
    threads: int = Field(1, ge=1, description="cores of each piece")
    memory_mib: int | None = Field(
        None, ge=1, description="memory that a piece reserves, so that a machine gets no more pieces than fit"
    )
    retries: int = Field(3, ge=0, description="how often a piece is done again whose worker died")


def engine_of(name: str | Engine | None = None, settings: Mapping[str, Any] | None = None) -> Engine:
    """The engine of a name; nothing is connected before it is used.

    Args:
        name: ``"local"`` or None; ``"ray"``: the cluster that the environment names (``RAY_ADDRESS``), else one that
            was started on this machine (``ray start --head``), else one that is started now and ends with this process;
            ``"ray://HOST:10001"``: that cluster. An engine stays as it is.
        settings: of :class:`RayConfig`, for ``ray``.

    Raises:
        ValueError: no such engine, or a setting that it does not have.
    """
    if name is not None and not isinstance(name, str):
        if settings:
            raise ConfigError(f"settings {sorted(settings)} given beside an engine would be ignored; set them in it")
        return name
    if name in (None, "local"):
        if settings:
            raise ConfigError(f"setting {min(settings)!r} is for engine 'ray'; the engine is 'local'")
        return Local()
    if name == "ray" or (name is not None and name.startswith(_SCHEME)):
        return Ray(None if name == "ray" else name, RayConfig.of(settings))
    raise ConfigError(f"engine = {name!r} must be 'local', 'ray' or 'ray://HOST:PORT'")


class Ray:
    """A Ray cluster; it is connected to when it is first used.

    Each machine needs recgraph at the same version and, at the same paths, the files that pieces read and the files of
    the user's own (:func:`recgraph.imports.import_file`); workers import these as other worker processes do.

    Args:
        address: as ``ray.init`` takes it; None: see :func:`engine_of`.
        config: how pieces are run.
    """

    def __init__(self, address: str | None = None, config: RayConfig | None = None) -> None:
        self._address, self.config = address, config or RayConfig()

    def __repr__(self) -> str:
        return f"Ray({self._address or 'auto'!r}, {self.config})"

    @property
    def size(self) -> int:
        """How many pieces it works on at a time: as set, else by the cores of the cluster."""
        if self.config.workers is not None:
            return self.config.workers
        cores = self.connected().cluster_resources().get("CPU", 1)
        return max(1, int(cores) // self.config.threads)

    def connected(self) -> Any:
        """The package ``ray``, connected.

        Raises:
            ImportError: it is not installed.
            ConnectionError: the cluster is not there.
        """
        # nothing that is started from here reports to anybody
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise ImportError("engine 'ray' needs Ray: pip install 'recgraph[ray]'") from error
        if not ray.is_initialized():
            try:
                ray.init(
                    address=self._address,
                    include_dashboard=False,
                    log_to_driver=False,
                    configure_logging=False,
                )
            except ConnectionError as error:
                address = self._address or os.environ.get("RAY_ADDRESS", "ray")
                raise ConnectionError(
                    f"engine {address!r}: the cluster does not answer ({error}); see that it runs (`ray status` "
                    "there), and that a port of ray://HOST:PORT is that of its clients, by default 10001"
                ) from error
        _register(ray)
        return ray

    def map(self, function: Callable[[Any, T], R], pieces: Iterable[Piece[T]], shared: Any = None) -> Iterator[R]:
        """See :meth:`recgraph.engine.Engine.map`. A piece whose worker dies is done again, a set number of times."""
        ray = self.connected()
        # within a list it is not unpacked before the worker has imported the user's own files
        held = [ray.put((function, shared))]
        orders = imports.orders()
        submit = self.starter(_do)
        died = deaths(ray)
        waiting, window = enumerate(pieces), self.size * _AHEAD
        running: dict[Any, int] = {}
        known: dict[int, tuple[Piece[T], int]] = {}  # number -> the piece, and how often its worker died
        results: dict[int, R] = {}
        # number -> the error of its piece, which is raised in its turn: on all engines the first one in order counts
        errors: dict[int, Exception] = {}
        given = 0

        def begin(number: int, piece: Piece[T], n_deaths: int) -> None:
            known[number] = piece, n_deaths
            running[submit(orders, held, self.config.threads, [ray.put(piece.value)])] = number

        try:
            while True:
                room = 0 if errors else max(0, window - len(running) - len(results))
                for number, piece in itertools.islice(waiting, room):
                    begin(number, piece, 0)
                if not running and not results and not errors:
                    return
                while given in results:
                    del known[given]
                    yield results.pop(given)
                    given += 1
                if given in errors:
                    raise errors[given]
                if not running:
                    continue
                for done in ray.wait([*running], num_returns=1)[0]:
                    number = running.pop(done)
                    piece, n_deaths = known[number]
                    try:
                        results[number] = ray.get(done)
                    except ray.exceptions.RayTaskError as error:
                        cause = error.cause if isinstance(error.cause, Exception) else error
                        errors[number] = failure(piece.name, cause)
                        errors[number].__cause__ = error
                    except died as error:
                        if n_deaths >= self.config.retries:
                            times = f"{n_deaths + 1} times" if n_deaths else "once"
                            errors[number] = TaskFailed(
                                f"task {piece.name}: its worker died {times} ({type(error).__name__}); the machine may "
                                "have run out of memory: take smaller pieces or fewer workers, or set memory_mib"
                            )
                            errors[number].__cause__ = error
                            continue
                        _log.warning("task %s: its worker died (%s); done again", piece.name, type(error).__name__)
                        begin(number, piece, n_deaths + 1)
        finally:
            for left in running:
                ray.cancel(left)
            if running:  # none still writes when the caller clears up
                ray.wait([*running], num_returns=len(running), timeout=_END_SECONDS)

    def starter(self, function: Callable[..., Any], threads: int | None = None) -> Callable[..., Any]:
        """A function that starts another on the cluster, with the resources that are set, and returns its reference.

        Args:
            function: of a module.
            threads: cores that it reserves; None: as set.
        """
        options: dict[str, Any] = {"num_cpus": threads or self.config.threads, "max_retries": 0}
        if self.config.memory_mib is not None:
            options["memory"] = self.config.memory_mib * 2**20
        ray = self.connected()
        task = ray.remote(_task(function.__module__, function.__name__)).options(**options)
        # within a list the arguments are not unpacked before the task has begun
        return lambda *arguments: task.remote([ray.put(arguments)])


def deaths(ray: Any) -> tuple[type[Exception], ...]:
    """The errors of a piece that say nothing about the piece: its worker, machine or input is gone."""
    names = (
        "WorkerCrashedError",
        "OutOfMemoryError",
        "NodeDiedError",
        "LocalRayletDiedError",
        "ObjectLostError",
        "TaskCancelledError",
    )
    return tuple(getattr(ray.exceptions, name) for name in names if hasattr(ray.exceptions, name))


def _task(module: str, name: str) -> Callable[[list[Any]], Any]:
    """A Ray task that calls a function of a module; a worker process that is interrupted in it exits.

    Ray cancels a task by an interrupt, which may come in the middle of an import, and a half-imported module fails
    every later task of the process. So the task, which is pickled by value, makes all imports itself, that of this
    package among them.
    """

    def task(arguments: list[Any]) -> Any:
        import importlib
        import os

        import ray

        try:
            return getattr(importlib.import_module(module), name)(*ray.get(arguments[0]))
        except KeyboardInterrupt:
            os._exit(1)

    return task


def _register(ray: Any) -> None:
    """Send tensors as arrays: a slice goes without the rest of its tensor."""
    import torch

    ray.util.register_serializer(torch.Tensor, serializer=_packed, deserializer=_unpacked)


def _packed(tensor: Any) -> Any:
    import torch

    plain = tensor.is_cpu and tensor.layout == torch.strided and not (tensor.requires_grad or tensor.is_quantized)
    if plain and tensor.dtype != torch.bfloat16 and not tensor.is_conj() and not tensor.is_neg():
        return tensor.numpy()
    content = io.BytesIO()
    torch.save(tensor.detach().clone().requires_grad_(tensor.requires_grad), content)
    return content.getvalue()


def _unpacked(content: Any) -> Any:
    import torch

    if isinstance(content, bytes):
        return torch.load(io.BytesIO(content), weights_only=True)
    # a copy: what arrives in memory that workers share cannot be written to
    return torch.from_numpy(content.copy(order="K"))


#: in a worker: the reference of what the pieces of the last map share -> what it holds, so that it is unpacked once
_shared: dict[Any, tuple[Callable[[Any, Any], Any], Any]] = {}


def _do(orders: Mapping[str, Any], held: list[Any], threads: int, value: list[Any]) -> Any:
    """One piece, in a worker."""
    import ray
    import torch

    torch.set_num_threads(threads)
    _register(ray)
    imports.follow(orders)
    if held[0] not in _shared:
        _shared.clear()
        _shared[held[0]] = ray.get(held[0])
    function, shared = _shared[held[0]]
    return function(shared, ray.get(value[0]))
