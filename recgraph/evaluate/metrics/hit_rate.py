"""Hit rate: whether anything relevant is found."""

from __future__ import annotations

from torch import Tensor

from recgraph.evaluate.metrics.base import Metric, RankedHits


class HitRate(Metric):
    """1 if a relevant item is among the first k, else 0."""

    name = "hit_rate"

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        return ranked.hits[:, :k].any(1).double()
