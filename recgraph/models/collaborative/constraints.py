"""What UltraGCN puts in the place of propagation: weights of pairs of users and items, and each item's neighbours."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from recgraph.sparse.products import distinct, neighbours
from recgraph.sparse.ragged import Ragged

__all__ = ["Degrees", "Neighbours", "degrees_of", "neighbours_of"]


class Degrees(NamedTuple):
    """The factors of ``b_ui = sqrt(d_u + 1) / (d_u sqrt(d_i + 1))``, the weight of a pair. Attributes: ``users``
    [n_users], 0 of users without items; ``items`` [n_items]."""

    users: Tensor
    items: Tensor

    def to(self, device: torch.device) -> Degrees:
        """On a device."""
        return Degrees(self.users.to(device), self.items.to(device))


def degrees_of(rows: Ragged, n_items: int, like: Tensor) -> Degrees:
    """The factors by the training part, in the type and on the device of a tensor.

    Args:
        rows: the items of each user; repeats do not count.
        n_items: the number of items.
    """
    once = distinct(rows, n_items)
    d_u = once.lengths.to(torch.float64)
    d_i = torch.bincount(once.values, minlength=n_items).to(torch.float64)
    of_users = torch.where(d_u > 0, (d_u + 1).sqrt() / d_u.clamp(min=1), 0)
    return Degrees(of_users.to(like), (d_i + 1).rsqrt().to(like))


class Neighbours(NamedTuple):
    """The items nearest to each item. Attributes: ``items`` [n_items, K] int64; ``weights`` [n_items, K], the greatest
    first, 0 in unused places."""

    items: Tensor
    weights: Tensor

    def to(self, device: torch.device) -> Neighbours:
        """On a device."""
        return Neighbours(self.items.to(device), self.weights.to(device))


def neighbours_of(rows: Ragged, n_items: int, k: int, like: Tensor, with_itself: bool = True) -> Neighbours:
    """The k greatest ``w_ij = C_ij sqrt(g_i + 1) / (g_i sqrt(g_j + 1))`` of each item i.

    C counts the users who have both items, C_ii those of item i, and g are the sums of its rows.

    Args:
        rows: the items of each user; repeats do not count.
        n_items: the number of items.
        with_itself: whether the diagonal of C counts, so that an item may be its own neighbour; else it is 0.
    """
    once = distinct(rows, n_items)
    others = (once.lengths - (0 if with_itself else 1)).to(torch.float64)
    sums = torch.bincount(once.values, others[once.rows], minlength=n_items)
    found, weights = neighbours(once, n_items, min(k, n_items), norms=(sums + 1).sqrt(), with_itself=with_itself)
    # (g_i + 1) / g_i does not alter the order in a row
    factor = torch.where(sums > 0, (sums + 1) / sums.clamp(min=1), 0)
    return Neighbours(found, (weights * factor[:, None]).to(like))
