"""Precision: the share of the list that is relevant."""

from __future__ import annotations

from torch import Tensor

from recgraph.evaluate.metrics.base import Metric, RankedHits


class Precision(Metric):
    """hits in the first k / k.

    Short lists are divided by k, too (LensKit divides by their length).
    """

    name = "precision"

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        return ranked.hits[:, :k].sum(1).double() / k
