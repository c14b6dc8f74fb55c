"""Which entries of a matrix are taken: the k best of each row, random ones, and random parts of
hubs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recgraph.sparse.blocks import row_blocks
from recgraph.sparse.csr import Csr
from recgraph.sparse.ragged import Ragged, consecutive

#: how entries of one score are told apart at the cut
TIE_RULE = "highest column index first"


def top_k(adj: Csr, k: int, scores: Tensor, *among_equals: Tensor) -> Csr:
    """Each row's k best entries by ``scores`` [E]; shorter rows stay whole.

    Entries of equal score at the cut are compared by ``among_equals`` [E], one after the other,
    then by :data:`TIE_RULE`.
    """
    long = torch.nonzero(adj.degrees > k).squeeze(1)
    # one place more than entries: where the padding of short rows points
    keep_mask = torch.ones(adj.nnz + 1, dtype=torch.bool, device=adj.device)
    if long.numel():
        keys = [
            torch.cat([key.detach(), key.new_full((1,), -torch.inf)])
            for key in (scores, *among_equals)
        ]
        # rows of similar length share a block, so that little of it is padding
        long = long[torch.argsort(adj.degrees[long], stable=True)]
        for block in row_blocks(long.numel(), int(adj.degrees[long[-1]]), scores):
            rows = long[block]
            # the entries of each row, then E up to the longest row's length
            position = torch.arange(int(adj.degrees[rows[-1]]), device=adj.device)
            places = torch.where(
                position < adj.degrees[rows, None], adj.indptr[rows, None] + position, adj.nnz
            )
            keep_mask[places] = _best(k, *(key[places] for key in keys))
    return adj.select(keep_mask[:-1])


def _best(k: int, scores: Tensor, *among_equals: Tensor) -> Tensor:
    """[b, W] bool: the k best of each row, of equal ones those of the best further key, of equal
    ones the last.
    """
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


def sample_rows(
    adj: Csr,
    rows: Tensor,
    fan_out: int | None,
    generator: torch.Generator | None,
    replace: bool = False,
) -> tuple[Ragged, Tensor]:
    """Draw at most ``fan_out`` entries of each of some rows [K], uniformly; None takes all and
    draws nothing.

    Costs the entries drawn, not those of the rows. Without replacement a row of no more entries is
    taken whole, from any other all subsets are equally likely (Floyd's algorithm, Communications of
    the ACM 30, 1987, for all rows at once). With replacement each row with entries gives
    ``fan_out`` independent ones.

    Returns K rows of places in the matrix's ``indices``, ascending; and [K] float64, entries a row
    has for each that was drawn: sums over the drawn entries times this are unbiased estimates of
    sums over the row.
    """
    starts = adj.indptr[rows]
    degrees = adj.indptr[rows + 1] - starts
    if fan_out is None:
        return consecutive(starts, degrees), degrees.new_ones(len(degrees), dtype=torch.float64)
    assert generator is not None
    if replace:
        counts = torch.where(degrees > 0, fan_out, 0)
        below = degrees.clamp(min=1)[:, None].expand(-1, fan_out)
        picks = _uniform(below, generator).sort(1).values
    else:
        counts = degrees.clamp(max=fan_out)
        picks = torch.arange(fan_out, device=adj.device).repeat(len(rows), 1)
        long = torch.nonzero(degrees > fan_out).squeeze(1)
        picks[long] = _distinct(degrees[long], fan_out, generator)
    drawn = (picks + starts[:, None])[torch.arange(fan_out, device=adj.device) < counts[:, None]]
    inverse_rates = degrees.clamp(min=1).to(torch.float64) / counts.clamp(min=1)
    return Ragged.from_lengths(drawn, counts), inverse_rates


def _uniform(below: Tensor, generator: torch.Generator) -> Tensor:
    """One integer for each entry, uniform on ``0 ... below - 1``."""
    draw = torch.rand(
        below.shape, generator=generator, device=generator.device, dtype=torch.float64
    )
    return torch.minimum((draw.to(below.device) * below).to(torch.int64), below - 1)


def _distinct(degrees: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """[K, k] int64: k different numbers below each degree (all above k), ascending."""
    tops = degrees[:, None] - k + torch.arange(k, device=degrees.device)
    draws = _uniform(tops + 1, generator)
    # the c-th is drawn from 0 ... top_c; one that is taken already gives way to top_c itself, which
    # cannot be
    for c in range(1, k):
        taken = (draws[:, :c] == draws[:, c, None]).any(1)
        draws[:, c] = torch.where(taken, tops[:, c], draws[:, c])
    return draws.sort(1).values


def split_hubs(left: Csr, right: Csr, cap: int, generator: torch.Generator) -> tuple[Csr, Csr]:
    """``L`` and ``R``, of whose product the pairs through a hub are a random part, so that it costs
    few.

    A hub, a middle node with more than ``cap`` entries in R, becomes as many middle nodes as it
    takes for each to have ``cap`` entries at most, dealt out at random, evenly. A row i of L keeps
    its entry, at the one of them that has the hub's entry for column i, or at a random one where
    there is none. So a row meets through a hub of d entries each other column with a chance of
    about ``cap / d``, and its own always; a transpose of L stays one; and the product costs at most
    ``cap`` pairs for each entry of L. Both, [N, K] and [K, N], have one entry a place.
    """
    n_groups = torch.where(right.degrees > cap, -(-right.degrees // cap), 1)
    if not bool((n_groups > 1).any()):
        return left, right
    first = torch.cumsum(n_groups, 0) - n_groups
    n_middle = int(n_groups.sum())
    keys = torch.rand(right.nnz, generator=generator, device=generator.device, dtype=torch.float64)
    order = torch.argsort(keys.to(right.device))
    order = order[torch.argsort(right.rows[order], stable=True)]
    place = torch.arange(right.nnz, device=right.device) - right.indptr[:-1][right.rows]
    group = torch.empty_like(place)
    group[order] = place % n_groups[right.rows]
    entries = right.entries_at(left.indices, left.rows)
    left_group = group[entries]
    is_missing = entries < 0
    if bool(is_missing.any()):
        drawn = _uniform(n_groups[left.indices], generator)
        left_group = torch.where(is_missing, drawn, left_group)
    columns = first[left.indices] + left_group
    split = Csr.from_coo(left.rows, columns, left.weights, shape=(left.shape[0], n_middle))
    if right is left.t():
        return split, split.t()
    rows = first[right.rows] + group
    return split, Csr.from_coo(rows, right.indices, right.weights, shape=(n_middle, right.shape[1]))
