"""Rank with a model: encode users in groups of similar history length, then rank them tile by tile.

On the host several threads rank a group each, so that no bit differs from one thread's: a product
of a group is too small to be worth sharing between cores, and Python's own work is not shared at
all; two groups at a time share both.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from recgraph.data.batches import Query
from recgraph.evaluate.metrics import RelevantRanks
from recgraph.evaluate.topk import TILE_ROWS, Catalogue, Lists, rank_candidates, rank_relevant
from recgraph.ranks import Ranks
from recgraph.sparse.ragged import Ragged

#: users given to a model at a time. Fixed, because a model's rounding may depend on who shares its
#: batch.
GROUP = 256
_ALONE = Ranks()
#: groups that wait or are done for each thread, beside the one that it ranks
_AHEAD = 2


@runtime_checkable
class Ranker(Protocol):
    """What evaluation needs of a model (:class:`recgraph.models.base.Model` is one):
    ``score(query)``, [B, n_items], higher is better; or, where it has vectors,
    ``encode_users(query)`` [B, D] and ``encode_items()`` [n_items, D], whose inner products are the
    scores."""

    @property
    def has_vectors(self) -> bool: ...


class Scorer(ABC):
    """Base of rankers that have scores and no vectors."""

    has_vectors = False

    @abstractmethod
    def score(self, query: Query) -> Tensor:
        """[B, n_items]: higher is better."""


@dataclass(frozen=True)
class RankedBatch:
    """Lists of the users at rows ``index`` [B] of a query, and ranks of their relevant items where
    they are wanted, on the host: by convention, or by the name of the users' own candidates."""

    index: Tensor
    lists: dict[str, Lists]
    relevant_ranks: dict[str, RelevantRanks]


@dataclass(frozen=True)
class Targets:
    """Relevant items whose ranks are counted, from the same scores as the lists."""

    #: a row for each user of the query, items each once
    relevant: Ragged
    #: name -> a row for each user, the candidates that are ranked under that name
    candidates: dict[str, Ragged]
    #: whether to count among all items, too, or among the users' own candidates alone
    in_catalogue: bool


def device_of(model: object) -> torch.device:
    """Where a model's parameters or buffers live; the host for what has none."""
    if isinstance(model, nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            return tensor.device
    return torch.device("cpu")


@contextlib.contextmanager
def _in_evaluation_mode(model: object) -> Iterator[None]:
    """Within the block the model is in evaluation mode; after it, as before."""
    if not isinstance(model, nn.Module) or not model.training:
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()


@contextlib.contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Within the block the model is in evaluation mode and no gradient is recorded; after it, as
    before.
    """
    with _in_evaluation_mode(model), torch.no_grad():
        yield


def item_vectors_of(model: Any) -> Tensor | None:
    """[n_items, D], the items as the model sees them now; None where it gives scores."""
    with evaluating(model):
        return model.encode_items() if model.has_vectors else None


def catalogue_for(
    model: Ranker, n_items: int, k: int, *, tie_seed: int = 0, candidates: Tensor | None = None
) -> Catalogue:
    """A catalogue of the items as the model sees them now."""
    return Catalogue(
        n_items,
        k,
        tie_seed=tie_seed,
        item_vectors=item_vectors_of(model),
        candidates=candidates,
        device=device_of(model),
    )


def rank(
    model: Any,
    catalogue: Catalogue,
    query: Query,
    seen: Ragged | None,
    conventions: tuple[str, ...],
    targets: Targets | None = None,
    ranks: Ranks = _ALONE,
) -> Iterator[RankedBatch]:
    """Rank for all users of a query, shortest histories first, in the groups of 256 in which the
    model is called.

    ``seen`` are the items that ``"exclude"`` leaves out. Of ``n`` processes (``ranks``) each ranks
    every ``n``-th group, so that no score's rounding depends on their number. A model with
    ``ranks_in_threads`` is called by as many threads as torch computes with, each with a group of
    its own; lists and scores are those of one thread.
    """
    groups = query.history.lengths.argsort(stable=True).split(GROUP)  # type: ignore[no-untyped-call]
    # not a stretch of them: the last ones have the longest histories
    groups = groups[ranks.index :: ranks.count]
    rank_group = partial(_rank_group, model, catalogue, query, seen, conventions, targets)
    n_threads = torch.get_num_threads()
    in_threads = catalogue.device.type in TILE_ROWS and getattr(model, "ranks_in_threads", False)
    if in_threads and min(n_threads, len(groups)) > 1:
        # threads see one mode of the model, as one that left it first would change it for the others
        with _in_evaluation_mode(model):
            yield from _map_in_threads(rank_group, groups, n_threads)
    else:
        yield from map(rank_group, groups)


def _rank_group(
    model: Any,
    catalogue: Catalogue,
    query: Query,
    seen: Ragged | None,
    conventions: tuple[str, ...],
    targets: Targets | None,
    index: Tensor,
) -> RankedBatch:
    """Rank for the users at rows ``index`` of the query."""
    device, host = catalogue.device, torch.device("cpu")
    part = query.take(index).to(device)
    if seen is not None:
        seen = seen.take(index).to(device)
    lists: dict[str, Lists] = {}
    ranks: dict[str, RelevantRanks] = {}
    with evaluating(model):
        queries = model.encode_users(part) if model.has_vectors else model.score(part)
        # a matrix of scores may lie elsewhere than where it is ranked
        queries = queries.to(device)
        if conventions:
            lists = catalogue.rank(queries, seen, conventions, part.users)
        if targets is not None:
            relevant = targets.relevant.take(index).to(device)
            if targets.in_catalogue:
                ranks = rank_relevant(catalogue, queries, relevant, seen, conventions)
            for name, rows in targets.candidates.items():
                candidates = rows.take(index).to(device)
                lists[name], ranks[name] = rank_candidates(
                    catalogue, queries, candidates, relevant, part.users
                )
    return RankedBatch(
        index,
        {name: part_of_name.to(host) for name, part_of_name in lists.items()},
        {name: part_of_name.to(host) for name, part_of_name in ranks.items()},
    )


def _map_in_threads(
    rank_group: Callable[[Tensor], RankedBatch], groups: Sequence[Tensor], n_threads: int
) -> Iterator[RankedBatch]:
    """The groups in order, each ranked by a thread that computes alone."""
    pool = ThreadPoolExecutor(
        n_threads, "recgraph-rank", initializer=torch.set_num_threads, initargs=(1,)
    )
    try:
        # the first is ranked before any other: what a model makes at its first call and keeps is
        # made once
        yield pool.submit(rank_group, groups[0]).result()
        waiting: deque[Future[RankedBatch]] = deque()
        for group in groups[1:]:
            waiting.append(pool.submit(rank_group, group))
            if len(waiting) > (1 + _AHEAD) * n_threads:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        # threads that begin later take the number that was set last
        torch.set_num_threads(n_threads)
