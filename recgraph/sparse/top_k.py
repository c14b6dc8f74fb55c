"""The k best entries of each row of a sparse matrix, with a rule for equal ones."""

from __future__ import annotations

import torch
from torch import Tensor

from recgraph.sparse.blocks import row_blocks
from recgraph.sparse.csr import Csr

#: how entries of one score are told apart at the cut; written to records beside numbers that depend on it
TIE_RULE = "highest column index first"


def top_k(adj: Csr, k: int, scores: Tensor | None = None, *among_equals: Tensor) -> Csr:
    """Each row's k best entries, with the weights they had; shorter rows stay whole.

    Args:
        adj: [R, C].
        k: at least 1.
        scores: [E], by which entries are compared (default: the weights).
        among_equals: [E] each, by which entries of equal score at the cut are compared, one after the other; what is
            equal then: :data:`TIE_RULE`.
    """
    return adj.select(top_k_mask(adj, k, adj.values() if scores is None else scores, *among_equals))


def top_k_mask(adj: Csr, k: int, scores: Tensor, *among_equals: Tensor) -> Tensor:
    """[E] bool: True for the entries that :func:`top_k` keeps.

    The k-th largest score of each row is found by a selection on blocks of rows; what is above it stays, and of what
    equals it the entries that come last.

    Args:
        adj: [R, C].
        k: at least 1.
        scores: [E].
        among_equals: [E] each, see :func:`top_k`.
    """
    long = torch.nonzero(adj.degrees > k).squeeze(1)
    # one place more than entries: where the padding of short rows points
    keep_mask = torch.ones(adj.nnz + 1, dtype=torch.bool, device=adj.device)
    if long.numel():
        keys = [_padded(key) for key in (scores, *among_equals)]
        # rows of similar length share a block, so that little of it is padding
        long = long[torch.argsort(adj.degrees[long], stable=True)]
        for block in row_blocks(long.numel(), int(adj.degrees[long[-1]]), scores):
            places = _places(adj, long[block])
            keep_mask[places] = _best(k, *(key[places] for key in keys))
    return keep_mask[:-1]


def _places(adj: Csr, rows: Tensor) -> Tensor:
    """[b, W]: the entries of each row, then E up to the longest row's length."""
    degrees = adj.degrees[rows]
    position = torch.arange(int(degrees.max()), device=adj.device)
    return torch.where(position < degrees[:, None], adj.indptr[rows, None] + position, adj.nnz)


def _padded(scores: Tensor) -> Tensor:
    return torch.cat([scores.detach(), scores.new_full((1,), -torch.inf)])


def _best(k: int, scores: Tensor, *among_equals: Tensor) -> Tensor:
    """[b, W] bool: the k best of each row, of equal ones those of the best further key, of equal ones the last."""
    # the smallest of the k largest; kthvalue counts from the smallest
    cut = scores.kthvalue(scores.shape[1] - k + 1, dim=1, keepdim=True).values
    above, level = scores > cut, scores == cut
    for key in among_equals:
        room = k - above.sum(1, keepdim=True)
        equals = key.masked_fill(~level, -torch.inf)
        # the smallest of the equals that there is room for
        cut = equals.topk(int(room.max()), dim=1).values.gather(1, room - 1)
        above |= equals > cut
        level = equals == cut
    room = k - above.sum(1, keepdim=True)
    up_to_here = level.cumsum(1)
    from_the_right = up_to_here[:, -1:] - up_to_here + 1
    return above | (level & (from_the_right <= room))
