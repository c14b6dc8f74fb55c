"""eSASRec's encoder: a transformer of LiGR layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recgraph.encoders._packing import Packed
from recgraph.encoders.transformer import Layer, Transformer
from recgraph.rng import dropout

__all__ = ["GatedTransformer"]


class GatedLayer(Layer):
    """``x <- x + sigmoid(G1 x) attention(LN x)``, then ``x <- x + sigmoid(G2 x) FFN(LN x)``: what a part adds is gated
    by the state that it is added to. The feed-forward part is SwiGLU, ``W3 (silu(W1 x) * W2 x)``, without biases."""

    def __init__(self, hidden_dim: int, inner_dim: int, n_heads: int, dropout: float, attention_dropout: float) -> None:
        super().__init__(hidden_dim, inner_dim, n_heads, dropout, attention_dropout)
        self.attention_norm = nn.LayerNorm(hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim)
        self.attention_gate = nn.Linear(hidden_dim, hidden_dim)
        self.gate = nn.Linear(hidden_dim, hidden_dim)
        # W1 and W2 as one product
        self.up = nn.Linear(hidden_dim, 2 * inner_dim, bias=False)
        self.down = nn.Linear(inner_dim, hidden_dim, bias=False)

    def forward(self, x: Tensor, packed: Packed, generator: torch.Generator | None) -> Tensor:
        return self._finish(x, self._attend(self.attention_norm(x), packed, generator), generator)

    def last(self, x: Tensor, packed: Packed, generator: torch.Generator | None) -> Tensor:
        normed = self.attention_norm(x)
        attended = self._attend_last(normed, normed.index_select(0, packed.last), packed, generator)
        return self._finish(x.index_select(0, packed.last), attended, generator)

    def _after_attention(self, x: Tensor, attended: Tensor, generator: torch.Generator | None) -> Tensor:
        gate = torch.sigmoid(self.attention_gate(x))
        return x + gate * dropout(self.out(attended), self.dropout, generator)

    def _feed_forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        opened, given = self.up(self.norm(x)).chunk(2, -1)
        inner = dropout(F.silu(opened) * given, self.dropout, generator)
        return x + torch.sigmoid(self.gate(x)) * dropout(self.down(inner), self.dropout, generator)


class GatedTransformer(Transformer):
    """Transformer of :class:`~recgraph.models.esasrec.ESASRec`; see there.

    As :class:`Transformer`, but of pre-norm layers with gates, and without a LayerNorm of the embeddings. Matrices
    begin by Xavier (normal).

    Args:
        hidden_dim, max_len, dropout, n_layers, n_heads, inner_dim, attention_dropout: as of the transformer.

    Raises:
        ValueError: ``n_heads`` does not divide ``hidden_dim``.
    """

    def __init__(
        self,
        hidden_dim: int = 64,
        max_len: int = 50,
        dropout: float = 0.5,
        n_layers: int = 2,
        n_heads: int = 2,
        inner_dim: int = 256,
        attention_dropout: float = 0.5,
    ) -> None:
        super().__init__(hidden_dim, max_len, dropout, 0, n_heads)
        self.norm = nn.Identity()
        self.layers = nn.ModuleList(
            GatedLayer(hidden_dim, inner_dim, n_heads, dropout, attention_dropout) for _ in range(n_layers)
        )
        for name, parameter in self.layers.named_parameters():
            if parameter.ndim > 1:
                nn.init.xavier_normal_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
