"""A transformer whose places see what lies before and behind them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recgraph.encoders.attention import Layout
from recgraph.encoders.packed import Asked
from recgraph.encoders.transformer import Layer, Transformer, initialise

__all__ = ["BidirectionalTransformer"]


class BidirectionalLayer(Layer):
    """A :class:`~recgraph.encoders.transformer.Layer` whose places see all of their row."""

    def some(self, x: Tensor, layout: Layout, asked: Asked, generator: torch.Generator | None) -> Tensor:
        of_asked = x.index_select(0, asked.tokens)
        return self._finish(of_asked, self._attend_last(x, of_asked, layout, generator, asked), generator)

    def _hidden(self, places: Tensor, keep_mask: Tensor | None) -> Tensor:
        return places < 0 if keep_mask is None else ~keep_mask[:, None, None]


class BidirectionalTransformer(Transformer):
    """Transformer of :class:`~recgraph.models.sequence.bert4rec.BERT4Rec`; see there.

    As :class:`~recgraph.encoders.transformer.Transformer`, but each place attends to all places of its row. A masked
    item, token 0, is a token with a learned vector as the others; a history is read by one that stands behind it. The
    states are ``LN(gelu(W x + b))`` of the last layer's output.

    Args:
        hidden_dim, max_len, dropout, n_layers, n_heads, inner_dim, attention_dropout: as of the transformer.

    Raises:
        ValueError: ``n_heads`` does not divide ``hidden_dim``.
    """

    layer_class = BidirectionalLayer
    drops_masked = False
    sees_all = True
    ends_masked = True

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
        super().__init__(hidden_dim, max_len, dropout, n_layers, n_heads, inner_dim, attention_dropout)
        self.head = nn.Linear(hidden_dim, hidden_dim)
        self.head_norm = nn.LayerNorm(hidden_dim, eps=1e-12)
        initialise(self.head)

    def leave(self, x: Tensor) -> Tensor:
        out: Tensor = self.head_norm(F.gelu(self.head(x)))
        return out
