"""Mean average precision."""

from __future__ import annotations

from torch import Tensor

from recgraph.evaluate.metrics.base import Metric, RankedHits, ranks


class MAP(Metric):
    """The sum over the ranks j <= k of hits of (hits in the first j) / j, over min(relevant items, k).

    The divisor is that of RecBole, RePlay and PyG; RecTools and ranx divide by the number of relevant items.
    """

    name = "map"

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        hits = ranked.hits[:, :k].double()
        found = (hits * hits.cumsum(1) / ranks(k, hits)).sum(1)
        return found / ranked.n_relevant.clamp(max=k)
