"""Recall: the share of the relevant items that is found."""

from __future__ import annotations

from torch import Tensor

from recgraph.evaluate.metrics.base import Metric, RankedHits


class Recall(Metric):
    """hits in the first k / relevant items.

    The divisor is the number of relevant items (as in RecBole, RecTools, RePlay), not min(relevant, k) (as
    in LensKit): with more than k relevant items the best possible value is below 1.
    """

    name = "recall"

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        return ranked.hits[:, :k].sum(1).double() / ranked.n_relevant
