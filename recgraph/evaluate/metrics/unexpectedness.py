"""Unexpectedness: how much of a list the most popular items do not already hold."""

from __future__ import annotations

import torch
from torch import Tensor

from recgraph.evaluate.metrics._listed import average
from recgraph.evaluate.metrics.base import Metric, RankedHits


class Unexpectedness(Metric):
    """The share of the first k that is not among the k most popular items. An empty list has no value.

    Under ``replay``, against the same baseline, 1 - (shared items) / k: short lists look more unexpected, an empty one
    is 0.
    """

    name = "unexpectedness"
    conventions = ("recgraph", "replay")
    needs_truth = False

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"items", "counts"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        assert ranked.items is not None
        assert ranked.facts is not None
        items = ranked.items[:, :k]
        popular = torch.zeros(ranked.facts.n_items, dtype=torch.bool)
        popular[ranked.facts.by_popularity[:k]] = True
        expected = popular[items.clamp(min=0)] & (items >= 0)
        if self.convention == "replay":
            return (1 - expected.sum(1).double() / k).masked_fill((items < 0).all(1), 0.0)
        return average(~expected, ranked, k)
