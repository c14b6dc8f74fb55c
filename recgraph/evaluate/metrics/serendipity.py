"""Serendipity: relevant items that popularity would not have put there."""

from __future__ import annotations

import torch
from torch import Tensor

from recgraph.evaluate.metrics._listed import average
from recgraph.evaluate.metrics.base import Metric, RankedHits, ranks


class Serendipity(Metric):
    """The mean over the first k of max(p - q, 0) for hits and 0 for others.

    p = (N + 1 - rank) / N of the N items in the catalogue; q the same of the item's rank by popularity, equally popular
    items sharing a rank and the next one following without a gap; 0 for an item without interactions. (RecTools'.) A
    user without relevant items counts as 0, an empty list has no value.
    """

    name = "serendipity"
    conventions = ("recgraph", "rectools")
    needs_truth = False

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"items", "counts"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        assert ranked.items is not None
        assert ranked.facts is not None
        assert ranked.facts.counts is not None
        counts, size = ranked.facts.counts, ranked.facts.n_items
        _, group = torch.unique(-counts, return_inverse=True)
        expected = ((size - group).double() / size).masked_fill(counts == 0, 0.0)
        own = (size + 1 - ranks(k, ranked.items)) / size
        surprise = (own - expected[ranked.items[:, :k].clamp(min=0)]).clamp(min=0)
        return average(surprise * ranked.hits[:, :k], ranked, k)
