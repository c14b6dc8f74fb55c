"""Normalised discounted cumulative gain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from recgraph.evaluate.metrics._gain import Discounted
from recgraph.evaluate.metrics.base import RankedHits


@dataclass(frozen=True)
class NDCG(Discounted):
    """The sum over the ranks j <= k of gain_j / log2(j + 1), over the same sum for the best possible list.

    The gain is 1 for a relevant item; where the truth carries grades it is the grade.

    Attributes:
        ideal: the best list: ``achievable``: its first min(relevant items, k) places are hits; ``full``: all k are,
            whatever is relevant (the default under ``rectools``, for binary gains; its
            ``divide_by_achievable=True`` is ``achievable``).
    """

    ideal: Literal["achievable", "full"] | None = None

    name = "ndcg"

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        discount = self.discounts(k, ranked.hits)
        if (self.ideal or ("full" if self.convention == "rectools" else "achievable")) == "full":
            return (ranked.hits[:, :k] * discount).sum(1) / discount.sum()
        if ranked.gains is None or ranked.ideal_gains is None:
            best = discount.cumsum(0)[(ranked.n_relevant.clamp(max=k) - 1).clamp(min=0)]
            return (ranked.hits[:, :k] * discount).sum(1) / best
        best = (self.of_grades(ranked.ideal_gains[:, :k]) * discount).sum(1)
        return (self.gained(ranked, k) * discount).sum(1) / best
