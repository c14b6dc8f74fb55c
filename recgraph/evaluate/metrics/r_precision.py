"""R-precision: precision at as many places as there are relevant items."""

from __future__ import annotations

import torch
from torch import Tensor

from recgraph.evaluate.metrics.base import Metric, Places, RankedHits


class RPrecision(Metric):
    """hits in the first r / r, r the number of relevant items. It has no cut-off.

    (RecTools' ``r_precision=True`` is something else: ``Precision(divide_by="relevant")``.)
    """

    name = "r_precision"
    conventions = ("recgraph", "torchmetrics", "ranx")
    expects = True

    @property
    def cut(self) -> bool:
        return False

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        if ranked.places is not None:
            return _from_places(ranked.places, ranked.n_relevant, ranked.ties is not None) / ranked.n_relevant
        place = torch.arange(k, device=ranked.hits.device)
        return (ranked.hits[:, :k] * (place < ranked.n_relevant[:, None])).sum(1).double() / ranked.n_relevant


def _from_places(places: Places, n_relevant: Tensor, expected: bool) -> Tensor:
    """[U] float64: the (expected) hits in the first r places of the whole ranking."""
    left = n_relevant[places.above.rows] - places.above.values
    if expected:
        found = (left.clamp(min=0).double() / places.equal.clamp(min=1)).clamp(max=1)
    else:
        found = (places.before < left).double()
    values = torch.zeros(places.above.n_rows, dtype=torch.float64, device=found.device)
    return values.index_add_(0, places.above.rows, found * places.reachable)
