"""Discounted cumulative gain, not normalised."""

from __future__ import annotations

from torch import Tensor

from recgraph.evaluate.metrics._gain import Discounted
from recgraph.evaluate.metrics.base import RankedHits


class DCG(Discounted):
    """The sum over the ranks j <= k of gain_j / log2(j + 1): above 1 where there are several hits or grades.

    Under ``lenskit`` a user without relevant items has the value 0.
    """

    name = "dcg"
    conventions = ("recgraph", "lenskit", "ranx", "recpack")

    def without_truth(self) -> float | None:
        return 0.0 if self.convention == "lenskit" else super().without_truth()

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        return (self.gained(ranked, k) * self.discounts(k, ranked.hits)).sum(1)
