"""How often each item is recommended, which metrics of all lists together read."""

from __future__ import annotations

import torch
from torch import Tensor

from recgraph.evaluate.metrics.base import Facts, RankedHits


def listed(ranked: RankedHits, k: int) -> tuple[Tensor, Facts]:
    """[n_items] int64: the lists with each item among their first ``k``; and the facts of the items."""
    assert ranked.items is not None
    assert ranked.facts is not None
    items = ranked.items[:, :k]
    return torch.bincount(items[items >= 0], minlength=ranked.facts.n_items), ranked.facts


def average(values: Tensor, ranked: RankedHits, k: int) -> Tensor:
    """[U] float64: the mean over the listed items of ``values`` [U, k]; NaN for an empty list."""
    assert ranked.items is not None
    mask = ranked.items[:, :k] >= 0
    return (values.double() * mask).sum(1) / mask.sum(1)
