"""Gini: how unequally recommendations are spread over the items."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recgraph.evaluate.metrics._listed import listed
from recgraph.evaluate.metrics.base import Aggregate, RankedHits, ranks


@dataclass(frozen=True)
class Gini(Aggregate):
    """The Gini index of how often each item of the catalogue is among the first k: 0 for all alike, near 1 for few.

    With x ascending it is the sum of (2i - N - 1) x_i / (N sum x). Under ``recbole`` its padding item counts as one
    more item that is never recommended.

    Attributes:
        patience: weigh an item at rank j by patience^(j-1), its exposure, instead of 1 (LensKit's ``ExposureGini``).
    """

    patience: float | None = None

    name = "gini"
    higher_is_better = False
    conventions = ("recgraph", "recbole", "lenskit")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"items", "facts"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        counts, facts = listed(ranked, k)
        shares = counts.double()
        if self.patience is not None:
            assert ranked.items is not None
            items = ranked.items[:, :k]
            weights = (self.patience ** (ranks(k, items) - 1)).expand_as(items)
            shares = torch.bincount(items[items >= 0], weights[items >= 0], minlength=facts.n_items)
        if self.convention == "recbole":
            shares = torch.cat([shares, shares.new_zeros(1)])
        size = shares.numel()
        return ((2 * ranks(size, shares) - size - 1) * shares.sort().values).sum() / (size * shares.sum())
