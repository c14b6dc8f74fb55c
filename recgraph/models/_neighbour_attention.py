"""Attention over a node's neighbours of one type, as HeCo's schema view has it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recgraph.blocks import work_type
from recgraph.rng import dropout
from recgraph.sparse.csr import Csr
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
        nn.init.xavier_normal_(self.att, gain=1.414)

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
        with torch.autocast(h.device.type, enabled=False):
            scores = F.leaky_relu((h @ att[0])[adj.rows] + (neighbours @ att[1])[adj.indices], 0.01)
            peak = torch.segment_reduce(scores.detach(), "max", offsets=adj.indptr, initial=-torch.inf)
            weights = (scores - peak[adj.rows]).exp()
            total = torch.zeros_like(h[:, 0]).index_add(0, adj.rows, weights)
            return spmm(adj.with_weights(weights / total[adj.rows]), neighbours)


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
    order = torch.argsort(adj.rows + keys.to(torch.float64), stable=True)
    place = torch.arange(adj.nnz, device=adj.device) - adj.indptr[:-1][adj.rows]
    first = order[(place < n) & long[adj.rows]]
    short = torch.nonzero(~long & (degrees > 0)).squeeze(1)
    draws = torch.rand(short.numel(), n, generator=generator, device=generator.device).to(adj.device)
    again = adj.indptr[short, None] + (draws * degrees[short, None]).long().clamp(max=degrees[short, None] - 1)
    entries = torch.cat([first, again.view(-1)])
    return Csr.from_coo(adj.rows[entries], adj.indices[entries], shape=adj.shape)
