"""Gains and discounts that NDCG and DCG share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from recgraph.evaluate.metrics.base import Metric, RankedHits, ranks


@dataclass(frozen=True)
class Discounted(Metric):
    """Base of NDCG and DCG.

    Attributes:
        gain: ``linear``: the grade; ``exponential``: 2^grade - 1 (Burges et al., ICML 2005).
        discount: ``rank``: 1 / log2(j + 1) at rank j; ``late``: 1 / log2(max(j, 2)), which weighs ranks 1 and 2
            alike (the default under ``lenskit``; its ``LogRankWeight(offset=1)`` is ``rank``).
    """

    gain: Literal["linear", "exponential"] = "linear"
    discount: Literal["rank", "late"] | None = None

    expects = True

    def discounts(self, k: int, like: Tensor) -> Tensor:
        """[k] float64."""
        discount = self.discount or ("late" if self.convention == "lenskit" else "rank")
        places = ranks(k, like)
        return (places + 1 if discount == "rank" else places.clamp(min=2)).log2().reciprocal()

    def gained(self, ranked: RankedHits, k: int) -> Tensor:
        """[U, k] float64."""
        if ranked.gains is None:
            return ranked.hits[:, :k].double()
        if self.gain == "exponential" and ranked.ties is not None:
            raise ValueError("gain = 'exponential' has no expectation over tied orders here; use gain = 'linear'")
        return self.of_grades(ranked.gains[:, :k])

    def of_grades(self, grades: Tensor) -> Tensor:
        return grades if self.gain == "linear" else grades.exp2() - 1
