"""Average popularity of what is recommended."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recgraph.evaluate.metrics._listed import average
from recgraph.evaluate.metrics.base import Facts, Metric, RankedHits


@dataclass(frozen=True)
class AveragePopularity(Metric):
    """The mean over the first k of the item's interactions in the training data. An empty list has no value.

    Under ``lenskit`` (``MeanPopRank``) the mean of the item's popularity rank, from 0 to 1, among items with an
    interaction; 0 for others.

    Attributes:
        normalize: divide by all interactions (RecTools' ``normalize=True``).
    """

    normalize: bool = False

    name = "average_popularity"
    higher_is_better = False
    conventions = ("recgraph", "recbole", "rectools", "lenskit", "pyg")
    needs_truth = False

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"items", "counts"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        assert ranked.items is not None
        assert ranked.facts is not None
        assert ranked.facts.counts is not None
        counts = ranked.facts.counts.double()
        if self.convention == "lenskit":
            counts = _popularity_rank(ranked.facts)
        elif self.normalize:
            counts = counts / counts.sum()
        return average(counts[ranked.items[:, :k].clamp(min=0)], ranked, k)


def _popularity_rank(facts: Facts) -> Tensor:
    """[n_items] float64: (average ascending rank among items with an interaction) / their number; 0 for others."""
    assert facts.counts is not None
    known = facts.counts > 0
    _, group, size = torch.unique(facts.counts[known], return_inverse=True, return_counts=True)
    middle = size.cumsum(0) - (size - 1) / 2
    ranks = torch.zeros(facts.n_items, dtype=torch.float64)
    ranks[known] = middle[group].double() / int(known.sum())
    return ranks
