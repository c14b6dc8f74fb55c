"""Recall: the share of the relevant items that is found."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from recgraph.evaluate.metrics.base import Metric, RankedHits


@dataclass(frozen=True)
class Recall(Metric):
    """hits in the first k / relevant items.

    Under ``lenskit`` the divisor is min(relevant items, k); elsewhere, with more than k relevant items, the best
    possible value is below 1.

    Attributes:
        bounded: divide by min(relevant items, k) (RecPack's ``CalibratedRecallK``).
        weighted: count grades, not items (PyG's ``weighted=True``).
    """

    bounded: bool = False
    weighted: bool = False

    name = "recall"
    expects = True
    wants_positive_scores = True

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"gains", "total_gain"} if self.weighted else ())

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        if self.weighted:
            assert ranked.gains is not None
            assert ranked.total_gain is not None
            return ranked.gains[:, :k].sum(1) / ranked.total_gain
        bounded = self.bounded or self.convention == "lenskit"
        return ranked.hits[:, :k].sum(1).double() / (ranked.n_relevant.clamp(max=k) if bounded else ranked.n_relevant)
