"""A metric of a user's own, in a module that tests import by an entry point, and workers by its name."""

from __future__ import annotations

from torch import Tensor

from recgraph.evaluate.metrics import Metric, RankedHits

__all__ = ["FirstHit"]


class FirstHit(Metric):
    """1 if the first item is relevant, whatever the cut-off."""

    name = "first_hit"

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        return ranked.hits[:, 0].double()
