"""A protocol with its metrics: one measurement of a ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recgraph.evaluate.metrics.base import Metric
from recgraph.evaluate.metrics.conventions import LIBRARIES
from recgraph.evaluate.protocol import Protocol
from recgraph.rerank.pick import Reranking
from recgraph.sparse.ragged import Ragged

__all__ = ["Measurement", "by_ranking"]


@dataclass(frozen=True)
class Measurement:
    """One protocol and its metrics.

    Attributes:
        candidates: each user's own; None for all items.
        reranking: picks the lists from the ranking; None: they are its best.

    Raises:
        ValueError: lists are re-ranked, and what is measured reads the whole ranking or scores.
    """

    protocol: Protocol
    metrics: tuple[Metric, ...]
    candidates: Ragged | None
    reranking: Reranking | None = None

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

    def __post_init__(self) -> None:
        if self.reranking is None:
            return
        whole = [metric.label for metric in self.metrics if not metric.cut or "relevant_ranks" in metric.needs]
        if self.is_expectation:
            raise ValueError("rerank: ties = 'expectation' is of the whole ranking; take the seeded permutation")
        if whole:
            raise ValueError(f"rerank: metric {whole[0]!r} reads the whole ranking, and lists are picked; leave it out")
        if LIBRARIES[convention := self.protocol.convention].reads_scores:
            raise ValueError(f"rerank: convention {convention!r} orders by scores, re-ranked lists are not")

    @property
    def is_expectation(self) -> bool:
        """Whether it averages over all orders of equal scores."""
        return self.protocol.ties == "expectation"

    def needs(self, *names: str) -> bool:
        """Whether a metric reads one of the named things."""
        return any(not metric.needs.isdisjoint(names) for metric in self.metrics)

    @property
    def needs_scores(self) -> bool:
        """Whether it reads the scores of the listed items."""
        return LIBRARIES[self.protocol.convention].reads_scores or self.needs("scores")

    @property
    def needs_ranks(self) -> bool:
        """Whether it needs the ranks of the relevant items among all candidates."""
        return self.is_expectation or self.needs("relevant_ranks") or any(not metric.cut for metric in self.metrics)


def by_ranking(measurements: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    """Name of a ranking -> the measurements that share it."""
    found: dict[str, list[Measurement]] = {}
    for each in measurements:
        found.setdefault(each.ranking, []).append(each)
    return found
