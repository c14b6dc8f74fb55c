"""Tail share: how much of a list is unpopular."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recgraph.evaluate.metrics._listed import average
from recgraph.evaluate.metrics.base import Metric, RankedHits


@dataclass(frozen=True)
class TailShare(Metric):
    """The share of the first k that belongs to the least popular items (RecBole's ``TailPercentage``).

    The tail is the first max(int(ratio m), 1) of the m items with an interaction, by interactions and then by index;
    items without any are no part of it. An empty list has no value.

    Attributes:
        ratio: the share of the items that makes the tail.
    """

    ratio: float = 0.2

    name = "tail_share"
    conventions = ("recgraph", "recbole")
    needs_truth = False

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"items", "counts"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        assert ranked.items is not None
        assert ranked.facts is not None
        assert ranked.facts.counts is not None
        counts = ranked.facts.counts
        ascending = counts.argsort(stable=True)
        ascending = ascending[counts[ascending] > 0]
        tail = torch.zeros_like(counts, dtype=torch.bool)
        tail[ascending[: max(int(self.ratio * ascending.numel()), 1)]] = True
        return average(tail[ranked.items[:, :k].clamp(min=0)], ranked, k)
