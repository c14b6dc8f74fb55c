"""Rank once for all protocols, and keep of the lists what their metrics read.

Where several processes are connected, each ranks for its share of the users; all then have what is kept of every user.
So has the process that gives shares to an engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recgraph import parallel
from recgraph.data.batches import Query
from recgraph.data.part import Cases, Part
from recgraph.evaluate.hits import Facts, RankedHits, RelevantRanks, Truth, expected_hits
from recgraph.evaluate.metrics.base import Metric
from recgraph.evaluate.protocol import Protocol
from recgraph.evaluate.ranking import GROUP, Ranker, Targets, catalogue_for, rank
from recgraph.evaluate.rerank import Reranking, pick
from recgraph.evaluate.topk import Catalogue, Lists
from recgraph.parallel import Engine, Piece
from recgraph.ranks import Ranks, of_all
from recgraph.sparse.ragged import Ragged

#: shares of the users for each worker of an engine
_SHARES = 2


@dataclass(frozen=True)
class Measurement:
    """One protocol and its metrics.

    Attributes:
        candidates: each user's own; None for all items.
        reranking: picks the lists from the ranking; None: they are its best.

    Raises:
        ValueError: lists are re-ranked, and what is measured reads the whole ranking.
    """

    protocol: Protocol
    metrics: tuple[Metric, ...]
    candidates: Ragged | None
    reranking: Reranking | None = None

    def __post_init__(self) -> None:
        if self.reranking is not None and self.needs_ranks:
            raise ValueError(
                "rerank: ties = 'expectation' and metrics such as auc read the whole ranking; leave them out"
            )

    @property
    def ranking(self) -> str:
        """The name of the ranking; protocols that rank alike share it."""
        return self.scored if self.reranking is None else f"{self.scored}/{self.protocol.rerank}"

    @property
    def scored(self) -> str:
        """The name of the ranking by score, which re-rankers change."""
        own = self.protocol
        if self.candidates is None:
            return own.seen
        return "/".join(map(str, (own.seen, own.candidates, own.n_candidates, own.candidate_seed, own.candidate_hash)))

    @property
    def is_expectation(self) -> bool:
        """Whether it averages over all orders of equal scores."""
        return self.protocol.ties == "expectation"

    def needs(self, *names: str) -> bool:
        """Whether a metric reads one of the named things."""
        return any(not metric.needs.isdisjoint(names) for metric in self.metrics)

    @property
    def needs_ranks(self) -> bool:
        """Whether it needs the ranks of the relevant items among all candidates."""
        return self.is_expectation or self.needs("relevant_ranks") or any(not metric.cut for metric in self.metrics)


def collect(
    model: Ranker,
    cases: Cases,
    measurements: Sequence[Measurement],
    facts: Facts,
    fit_part: Part | None,
    engine: Engine | None = None,
) -> list[RankedHits]:
    """The ranked lists of every measurement, from one pass over the scores; of several processes all must call it.

    Args:
        engine: ranks for shares of the users; None: this process, and those that it is connected with.

    Raises:
        ValueError: several processes are connected, and there is an engine; or it would rank on an accelerator.
    """
    # what lies beyond the last item is a miss
    depth = min(max(max(each.protocol.cutoffs) for each in measurements), cases.n_items)
    pools = [each.reranking.pool for each in measurements if each.reranking is not None]
    n_ranked = min(max(depth, *pools, 0), cases.n_items)
    catalogue = catalogue_for(model, cases.n_items, n_ranked, tie_seed=measurements[0].protocol.tie_seed)
    one_pass = _Pass(model, catalogue, cases, tuple(measurements), Truth.of(cases), depth)
    kept, ranks = one_pass.room(), Ranks.here()
    if engine is not None:
        if ranks.count > 1 or catalogue.device.type != "cpu":
            raise ValueError("engine (--engine) ranks for one process, on the host: leave it out")
        n = min(_SHARES * engine.size, -(-len(cases) // GROUP))
        pieces = (Piece(f"ranking share {index + 1} of {n} of the users", Ranks(index, n)) for index in range(n))
        _take_in(kept, parallel.map(_share_of, pieces, one_pass, engine))
    elif ranks.count > 1:
        _take_in(kept, of_all(lambda: _share_of(one_pass, ranks)))
    else:
        one_pass.rank(kept, ranks)
    users = one_pass.truth.before_ranking(depth, facts)
    return [kept[each.ranking].ranked(users, each, cases, one_pass.truth, fit_part) for each in measurements]


@dataclass
class Kept:
    """What is kept of the lists of one ranking: tables [U, K] by the names of :class:`RankedHits`, and ranks."""

    tables: dict[str, Tensor]
    index: list[Tensor]
    ranks: list[RelevantRanks]

    @classmethod
    def of(cls, cases: Cases, depth: int, truth: Truth, measurements: Sequence[Measurement]) -> Kept:
        """Room for the lists of all users, and for what the measurements that share the ranking read of them."""
        shape = (len(cases), depth)
        tables = {"hits": torch.zeros(shape, dtype=torch.bool)}
        if truth.grades is not None:
            tables["gains"] = torch.zeros(shape, dtype=torch.float64)
        if any(each.needs("items", "known") for each in measurements):
            tables["items"] = torch.full(shape, -1)
        if any(each.needs("scores") for each in measurements):
            tables["scores"] = torch.full(shape, -torch.inf, dtype=torch.float64)
        return cls(tables, [], [])

    def add(self, index: Tensor, lists: Lists, ranks: RelevantRanks | None, truth: Truth) -> None:
        """Keep the lists of the users at rows ``index`` [B] of the cases."""
        positions, found = truth.find(index, lists.items)
        values = {"hits": found, "items": lists.items, "scores": lists.scores.double()}
        if truth.grades is not None:
            values["gains"] = truth.grades[positions] * found
        for name, table in self.tables.items():
            table[index, : found.shape[1]] = values[name]
        self.index.append(index)
        if ranks is not None:
            self.ranks.append(ranks)

    def share(self) -> Kept:
        """What was added, to be told to other processes."""
        index = torch.cat([torch.empty(0, dtype=torch.int64), *self.index])
        ranks = [RelevantRanks.gather(self.ranks, torch.arange(len(index)))] if self.ranks else []
        return Kept({name: table[index] for name, table in self.tables.items()}, [index], ranks)

    def take_in(self, share: Kept) -> None:
        """Keep what another process has added."""
        for name, values in share.tables.items():
            self.tables[name][share.index[0]] = values
        if len(share.index[0]):
            self.index += share.index
            self.ranks += share.ranks

    def ranked(
        self, users: RankedHits, measurement: Measurement, cases: Cases, truth: Truth, fit_part: Part | None
    ) -> RankedHits:
        """The lists as a measurement sees them, beside what is known of the users."""
        # what others that share the ranking read beyond its longest cut-off is not part of its lists
        depth = max(measurement.protocol.cutoffs)
        cut: dict[str, Any] = {name: table[:, :depth] for name, table in self.tables.items()}
        ranked = replace(users, **cut)
        if measurement.needs("known") and fit_part is not None and ranked.items is not None:
            ranked = replace(ranked, known=known_items(cases, ranked.items, fit_part))
        if not self.ranks or not measurement.needs_ranks:
            return ranked
        ranks = RelevantRanks.gather(self.ranks, torch.cat(self.index))
        ranked = replace(ranked, relevant_ranks=ranks)
        if measurement.is_expectation:
            hits, gains, ties = expected_hits(ranks, ranked.hits.shape[1], truth.grades)
            ranked = replace(ranked, hits=hits, gains=gains, ties=ties)
        return ranked


def known_items(cases: Cases, items: Tensor, fit_part: Part) -> Tensor:
    """[U, K] whether the user has the item in the part."""
    inside = (cases.users >= 0) & (cases.users < fit_part.items.n_rows)
    keys = torch.unique(fit_part.items.rows * cases.n_items + fit_part.items.values)
    wanted = cases.users[:, None] * cases.n_items + items
    return torch.isin(wanted, keys) & inside[:, None] & (items >= 0)


@dataclass(frozen=True)
class _Pass:
    """One ranking of the users of cases, for several measurements."""

    model: Ranker
    catalogue: Catalogue
    cases: Cases
    measurements: tuple[Measurement, ...]
    truth: Truth
    depth: int

    def by_ranking(self) -> dict[str, list[Measurement]]:
        """Name of a ranking -> the measurements that share it."""
        found: dict[str, list[Measurement]] = {}
        for each in self.measurements:
            found.setdefault(each.ranking, []).append(each)
        return found

    def room(self) -> dict[str, Kept]:
        """Room for what is kept of each ranking."""
        return {name: Kept.of(self.cases, self.depth, self.truth, own) for name, own in self.by_ranking().items()}

    def rank(self, kept: dict[str, Kept], ranks: Ranks) -> None:
        """Rank for a share of the users, and keep what is read of their lists."""
        plain = [each for each in self.measurements if each.candidates is None]
        candidates = {each.scored: each.candidates for each in self.measurements if each.candidates is not None}
        in_catalogue = any(each.needs_ranks for each in plain)
        targets = Targets(self.truth.relevant, candidates, in_catalogue) if candidates or in_catalogue else None
        conventions = tuple(dict.fromkeys(each.scored for each in plain))
        cases, by_name = self.cases, self.by_ranking()
        query = Query(cases.users, cases.history, cases.times if getattr(self.model, "reads_times", False) else None)
        for batch in rank(self.model, self.catalogue, query, cases.history, conventions, targets, ranks):
            for name, (one, *_) in by_name.items():
                lists, ranks_of = batch.lists[one.scored], batch.relevant_ranks.get(one.scored)
                if one.reranking is not None:
                    lists, ranks_of = _reranked(lists, self.depth, one.reranking), None
                kept[name].add(batch.index, lists.first(self.depth), ranks_of, self.truth)


def _share_of(one_pass: _Pass, ranks: Ranks) -> dict[str, Kept]:
    kept = one_pass.room()
    one_pass.rank(kept, ranks)
    return {name: each.share() for name, each in kept.items()}


def _take_in(kept: dict[str, Kept], shares: Iterable[dict[str, Kept]]) -> None:
    for each in shares:
        for name, share in each.items():
            kept[name].take_in(share)


def _reranked(lists: Lists, k: int, reranking: Reranking) -> Lists:
    """Pick lists of at most ``k`` items from longer ones, best first, on the host."""
    places, _ = pick(lists.items, lists.scores.double(), k, reranking=reranking)
    at = places.clamp(min=0)
    scores = lists.scores.gather(1, at).masked_fill(places < 0, float("-inf"))
    return Lists(torch.where(places < 0, places, lists.items.gather(1, at)), scores)
