"""The neighbours of HeCo's schema view: how they are sampled, and the attention over them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recgraph.accelerated import full_precision
from recgraph.blocks import work_type
from recgraph.rng import dropout
from recgraph.sparse.csr import Csr
from recgraph.sparse.ragged import row_softmax
from recgraph.sparse.spmm import spmm

__all__ = ["NeighbourAttention", "sample_neighbours"]


class NeighbourAttention(nn.Module):
    """``z_i = sum_{j in N_i} alpha_ij h_j``, ``alpha_i = softmax_j(LeakyReLU(a . [h_i || h_j]))``.

    Source: HeCo (KDD 2021), equations 2 and 3. ``a . [h_i || h_j]`` is a sum of two products with rows, so that no
    tensor of pairs and widths is made. A node without neighbours gets zeros.

    Args:
        dim: D.
        dropout: of the entries of ``a``.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.att = nn.Parameter(torch.empty(2, dim))
        # one row of 2 D entries, as published, of which this is a view
        nn.init.xavier_normal_(self.att.view(1, -1), gain=1.414)

    def forward(self, h: Tensor, neighbours: Tensor, adj: Csr, generator: torch.Generator | None) -> Tensor:
        """[N, D], in float32 at least.

        Args:
            h: [N, D], the nodes.
            neighbours: [M, D].
            adj: [N, M], without weights: an entry is a neighbour, twice where it was drawn twice.
        """
        att = dropout(self.att, self.dropout, generator if self.training else None)
        work = work_type(h, neighbours, att)
        h, neighbours = h.to(work), neighbours.to(work)
        # autocast would give the sums over neighbours other types than what is summed
        with full_precision(h):
            scores = F.leaky_relu((h @ att[0])[adj.rows] + (neighbours @ att[1])[adj.indices], 0.01)
            return spmm(adj.with_weights(row_softmax(scores, adj.indptr, adj.rows)), neighbours)


def sample_neighbours(adj: Csr, n: int, generator: torch.Generator) -> Csr:
    """n neighbours of each row, without replacement where there are n or more, else with (HeCo's way).

    Args:
        adj: [N, M], without weights.
        generator: on the device of ``adj``, or on the host.

    Returns:
        [N, M] with n entries in each row that has one, without weights.
    """
    degrees = adj.degrees
    long = degrees >= n
    # without replacement: the first n of each long row in random order
    keys = torch.rand(adj.nnz, generator=generator, device=generator.device).to(adj.device)
    first = _smallest(adj, keys, n, long)
    short = torch.nonzero(~long & (degrees > 0)).squeeze(1)
    draws = torch.rand(short.numel(), n, generator=generator, device=generator.device).to(adj.device)
    again = adj.indptr[short, None] + (draws * degrees[short, None]).long().clamp(max=degrees[short, None] - 1)
    entries = torch.cat([first, again.view(-1)])
    return Csr.from_coo(adj.rows[entries], adj.indices[entries], shape=adj.shape)


# of a row's n smallest keys, uniform on 0 ... 1, all lie below (3 n + 10) / degree but for about one row in a million
_SLOPE, _MORE = 3, 10


def _smallest(adj: Csr, keys: Tensor, n: int, of_rows: Tensor) -> Tensor:
    """The entries with the n smallest keys of each row where ``of_rows`` [N], of equal keys the first ones.

    What is sorted is about 3 n + 10 entries a row, whatever the degrees: those of small keys. A row that has fewer than
    n of them is sorted whole.
    """
    rows, degrees = adj.rows, adj.degrees
    if 2 * int(degrees.clamp(max=_SLOPE * n + _MORE).sum()) > adj.nnz:  # most of them would be sorted
        order = torch.argsort(rows + keys.to(torch.float64), stable=True)
        place = torch.arange(adj.nnz, device=adj.device) - adj.indptr[:-1][rows]
        return order[(place < n) & of_rows[rows]]
    small = (keys < ((_SLOPE * n + _MORE) / degrees.clamp(min=1))[rows]) & of_rows[rows]
    counts = torch.bincount(rows[small], minlength=adj.shape[0])
    if bool((lacking := of_rows & (counts < n)).any()):
        small |= lacking[rows]
        counts = torch.where(lacking, degrees, counts)
    entries = torch.nonzero(small).squeeze(1)
    of_entries = rows[entries]
    # entries stay in their rows, whose places they share out anew
    order = torch.argsort(of_entries + keys[entries].to(torch.float64), stable=True)
    place = torch.arange(len(entries), device=adj.device) - (torch.cumsum(counts, 0) - counts)[of_entries]
    return entries[order[place < n]]
