"""Mean reciprocal rank."""

from __future__ import annotations

from torch import Tensor, nan

from recgraph.evaluate.metrics._first_hit import first_hit
from recgraph.evaluate.metrics.base import Metric, RankedHits, ranks


class MRR(Metric):
    """1 / the rank of the first relevant item, 0 where none is among the first k.

    Under ``cornac`` a user without a hit has no value (the library raises).
    """

    name = "mrr"
    expects = True
    wants_positive_scores = True

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        if ranked.ties is not None:
            return (first_hit(ranked, k) / ranks(k, ranked.hits)).sum(1)
        values = (ranked.hits[:, :k] / ranks(k, ranked.hits)).amax(1)
        return values.masked_fill(values == 0, nan) if self.convention == "cornac" else values
