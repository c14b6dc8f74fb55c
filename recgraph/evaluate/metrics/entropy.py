"""Entropy: how evenly recommendations are spread over the items."""

from __future__ import annotations

from torch import Tensor

from recgraph.evaluate.metrics._listed import listed
from recgraph.evaluate.metrics.base import Aggregate, RankedHits


class Entropy(Aggregate):
    """The entropy of the items among the first k of all lists, over its greatest value, log(items in the catalogue).

    Under ``recbole`` (``ShannonEntropy``): the natural entropy divided by the number of distinct items.
    """

    name = "entropy"
    conventions = ("recgraph", "recbole")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"items", "facts"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        counts, facts = listed(ranked, k)
        shares = counts[counts > 0].double() / counts.sum()
        entropy = -(shares * shares.log()).sum()
        return entropy / (shares.numel() if self.convention == "recbole" else shares.new_tensor(facts.n_items).log())
