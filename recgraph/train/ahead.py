"""What a trainer does for accelerators: batches prepared ahead by a thread of the host."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recgraph.models.base import TrainableModel
from recgraph.rng import Generators
from recgraph.sparse.device import is_accelerated

# batches that wait to be asked for, while the thread makes the next
_DEPTH = 2


def on_device(model: TrainableModel, device: torch.device) -> Callable[[Any], Any]:
    """What makes a batch ready: it gets what a model draws for it on the host, and is moved to the device."""

    def prepare(batch: Any) -> Any:
        model.prepare(batch)
        return batch.to(device)

    return prepare


@dataclass(frozen=True)
class _Made:
    """A batch and where the host's streams stood when it was made, or the error in its place; or the end."""

    batch: Any = None
    streams: dict[str, Tensor] | None = None
    error: BaseException | None = None


@contextmanager
def prepared_ahead(
    batches: Iterable[Any], prepare: Callable[[Any], Any], generators: Generators, device: torch.device
) -> Iterator[Iterator[Any]]:
    """Yields an iterator over ``prepare(batch)``, in the order of the batches.

    On an accelerator a thread makes them before they are asked for: two wait while it makes the next. It draws on the
    host what would be drawn without it: :meth:`Generators.state_dict` gives the streams as they stood after the batch
    that was asked for last, and leaving the block puts them there, so that a training can stop after any batch. An
    error in the thread is raised where its batch would have come.

    Args:
        batches: of an epoch; read by the thread alone.
        prepare: draws from no stream but :meth:`Generators.on_host`.
        generators: the run's.
        device: that computes.
    """
    if not is_accelerated(device):
        yield map(prepare, batches)
        return
    made: queue.Queue[_Made] = queue.Queue(_DEPTH)
    stopped = threading.Event()
    generators.hold()
    thread = threading.Thread(
        target=_make, args=(batches, prepare, generators, made, stopped), daemon=True, name="prepared-ahead"
    )
    thread.start()
    try:
        yield _asked(made, generators)
    finally:
        stopped.set()
        while thread.is_alive():  # it may wait for a place
            _drain(made)
            thread.join(0.01)
        generators.release()


def _make(
    batches: Iterable[Any],
    prepare: Callable[[Any], Any],
    generators: Generators,
    made: queue.Queue[_Made],
    stopped: threading.Event,
) -> None:
    try:
        for batch in batches:
            if stopped.is_set():
                return
            ready = prepare(batch)
            made.put(_Made(ready, generators.host_state()))
        made.put(_Made())
    except BaseException as error:  # every kind belongs to whoever asks for the batch
        made.put(_Made(error=error))


def _asked(made: queue.Queue[_Made], generators: Generators) -> Iterator[Any]:
    while True:
        one = made.get()
        if one.error is not None:
            raise one.error
        if one.streams is None:
            return
        generators.hold(one.streams)
        yield one.batch


def _drain(made: queue.Queue[_Made]) -> None:
    while True:
        try:
            made.get_nowait()
        except queue.Empty:
            return
