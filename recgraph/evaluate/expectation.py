"""The exact expectation over all orders of equal scores, in place of one of them."""

from __future__ import annotations

import torch
from torch import Tensor

from recgraph.evaluate.ranked import Places, Ties
from recgraph.sparse.ragged import Ragged


def expected_hits(places: Places, depth: int, grades: Tensor | None = None) -> tuple[Tensor, Tensor | None, Ties]:
    """Lists in which each place holds the probability of a hit.

    A group of n candidates with the same score, m of them relevant, takes n consecutive places; over all their orders
    each of these is a hit with probability m / n.

    Args:
        places: of the relevant items.
        depth: the length of the lists.
        grades: [T] float64, aligned with ``places.above.values``, or None.

    Returns:
        hits [U, depth] float64, gains [U, depth] float64 or None, and the groups; a place without a relevant item in
        its group is a group of its own.
    """
    n_users, device = places.above.n_rows, places.above.device
    shape = (n_users, depth)
    hits = torch.zeros(shape, dtype=torch.float64, device=device)
    gains = None if grades is None else torch.zeros_like(hits)
    ties = Ties(*(torch.full(shape, fill, device=device) for fill in (0, 1, 0)))
    listed = places.reachable & (places.above.values < depth)
    keys = (places.above.rows * depth + places.above.values)[listed]
    keys, group, n_hits = torch.unique(keys, return_inverse=True, return_counts=True)
    size = torch.zeros_like(keys).scatter_(0, group, places.equal[listed])
    above = keys % depth
    lengths = size.minimum(depth - above)
    taken = Ragged.from_lengths(torch.empty(int(lengths.sum()), device=device), lengths)
    rows, offset = taken.rows, taken.positions
    at = (keys // depth)[rows], above[rows] + offset
    hits[at] = (n_hits.double() / size)[rows]
    if grades is not None and gains is not None:
        total = torch.zeros(keys.numel(), dtype=torch.float64, device=device).index_add_(0, group, grades[listed])
        gains[at] = (total / size)[rows]
    ties.offset[at], ties.size[at], ties.n_hits[at] = offset, size[rows], n_hits[rows]
    return hits, gains, ties
