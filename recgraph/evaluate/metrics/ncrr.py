"""Normalised cumulative reciprocal rank."""

from __future__ import annotations

from torch import Tensor

from recgraph.evaluate.metrics.base import Metric, RankedHits, ranks


class NCRR(Metric):
    """The sum over the ranks j <= k of hits of 1 / j, over the same sum for the best possible list.

    Under ``cornac`` the best list is no longer than the list itself.
    """

    name = "ncrr"
    conventions = ("recgraph", "cornac")
    expects = True

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        weights = ranks(k, ranked.hits).reciprocal()
        longest = ranked.n_listed(k) if self.convention == "cornac" else ranked.n_relevant.clamp(max=k)
        best = weights.cumsum(0)[(ranked.n_relevant.minimum(longest) - 1).clamp(min=0)]
        return (ranked.hits[:, :k] * weights).sum(1) / best
