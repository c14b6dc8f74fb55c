"""Rank-biased precision."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from recgraph.evaluate.metrics.base import Metric, RankedHits, ranks


@dataclass(frozen=True)
class RBP(Metric):
    """The sum over the ranks j <= k of hits of p^(j-1), over the same sum for the best possible list.

    Moffat and Zobel (TOIS 2008) and, as defaults, LensKit and ranx multiply the sum by 1 - p instead, so that with
    few relevant items the best possible value is far below 1; ranx also multiplies each hit by its grade.

    Attributes:
        patience: p, the probability that a user goes on to the next item.
        normalize: whether the best possible list scores 1; by default that of the convention. Under ``lenskit`` the
            best list is no longer than the list itself.
    """

    patience: float = 0.85
    normalize: bool | None = None

    name = "rbp"
    conventions = ("recgraph", "lenskit", "ranx")
    expects = True

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        weights = self.patience ** (ranks(k, ranked.hits) - 1)
        gains = ranked.gains if self.convention == "ranx" and ranked.gains is not None else ranked.hits
        found = (gains[:, :k] * weights).sum(1)
        normalize = self.convention == "recgraph" if self.normalize is None else self.normalize
        if not normalize:
            return found * (1 - self.patience)
        best = ranked.n_relevant.clamp(max=k)
        if self.convention == "lenskit":
            best = best.minimum(ranked.n_listed(k))
        return (found / weights.cumsum(0)[(best - 1).clamp(min=0)]).masked_fill(best == 0, float("nan"))
