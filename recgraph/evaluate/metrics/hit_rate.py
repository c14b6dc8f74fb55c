"""Hit rate: whether anything relevant is found."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from recgraph.evaluate.metrics._first_hit import first_hit
from recgraph.evaluate.metrics.base import Metric, RankedHits


@dataclass(frozen=True)
class HitRate(Metric):
    """1 if a relevant item is among the first k, else 0.

    Attributes:
        count: the number of relevant items instead (ranx's ``hits``; always so under ``recpack``, whose ``HitK``
            it is).
    """

    count: bool = False

    name = "hit_rate"
    expects = True

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        if self.count or self.convention == "recpack":
            return ranked.hits[:, :k].sum(1).double()
        if ranked.ties is not None:
            return first_hit(ranked, k).sum(1)
        return ranked.hits[:, :k].any(1).double()
