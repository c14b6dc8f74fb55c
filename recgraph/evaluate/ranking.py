"""Rank with a model: encode users in groups of similar history length, then rank them tile by tile.

On the host several threads rank a group each, so that no bit differs from one thread's: a product of a group is too
small to be worth sharing between cores, and Python's own work is not shared at all; two groups at a time share both.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from recgraph.data.batches import Query
from recgraph.evaluate.hits import RelevantRanks
from recgraph.evaluate.topk import TILE_ROWS, Catalogue, Lists, rank_candidates, rank_relevant
from recgraph.ranks import Ranks
from recgraph.sparse.ragged import Ragged

#: users given to a model at a time. Fixed, because a model's rounding may depend on who shares its batch.
GROUP = 256
#: groups that wait or are done for each thread, beside the one that it ranks
_AHEAD = 2
T = TypeVar("T")
R = TypeVar("R")


@runtime_checkable
class Ranker(Protocol):
    """What evaluation and serving need of a model (:class:`recgraph.models.base.Model` is one)."""

    @property
    def has_vectors(self) -> bool:
        """Whether scores are inner products of user and item vectors."""

    def score(self, query: Query) -> Tensor:
        """[B, n_items]: higher is better."""

    def encode_users(self, query: Query) -> Tensor:
        """[B, D]."""

    def encode_items(self) -> Tensor:
        """[n_items, D]."""


class Scorer:
    """Base of rankers that have scores and no vectors. A subclass defines ``score``."""

    has_vectors = False

    def score(self, query: Query) -> Tensor:
        """[B, n_items]: higher is better."""
        raise TypeError(f"{type(self).__name__} must define score(query)")

    def encode_users(self, query: Query) -> Tensor:
        raise TypeError(f"{type(self).__name__} has scores and no vectors")

    def encode_items(self) -> Tensor:
        raise TypeError(f"{type(self).__name__} has scores and no vectors")


@dataclass(frozen=True)
class RankedBatch:
    """Lists of a batch of users.

    Attributes:
        index: [B] int64, the rows of the query that was ranked, on the host.
        lists: convention (``"keep"``, ``"exclude"``), or name of the users' own candidates -> lists, on the host.
        relevant_ranks: the same -> ranks of the relevant items, where they are wanted.
    """

    index: Tensor
    lists: dict[str, Lists]
    relevant_ranks: dict[str, RelevantRanks] = field(default_factory=dict)


@dataclass(frozen=True)
class Targets:
    """Relevant items whose ranks are counted, from the same scores as the lists.

    Attributes:
        relevant: a row for each user of the query, items each once.
        candidates: name -> a row for each user, the candidates that are ranked under that name.
        in_catalogue: whether to count among all items, too, or among the users' own candidates alone.
    """

    relevant: Ragged
    candidates: dict[str, Ragged] = field(default_factory=dict)
    in_catalogue: bool = True


def device_of(model: object) -> torch.device:
    """Where a model's parameters or buffers live; the host for what has none."""
    if isinstance(model, nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            return tensor.device
    return torch.device("cpu")


def ranking_threads(model: object, device: torch.device) -> int:
    """How many threads call a model at the same time: as many as compute, on the host, where it allows for that."""
    allows = getattr(model, "ranks_in_threads", False)
    return torch.get_num_threads() if allows and device.type in TILE_ROWS else 1


@contextlib.contextmanager
def in_mode(model: object, training: bool) -> Iterator[None]:
    """Within the block the model is in a mode; after it, as before."""
    before = isinstance(model, nn.Module) and model.training
    if isinstance(model, nn.Module) and before != training:
        model.train(training)
    try:
        yield
    finally:
        if isinstance(model, nn.Module) and before != training:
            model.train(before)


@contextlib.contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Within the block the model is in evaluation mode and no gradient is recorded; after it, as before."""
    with in_mode(model, training=False), torch.no_grad():
        yield


def item_vectors_of(model: Ranker) -> Tensor | None:
    """[n_items, D], the items as the model sees them now; None where it gives scores."""
    with evaluating(model):
        return model.encode_items() if model.has_vectors else None


def catalogue_for(
    model: Ranker,
    n_items: int,
    k: int,
    *,
    tie_seed: int = 0,
    candidates: Tensor | None = None,
    block_items: int | None = None,
) -> Catalogue:
    """A catalogue of the items as the model sees them now."""
    vectors = item_vectors_of(model)
    return Catalogue(
        n_items,
        k,
        tie_seed=tie_seed,
        item_vectors=vectors,
        candidates=candidates,
        block_items=block_items,
        device=device_of(model) if vectors is None else None,
    )


def rank(
    model: Ranker,
    catalogue: Catalogue,
    query: Query,
    seen: Ragged | None,
    conventions: tuple[str, ...],
    targets: Targets | None = None,
    ranks: Ranks | None = None,
) -> Iterator[RankedBatch]:
    """Rank for all users of a query, shortest histories first.

    Args:
        catalogue: from :func:`catalogue_for` of this model.
        seen: one row for each user of the query, the items that ``"exclude"`` leaves out.
        targets: the relevant items, where their ranks are wanted, and the users' own candidates.
        ranks: which of how many processes this is: of ``n`` processes each ranks every ``n``-th group. The groups are
            those of one process, so that no score's rounding depends on the number of processes. None: there is one.

    Groups are ranked by as many threads as torch computes with, each alone, where :func:`ranking_threads` allows for
    it; lists and scores are those of one thread.

    Yields:
        Each user once, in the groups of 256 in which the model is called; of several processes each user on one.
    """
    by_length = query.history.lengths.argsort(stable=True)
    groups = torch.split(by_length, GROUP)
    if ranks is not None:  # not a stretch of them: the last ones have the longest histories
        groups = groups[ranks.index :: ranks.count]

    def rank_group(group: Tensor) -> RankedBatch:
        return _rank_group(model, catalogue, query, seen, conventions, group, targets)

    # threads see one mode of the model, as one that left it first would change it for the others
    n_threads = ranking_threads(model, catalogue.device)
    with in_mode(model, training=False) if n_threads > 1 else contextlib.nullcontext():
        yield from _in_threads(rank_group, groups, n_threads)


def _rank_group(
    model: Ranker,
    catalogue: Catalogue,
    query: Query,
    seen: Ragged | None,
    conventions: tuple[str, ...],
    index: Tensor,
    targets: Targets | None,
) -> RankedBatch:
    device = catalogue.device
    part = query.take(index).to(device)
    own_seen = None if seen is None else seen.take(index).to(device)
    with evaluating(model):
        # a matrix of scores may lie elsewhere than where it is ranked
        queries = (model.encode_users(part) if model.has_vectors else model.score(part)).to(device)
        lists = catalogue.rank(queries, own_seen, conventions, part.users) if conventions else {}
        ranks: dict[str, RelevantRanks] = {}
        if targets is not None:
            relevant = targets.relevant.take(index).to(device)
            if targets.in_catalogue and conventions:
                ranks = rank_relevant(catalogue, queries, relevant, own_seen, conventions)
            for name, rows in targets.candidates.items():
                own = rows.take(index).to(device)
                lists[name], ranks[name] = rank_candidates(catalogue, queries, own, relevant, part.users)
    host = torch.device("cpu")
    return RankedBatch(
        index,
        {name: Lists(found.items.to(host), found.scores.to(host)) for name, found in lists.items()},
        {name: found.to(host) for name, found in ranks.items()},
    )


def _in_threads(do: Callable[[T], R], tasks: Sequence[T], n_threads: int) -> Iterator[R]:
    """``do(task)`` of each task, in their order; with one thread, or one task, in the caller's.

    The first task is done before any other: what is made at a first call and kept is made once. However it ends, no
    thread is left.
    """
    if n_threads < 2 or len(tasks) < 2:
        yield from map(do, tasks)
        return
    pool = ThreadPoolExecutor(n_threads, "recgraph-rank", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool.submit(do, tasks[0]).result()
        rest = iter(tasks[1:])
        waiting: deque[Future[R]] = deque(pool.submit(do, task) for task in islice(rest, (1 + _AHEAD) * n_threads))
        while waiting:
            done = waiting.popleft().result()
            waiting.extend(pool.submit(do, task) for task in islice(rest, 1))
            yield done
    finally:
        pool.shutdown(cancel_futures=True)
        # threads that begin later take the number that was set last
        torch.set_num_threads(n_threads)
