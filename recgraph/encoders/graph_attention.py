"""Attention over the neighbours of nodes along several paths, joined by semantic attention (GAT, HAN)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recgraph.accelerated import full_precision
from recgraph.blocks import work_type
from recgraph.config import ConfigError
from recgraph.encoders.base import dropout_generator
from recgraph.encoders.graph import SemanticAttention, weighted_sum
from recgraph.rng import dropout
from recgraph.sparse.csr import Csr
from recgraph.sparse.ragged import row_softmax
from recgraph.sparse.spmm import spmm

__all__ = ["GraphAttention", "HANLayer", "NodeNorm"]


class GraphAttention(nn.Module):
    """Heads k of attention in a row: ``z_i = [sum_j drop(alpha_ij) W_k x_j]_k + b`` over the neighbours j of i, with
    ``alpha_i = softmax_j(LeakyReLU(a_k . W_k x_i + c_k . W_k x_j))``.

    Source: Velickovic et al., Graph Attention Networks (ICLR 2018). Heads follow one another, so that what is held for
    an entry of the adjacency is a number a head.

    Args:
        in_dim: F.
        dim: D, of all heads together.
        n_heads: K, a divisor of D.
        dropout: of the shares alpha.
        slope: of LeakyReLU below 0.

    Raises:
        ValueError: D is no multiple of K.
    """

    def __init__(self, in_dim: int, dim: int, n_heads: int, dropout: float, slope: float = 0.2) -> None:
        super().__init__()
        if dim % n_heads:
            raise ConfigError(f"n_heads = {n_heads} must divide the width {dim}")
        self.dropout, self.slope = dropout, slope
        self.fc = nn.Linear(in_dim, dim, bias=False)
        self.att = nn.Parameter(torch.empty(2, n_heads, dim // n_heads))
        self.bias = nn.Parameter(torch.zeros(dim))
        gain = nn.init.calculate_gain("relu")
        nn.init.xavier_normal_(self.fc.weight, gain=gain)
        for one in self.att:
            nn.init.xavier_normal_(one, gain=gain)

    def forward(self, adj: Csr, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[N, D], in float32 at least.

        Args:
            adj: [N, N], whose weights are not read: j is a neighbour of i where row i has an entry in column j.
            x: [N, F].
            generator: draws dropout; required in training mode where dropout is above 0.
        """
        generator = dropout_generator(self, self.dropout, generator)
        h = self.fc(x)
        work = work_type(h, self.att)
        # autocast would give the sums over neighbours other types than what is summed
        with full_precision(h):
            heads = h.to(work).unflatten(1, self.att.shape[1:]).unbind(1)
            parts = []
            for of_self, of_other, one in zip(*self.att.to(work), heads, strict=True):
                scores = F.leaky_relu((one @ of_self)[adj.rows] + (one @ of_other)[adj.indices], self.slope)
                shares = dropout(row_softmax(scores, adj.indptr, adj.rows), self.dropout, generator)
                parts.append(spmm(adj.with_weights(shares), one.contiguous()))
            return torch.cat(parts, 1) + self.bias


class NodeNorm(nn.Module):
    """``w (x - mean) / sqrt(variance + 1e-5) + b`` of each component over the nodes, also in evaluation mode.

    Source: batch normalisation (Ioffe and Szegedy, ICML 2015), of a graph that is one batch: no means are kept.

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """[N, D] of [N, D]."""
        variance, mean = torch.var_mean(x, 0, correction=0)
        return (x - mean) * torch.rsqrt(variance + 1e-5) * self.weight + self.bias


class HANLayer(nn.Module):
    """``sum_p beta_p z_p``: for each path p attention over its neighbours, then semantic attention over the paths.

    Source: Wang et al., Heterogeneous Graph Attention Network (WWW 2019); norm and activation as HGMAE has them:
    ``z_p = PReLU(norm(attention_p(x)))``.

    Args:
        n_paths: P.
        in_dim, dim, n_heads, dropout: of each path's :class:`GraphAttention`.
        activated: with norm and activation; without, ``z_p`` is what attention gives.
        inner_dim: of the semantic attention.
    """

    def __init__(
        self,
        n_paths: int,
        in_dim: int,
        dim: int,
        n_heads: int,
        dropout: float,
        activated: bool = True,
        inner_dim: int = 128,
    ) -> None:
        super().__init__()
        self.paths = nn.ModuleList(GraphAttention(in_dim, dim, n_heads, dropout) for _ in range(n_paths))
        self.activations = nn.ModuleList(
            nn.Sequential(NodeNorm(dim), nn.PReLU()) if activated else nn.Identity() for _ in range(n_paths)
        )
        self.attention = SemanticAttention(dim, inner_dim)

    def forward(
        self, adjacencies: Sequence[Csr], x: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """[N, D], and [P] beta.

        Args:
            adjacencies: of each path, [N, N].
            x: [N, F].
            generator: draws dropout; required in training mode where dropout is above 0.
        """
        views = [
            activation(attention(adj, x, generator))
            for attention, activation, adj in zip(self.paths, self.activations, adjacencies, strict=True)
        ]
        beta = self.attention.weights(views)
        return weighted_sum(views, beta), beta
