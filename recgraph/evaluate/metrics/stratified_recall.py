"""Popularity-stratified recall."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recgraph.evaluate.metrics.base import Metric, RankedHits

_MOST = 10_000.0


@dataclass(frozen=True)
class StratifiedRecall(Metric):
    """Recall in which an item counts 1 / popularity^beta, so that what is hard to find counts more.

    Steck, "Item popularity and recommendation accuracy" (RecSys 2011). Popularity is the interactions in the training
    data; an item without any counts like one with a single interaction.

    Under ``recpack`` (``IPSHitRateK``): the sum over hits of min(all interactions / the item's, 10000), 0 for an item
    without any, not divided.

    Attributes:
        beta: 0 gives recall.
    """

    beta: float = 0.5

    name = "stratified_recall"
    conventions = ("recgraph", "recpack")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"items", "counts", "relevant"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        assert ranked.items is not None
        assert ranked.facts is not None
        assert ranked.facts.counts is not None
        assert ranked.relevant is not None
        counts = ranked.facts.counts.double()
        if self.convention == "recpack":
            weights = torch.where(counts > 0, (counts.sum() / counts.clamp(min=1)).clamp(max=_MOST), 0.0)
        else:
            weights = counts.clamp(min=1) ** -self.beta
        found = (weights[ranked.items[:, :k].clamp(min=0)] * ranked.hits[:, :k]).sum(1)
        if self.convention == "recpack":
            return found
        total = torch.zeros_like(found).index_add_(0, ranked.relevant.rows, weights[ranked.relevant.values])
        return found / total
