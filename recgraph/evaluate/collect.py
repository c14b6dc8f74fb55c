"""Rank once for all protocols, within bounds of memory, and keep of the lists what their metrics read.

Where several processes are connected, each ranks for its share of the users; all then have what is kept of every user.
So has the process that gives shares to an engine.

The log (``recgraph.evaluate.collect``, level DEBUG) says before the ranking how much memory it is going to take.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from recgraph import parallel
from recgraph.data.batches import Query
from recgraph.data.part import Cases, Part
from recgraph.evaluate.hits import Facts, RankedHits, Truth
from recgraph.evaluate.kept import Kept, Share
from recgraph.evaluate.limits import Limits, batch_size_of, depth_of, plan_memory, ranked_of
from recgraph.evaluate.measurement import Measurement, by_ranking
from recgraph.evaluate.ranking import (
    GROUP,
    Ranker,
    Targets,
    device_of,
    item_vectors_of,
    make_catalogue,
    rank,
    ranking_threads,
)
from recgraph.evaluate.reranked import reranked
from recgraph.evaluate.topk import Catalogue
from recgraph.parallel import Engine, Piece
from recgraph.ranks import Ranks, of_all

_log = logging.getLogger(__name__)
#: shares of the users for each worker of an engine
_SHARES = 2
#: numbers of a tensor by which processes compare their models, and how near the same ones are
_FEW, _NEAR = 32, 1e-4


def collect(
    model: Ranker,
    cases: Cases,
    measurements: Sequence[Measurement],
    facts: Facts,
    fit_part: Part | None,
    limits: Limits,
    engine: Engine | None = None,
) -> list[RankedHits]:
    """The ranked lists of every measurement, from one pass over the scores; of several processes all must call it.

    Args:
        engine: ranks for shares of the users; None: this process, and those that it is connected with.

    Raises:
        ValueError: several processes are connected, and ``engine`` is not this process; they evaluate different things;
            or what is asked for does not fit into memory, or on an engine.
    """
    ranks = Ranks.here()
    if ranks.count > 1 and engine is not None:
        raise ValueError(
            f"engine = {engine!r}: {ranks.count} processes of a launcher divide the users already, and each would have "
            "the engine rank for all of them; leave out engine (--engine), or the launcher"
        )
    truth = Truth.of(cases)
    depth, n_ranked = depth_of(measurements, cases.n_items), ranked_of(measurements, cases.n_items)
    vectors = item_vectors_of(model)
    width = None if vectors is None else vectors.shape[1]
    device = device_of(model) if vectors is None else vectors.device
    threads, graded = ranking_threads(model, device), truth.graded
    # what does not fit on one rank, all refuse; blocks alter no result, so that each has its own
    planned = partial(plan_memory, cases, measurements, limits, width=width, device=device, graded=graded)
    asked = _Asked.of(model, vectors, cases, measurements) if ranks.count > 1 else None
    told = of_all(lambda: (planned(threads=threads), asked))
    _check_alike([each for _, each in told if each is not None])
    memory = told[ranks.index][0]
    # a training ranks after each epoch, so that this is a detail
    _log.debug("%s", memory)
    catalogue = make_catalogue(
        vectors,
        cases.n_items,
        n_ranked,
        tie_seed=measurements[0].protocol.tie_seed,
        block_items=memory.block_items,
        device=device,
        precision=limits.precision,
    )
    one_pass = _Pass(model, catalogue, cases, tuple(measurements), truth, depth, batch_size_of(limits, n_ranked))
    kept = one_pass.ranked_by_all() if engine is None else one_pass.ranked_on(engine)
    users = truth.before_ranking(depth, facts)
    return [kept[each.ranking].ranked(users, each, cases, truth, fit_part) for each in measurements]


@dataclass(frozen=True)
class _Asked:
    """What a process evaluates, in values that processes can compare.

    Attributes:
        model: its class, and some of its numbers; none where they cannot be had.
        protocols: their hashes.
    """

    model: str
    numbers: list[float]
    n_users: int
    protocols: tuple[str, ...]

    @classmethod
    def of(cls, model: Ranker, vectors: Tensor | None, cases: Cases, measurements: Sequence[Measurement]) -> _Asked:
        parts = [] if vectors is None else [vectors]
        if vectors is None and isinstance(model, nn.Module):
            parts = [part for part in (*model.parameters(), *model.buffers()) if part.is_floating_point()]
        return cls(type(model).__name__, _some(parts), len(cases), tuple(each.protocol.hash for each in measurements))

    def differs(self, other: _Asked) -> str:
        """What another process evaluates otherwise; empty where all is the same."""
        ours, theirs = (torch.tensor(each.numbers, dtype=torch.float64) for each in (self, other))
        # fitted or propagated on another processor, the same model has other last digits
        near = _NEAR * float(ours.nan_to_num().abs().sum())
        alike = self.model == other.model and ours.shape == theirs.shape
        if not alike or not torch.allclose(ours, theirs, _NEAR, near, equal_nan=True):
            return "another model"
        return "" if (self.n_users, self.protocols) == (other.n_users, other.protocols) else "other users or protocols"


def _some(parts: Sequence[Tensor]) -> list[float]:
    """A few numbers of each tensor, from all over it."""
    found: list[float] = []
    for part in parts[:_FEW]:
        flat = part.detach().flatten()
        found += flat[:: max(len(flat) // _FEW, 1)][:_FEW].double().tolist()
    return found


def _check_alike(asked: Sequence[_Asked]) -> None:
    """Refuse to rank together for different evaluations: a user's list would be that of the process which ranks it.

    Raises:
        ValueError: names the process; all raise it.
    """
    for number, other in enumerate(asked):
        if what := asked[0].differs(other):
            raise ValueError(
                f"rank {number} evaluates {what} than rank 0: processes of one launcher rank for one evaluation "
                "together, so that all must make the same call; evaluate runs one after the other, or without one"
            )


@dataclass(frozen=True)
class _Pass:
    """One pass over the scores, by one process or by several that rank for a share of the users each."""

    model: Ranker
    catalogue: Catalogue
    cases: Cases
    measurements: tuple[Measurement, ...]
    truth: Truth
    depth: int
    batch_size: int

    def room(self) -> dict[str, Kept]:
        """Name of a ranking -> room for what is kept of it."""
        alike = by_ranking(self.measurements)
        return {name: Kept.of(self.cases, self.depth, self.truth, of) for name, of in alike.items()}

    def rank(self, kept: Mapping[str, Kept], ranks: Ranks) -> None:
        """Rank for a share of the users."""
        plain = [each for each in self.measurements if each.candidates is None]
        candidates = {each.scored: each.candidates for each in self.measurements if each.candidates is not None}
        in_catalogue = any(each.needs_ranks for each in plain)
        targets = Targets(self.truth.relevant, candidates, in_catalogue) if candidates or in_catalogue else None
        conventions = tuple(dict.fromkeys(each.scored for each in plain))
        cases, by_name = self.cases, by_ranking(self.measurements)
        query = Query(cases.users, cases.history, cases.times if getattr(self.model, "reads_times", False) else None)
        for batch in rank(
            self.model, self.catalogue, query, cases.history, conventions, self.batch_size, targets, ranks
        ):
            for name, (one, *_) in by_name.items():
                lists, ranks_of = batch.lists[one.scored], batch.relevant_ranks.get(one.scored)
                if one.reranking is not None:
                    lists, ranks_of = reranked(lists, self.depth, one.reranking, cases.history.take(batch.index)), None
                kept[name].add(batch.index, lists.first(self.depth), ranks_of, self.truth)

    def shares(self, kept: Mapping[str, Kept], ranks: Ranks) -> dict[str, Share]:
        """Rank for a share of the users; name of a ranking -> what is kept of them."""
        self.rank(kept, ranks)
        return {name: each.share() for name, each in kept.items()}

    def ranked_by_all(self) -> dict[str, Kept]:
        """What is kept of every user, where each connected process ranks for its share."""
        kept, ranks = self.room(), Ranks.here()
        if ranks.count == 1:
            self.rank(kept, Ranks())
            return kept
        return _taken_in(kept, of_all(lambda: self.shares(kept, ranks)))

    def ranked_on(self, engine: Engine) -> dict[str, Kept]:
        """The same, where an engine ranks for the shares."""
        if self.catalogue.device.type != "cpu":
            raise ValueError("an engine ranks on the host: move the model there (--device cpu), or leave out engine")
        n = min(_SHARES * engine.size, -(-len(self.cases) // GROUP))
        pieces = (Piece(f"ranking share {index + 1} of {n} of the users", Ranks(index, n)) for index in range(n))
        shares = [*parallel.map(_share_of, pieces, self, engine)]
        return _taken_in(self.room(), shares)


def _share_of(one_pass: _Pass, ranks: Ranks) -> dict[str, Share]:
    return one_pass.shares(one_pass.room(), ranks)


def _taken_in(kept: dict[str, Kept], shares: Sequence[Mapping[str, Share]]) -> dict[str, Kept]:
    for name, each in kept.items():
        each.take_in([share[name] for share in shares])
    return kept
