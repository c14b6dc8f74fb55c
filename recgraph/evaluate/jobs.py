"""One protocol of an evaluation, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass

from recgraph.evaluate.metrics.base import Metric
from recgraph.evaluate.protocol import Protocol
from recgraph.sparse.ragged import Ragged


@dataclass(frozen=True)
class Job:
    """One protocol and what it counts.

    Attributes:
        candidates: each user's own; None for all items.
    """

    protocol: Protocol
    metrics: tuple[Metric, ...]
    candidates: Ragged | None

    @property
    def key(self) -> str:
        """Of the ranking; protocols that rank alike share it."""
        own = self.protocol
        if self.candidates is None:
            return own.seen
        return "/".join(map(str, (own.seen, own.candidates, own.n_candidates, own.candidate_seed, own.candidate_hash)))

    @property
    def expected(self) -> bool:
        return self.protocol.ties == "expectation"

    def needs(self, *names: str) -> bool:
        """Whether a metric reads one of the named things."""
        return any(not metric.needs.isdisjoint(names) for metric in self.metrics)

    @property
    def needs_places(self) -> bool:
        return self.expected or self.needs("places") or any(not metric.cut for metric in self.metrics)
