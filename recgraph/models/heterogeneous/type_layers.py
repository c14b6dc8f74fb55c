"""Layers that make vectors of the nodes of a type from their features, which may be none."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recgraph.rng import dropout
from recgraph.sparse.csr import Csr
from recgraph.sparse.spmm import spmm


def times(x: Tensor | Csr | None, matrix: Tensor) -> Tensor:
    """[N, D]: features [N, F] times a matrix [F, D]; None is the identity, [n] int64 are rows of it."""
    if x is None:
        return matrix
    if isinstance(x, Csr):
        return spmm(x, matrix)
    return matrix[x] if x.dtype == torch.int64 else x @ matrix


class TypeLayer(nn.Module):
    """``ELU(dropout(W x + b))`` of the features of one node type; without features x is one-hot.

    Source: HeCo (KDD 2021), MEOW (SDM 2023).
    """

    def __init__(self, n_features: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(n_features, hidden_dim)
        self.dropout = dropout

    def weight(self) -> Tensor:
        """[F, D]."""
        return self.linear.weight.t()

    def forward(self, x: Tensor | Csr | None, generator: torch.Generator | None) -> Tensor:
        """[N, D] of features [N, F], dense or sparse; None: the identity; [N] int64: these rows of the identity."""
        product = times(x, self.weight())
        return F.elu(dropout(product + self.linear.bias, self.dropout, generator if self.training else None))

    @torch.no_grad()
    def begin_at(self, rows: Tensor) -> None:
        """Begin with these vectors [N, D] of nodes without features, and without bias."""
        self.linear.weight.copy_(rows.t())
        self.linear.bias.zero_()


class _BlockLayer(TypeLayer):
    """A :class:`TypeLayer` of one of several blocks of columns of the features."""

    def __init__(self, place: int, n_blocks: int, width: int, hidden_dim: int, dropout: float) -> None:
        super().__init__(width, hidden_dim, dropout)
        self.before, self.after = place * width, (n_blocks - 1 - place) * width

    def weight(self) -> Tensor:
        return F.pad(super().weight(), (0, 0, self.before, self.after))


class PathLayers(nn.Module):
    """A layer for each of P meta-paths over the features of the target.

    Features [N, F] are P matrices side by side, of equal widths, and each layer reads its own. Without features each
    path has a row of its own for each node.

    Source: the code of MEOW and AdaMEOW, for AMiner, whose papers have an embedding of random walks for each path.

    Args:
        n_features: F; without features the number of nodes.
        n_paths: P.
        split: whether the target has features.
        hidden_dim: D.
        dropout: of the layers.

    Raises:
        ValueError: F is no multiple of P.
    """

    def __init__(self, n_features: int, n_paths: int, split: bool, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        if split and n_features % n_paths:
            raise ValueError(
                f"features_per_path: the target's {n_features} features are not {n_paths} matrices of equal width side "
                "by side; give as many columns to each path"
            )
        blocks, width = (n_paths, n_features // n_paths) if split else (1, n_features)
        self.layers = nn.ModuleList(
            _BlockLayer(number % blocks, blocks, width, hidden_dim, dropout) for number in range(n_paths)
        )

    def forward(self, x: Tensor | Csr | None, generator: torch.Generator | None) -> Tensor:
        """[P, N, D]; the arguments are those of :class:`TypeLayer`."""
        return torch.stack([layer(x, generator) for layer in self.layers])
