"""Mean reciprocal rank."""

from __future__ import annotations

from torch import Tensor

from recgraph.evaluate.metrics.base import Metric, RankedHits, ranks


class MRR(Metric):
    """1 / the rank of the first relevant item, 0 where none is among the first k."""

    name = "mrr"

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        return (ranked.hits[:, :k] / ranks(k, ranked.hits)).amax(1)
