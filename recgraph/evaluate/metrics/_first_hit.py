"""The distribution of the first hit over all orders of equal scores."""

from __future__ import annotations

import torch
from torch import Tensor

from recgraph.evaluate.ranked import RankedHits


def first_hit(ranked: RankedHits, k: int) -> Tensor:
    """[U, k] float64: the probability that the first hit is at each rank.

    In a group of n tied candidates with m relevant ones, whose first o are misses, the next one is a hit with
    probability m / (n - o) (McSherry and Najork, ECIR 2008, give the same as a hypergeometric tail).
    """
    ties = ranked.ties
    assert ties is not None
    hits, left = ties.n_hits[:, :k].double(), (ties.size - ties.offset)[:, :k]
    chance = (hits / left.clamp(min=1)).clamp(max=1)
    missed = (1 - chance).cumprod(1)
    return chance * torch.cat([torch.ones_like(missed[:, :1]), missed[:, :-1]], 1)
