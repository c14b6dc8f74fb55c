"""Normalised discounted cumulative gain."""

from __future__ import annotations

from torch import Tensor

from recgraph.evaluate.metrics.base import Metric, RankedHits, ranks


class NDCG(Metric):
    """The sum over the ranks j <= k of gain_j / log2(j + 1), over the same sum for the best possible list.

    The gain is 1 for a relevant item; where the truth carries grades it is the grade (linear, as in PyG and
    ranx's ``ndcg``; not 2^grade - 1). The best list has min(relevant items, k) hits; RecTools' default
    divides by k hits whatever is relevant, and LensKit's default discount weighs ranks 1 and 2 alike.
    """

    name = "ndcg"

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        discount = (ranks(k, ranked.hits) + 1).log2().reciprocal()
        if ranked.gains is None or ranked.ideal_gains is None:
            best = discount.cumsum(0)[ranked.n_relevant.clamp(max=k) - 1]
            return (ranked.hits[:, :k] * discount).sum(1) / best
        best = (ranked.ideal_gains[:, :k] * discount).sum(1)
        return (ranked.gains[:, :k] * discount).sum(1) / best
