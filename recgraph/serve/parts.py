"""A request part by part, here or on an engine, and the counts of what was not known."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from copy import copy
from typing import Any, Protocol, TypeVar

import polars as pl

from recgraph import parallel
from recgraph.data.ids import IdMap
from recgraph.evaluate.ranking import device_of
from recgraph.models.base import Model
from recgraph.parallel import Engine, Piece
from recgraph.serve.request import Request

__all__ = ["Counts", "answers"]

_log = logging.getLogger(__name__)
# one for all: counts with a lock could not be pickled
_counting = threading.Lock()


class Counts(Counter[str]):
    """The numbers of ``unknown_items``, ``unknown_users`` and ``fallbacks``; several threads may add."""

    def add(self, counts: Counter[str]) -> None:
        """Add what was counted elsewhere."""
        with _counting:
            self.update(counts)

    def add_unknown_of_rules(self, n: int) -> None:
        """Add items of rules that the model does not know; they are logged, too."""
        self.add(Counter(unknown_items=n))
        if n:
            _log.warning("%d items of the rules are not known to the model; skipped", n)

    def add_request(self, request: Request, n_fallbacks: int) -> None:
        """Add what a request does not know; its items are logged, too."""
        counts = {
            "unknown_items": request.n_unknown_items,
            "unknown_users": request.n_unknown_users,
            "fallbacks": n_fallbacks,
        }
        self.add(Counter(counts))
        if request.n_unknown_items:
            _log.warning("%d items of the histories are not known to the model; skipped", request.n_unknown_items)


class _Counting(Protocol):
    """What counts while it answers; :class:`recgraph.serve.recommender.Recommender` does."""

    counters: Counts
    items: IdMap
    model: Model


Owner = TypeVar("Owner", bound=_Counting)


def answers(
    owner: Owner, answer: Callable[[Owner, Request], Any], request: Request, batch_size: int, engine: Engine | None
) -> Iterator[Any]:
    """The answers to the parts of a request, in order.

    Args:
        owner: counts what is not known.
        answer: gives an owner's answer to a part.
        batch_size: users of a part.
        engine: answers the parts; None: this process.

    Raises:
        ValueError: ids are UUID objects, which a frame holds and cannot send; or the model is on an accelerator, and
            there is an engine.
    """
    if engine is not None and device_of(owner.model).type != "cpu":
        raise ValueError("an engine ranks on the host: load the recommender there (device='cpu'), or leave out engine")
    if engine is not None and (owner.items.as_uuid or request.labels.dtype == pl.Object):
        raise ValueError("engine: ids that are UUID objects cannot be sent to workers; use texts, or leave out engine")
    parts = _parts(request, batch_size)
    if engine is None:
        for part in parts:
            yield answer(owner, part.value)
        return
    for frame, counted in parallel.map(_answer, parts, (owner, answer), engine):
        owner.counters.add(counted)
        yield frame


def _parts(request: Request, batch_size: int) -> Iterator[Piece[Request]]:
    n = len(request.labels)
    for start in range(0, n, batch_size):
        end = min(start + batch_size, n)
        yield Piece(f"users {start:,} to {end - 1:,} of {n:,}", request.rows(start, end))


def _answer(shared: tuple[Owner, Callable[[Owner, Request], Any]], part: Request) -> tuple[Any, Counts]:
    """An answer, and what was counted in it alone."""
    owner, answer = copy(shared[0]), shared[1]
    owner.counters = Counts()
    return answer(owner, part), owner.counters
