"""A protocol with its metrics: one measurement of a ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recgraph.evaluate.metrics.base import Metric
from recgraph.evaluate.protocol import Protocol
from recgraph.sparse.ragged import Ragged

__all__ = ["Measurement", "by_ranking"]


@dataclass(frozen=True)
class Measurement:
    """One protocol and its metrics.

    Attributes:
        candidates: each user's own; None for all items.
    """

    protocol: Protocol
    metrics: tuple[Metric, ...]
    candidates: Ragged | None

    @property
    def ranking(self) -> str:
        """The name of the ranking; protocols that rank alike share it."""
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


def by_ranking(measurements: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    """Name of a ranking -> the measurements that share it."""
    found: dict[str, list[Measurement]] = {}
    for each in measurements:
        found.setdefault(each.ranking, []).append(each)
    return found
