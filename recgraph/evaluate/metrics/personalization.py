"""Personalization: how different the lists of two users are."""

from __future__ import annotations

import torch
from torch import Tensor

from recgraph.evaluate.metrics._listed import listed
from recgraph.evaluate.metrics.base import Aggregate, RankedHits


class Personalization(Aggregate):
    """1 - (items that two users' first k share) / (the places of a list), the mean over all pairs of users.

    An item that c users are shown is shared by c(c-1)/2 pairs, so no pair is looked at. The places are at most the
    items of the catalogue, and lists must fill them. NaN for one user.
    """

    name = "personalization"
    conventions = ("recgraph", "pyg")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"items", "facts"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        counts, facts = listed(ranked, k)
        n_users = len(ranked)
        if n_users < 2:
            return torch.tensor(float("nan"), dtype=torch.float64)
        shared = (counts.double() * (counts - 1)).sum()
        return 1 - shared / (n_users * (n_users - 1) * min(k, facts.n_items))
