"""Layers of a target whose features differ from meta-path to meta-path."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recgraph.models.base_graph import TypeLayer
from recgraph.sparse.csr import Csr

__all__ = ["PathLayers"]


class _BlockLayer(TypeLayer):
    """A :class:`TypeLayer` that reads some consecutive columns of the features."""

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
        split: whether there are features to be split.
        hidden_dim: D.
        dropout: of what the layers give.

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
