"""New items: how much of a list the user does not know yet."""

from __future__ import annotations

from torch import Tensor

from recgraph.evaluate.metrics._listed import average
from recgraph.evaluate.metrics.base import Metric, RankedHits


class NewItems(Metric):
    """The share of the first k that the user has no interaction with in the training data.

    Under ``replay`` (``Novelty``) an empty list is 1 and users without training data are left out. (RePlay averages
    over all users of its training data, and counts those without a list as 1: give them empty lists.)
    """

    name = "new_items"
    conventions = ("recgraph", "replay")
    needs_truth = False

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"items", "known"} | ({"trained"} if self.convention == "replay" else set()))

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        assert ranked.known is not None
        values = average(~ranked.known[:, :k], ranked, k)
        if self.convention == "replay":
            assert ranked.trained is not None
            return values.masked_fill(values.isnan(), 1.0).masked_fill(~ranked.trained, float("nan"))
        return values
