"""The three-layer perceptron: MCLRec's augmenter."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from recgraph.sparse.ragged import Ragged
from recgraph.views.latent.base import Augmenter, Variant


class MLP(Augmenter):
    """``D -> D/2 -> D/4 -> D`` with exact GELU after the first two layers, then L2.

    As published (64 -> 32 -> 16 -> 64, and the layers' names). Rows do not mix, so both variants are the
    same.
    """

    def __init__(self, hidden_dim: int, variant: Variant = "row") -> None:
        super().__init__(hidden_dim, variant)
        half, quarter = max(hidden_dim // 2, 1), max(hidden_dim // 4, 1)
        self.dense_1 = nn.Linear(hidden_dim, half)
        self.dense_2 = nn.Linear(half, quarter)
        self.dense_3 = nn.Linear(quarter, hidden_dim)

    def _augment(self, hidden: Tensor, states: Ragged | None) -> Tensor:
        inner: Tensor = F.gelu(self.dense_2(F.gelu(self.dense_1(hidden))))
        out: Tensor = self.dense_3(inner)
        return out
