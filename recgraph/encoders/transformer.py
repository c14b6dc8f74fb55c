"""SASRec's transformer over packed tokens, as RecBole and MCLRec write it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recgraph.encoders._attention import causal_attention, last_attention
from recgraph.encoders._packing import Packed, pack
from recgraph.encoders.base import SequenceEncoder
from recgraph.rng import dropout
from recgraph.sparse.ragged import Ragged


class Layer(nn.Module):
    """Post-norm layer: attention and feed-forward, each with dropout, residual and LayerNorm."""

    def __init__(self, hidden_dim: int, inner_dim: int, n_heads: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.n_heads, self.dropout, self.attention_dropout = n_heads, dropout, attention_dropout
        self.qkv = nn.Linear(hidden_dim, 3 * hidden_dim)
        self.out = nn.Linear(hidden_dim, hidden_dim)
        self.attention_norm = nn.LayerNorm(hidden_dim, eps=1e-12)
        self.up = nn.Linear(hidden_dim, inner_dim)
        self.down = nn.Linear(inner_dim, hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim, eps=1e-12)

    def forward(self, x: Tensor, packed: Packed, generator: torch.Generator | None) -> Tensor:
        """[T, D] -> [T, D]."""
        return self._finish(x, self._attend(x, packed, generator), generator)

    def last(self, x: Tensor, packed: Packed, generator: torch.Generator | None) -> Tensor:
        """[T, D] -> [B, D], the last place of each row alone: all other queries are never read."""
        of_last = x.index_select(0, packed.last)
        return self._finish(of_last, self._attend_last(x, of_last, packed, generator), generator)

    def _attend(self, x: Tensor, packed: Packed, generator: torch.Generator | None) -> Tensor:
        return causal_attention(self.qkv(x), packed, self.n_heads, self.attention_dropout, generator)

    def _attend_last(self, x: Tensor, of_last: Tensor, packed: Packed, generator: torch.Generator | None) -> Tensor:
        width, weight, bias = x.shape[1], self.qkv.weight, self.qkv.bias
        queries = F.linear(of_last, weight[:width], bias[:width])
        kv = F.linear(x, weight[width:], bias[width:])
        return last_attention(queries, kv, packed, self.n_heads, self.attention_dropout, generator)

    def _finish(self, x: Tensor, attended: Tensor, generator: torch.Generator | None) -> Tensor:
        return self._feed_forward(self._after_attention(x, attended, generator), generator)

    def _after_attention(self, x: Tensor, attended: Tensor, generator: torch.Generator | None) -> Tensor:
        out: Tensor = self.attention_norm(x + dropout(self.out(attended), self.dropout, generator))
        return out

    def _feed_forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        out: Tensor = self.norm(x + dropout(self.down(F.gelu(self.up(x))), self.dropout, generator))
        return out


class Transformer(SequenceEncoder):
    """Causal transformer of Kang and McAuley, Self-Attentive Sequential Recommendation (ICDM 2018), in RecBole's form.

    Item plus learned position embedding, LayerNorm, dropout; post-norm layers with exact GELU. Departures: query, key
    and value are one product; nothing is computed for padding, nor for masked items that no key can reach; where only
    the last state is read, the last layer computes that place alone. The numbers are those of the padded computation.
    As published, a masked item's place passes no gradient to the embedding of token 0.

    Args:
        hidden_dim, max_len, dropout: as of every encoder.
        n_layers, n_heads: ``n_heads`` divides ``hidden_dim``.
        inner_dim: of the feed-forward part.
        attention_dropout: of the attention probabilities.

    Raises:
        ValueError: ``n_heads`` does not divide ``hidden_dim``.
    """

    #: whether masked items, which no key can reach, may be left out before the last place alone is computed
    drops_masked = True

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
        super().__init__(hidden_dim, max_len, dropout)
        if hidden_dim % n_heads:
            raise ValueError(f"n_heads = {n_heads} must divide hidden_dim = {hidden_dim}")
        self.position_embedding = nn.Embedding(max_len, hidden_dim)
        self.norm: nn.Module = nn.LayerNorm(hidden_dim, eps=1e-12)
        self.layers = nn.ModuleList(
            Layer(hidden_dim, inner_dim, n_heads, dropout, attention_dropout) for _ in range(n_layers)
        )
        self.apply(initialise)

    def _encode(self, sequences: Ragged, table: Tensor, generator: torch.Generator | None, last_only: bool) -> Tensor:
        packed = pack(sequences, last_only and self.drops_masked)
        x = F.embedding(packed.tokens, table, padding_idx=0) + self.position_embedding(packed.positions)
        x = dropout(self.norm(x), self.dropout, generator)
        *inner, final = cast("list[Layer]", list(self.layers))
        for layer in inner:
            x = layer(x, packed, generator)
        if last_only:
            return packed.restore_rows(final.last(x, packed, generator))
        return packed.restore_tokens(final(x, packed, generator))


def initialise(module: nn.Module) -> None:
    """Weights ~ N(0, 0.02), biases 0, LayerNorm 1 and 0 (as RecBole)."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, 0.0, 0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


_PUBLISHED = [
    (r"^LayerNorm\.", "norm."),
    (r"^trm_encoder\.layer\.(\d+)\.multi_head_attention\.dense\.", r"layers.\1.out."),
    (r"^trm_encoder\.layer\.(\d+)\.multi_head_attention\.LayerNorm\.", r"layers.\1.attention_norm."),
    (r"^trm_encoder\.layer\.(\d+)\.feed_forward\.dense_1\.", r"layers.\1.up."),
    (r"^trm_encoder\.layer\.(\d+)\.feed_forward\.dense_2\.", r"layers.\1.down."),
    (r"^trm_encoder\.layer\.(\d+)\.feed_forward\.LayerNorm\.", r"layers.\1.norm."),
]


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's weights from a RecBole-style state dict (names from ``LayerNorm`` to ``trm_encoder.layer.N...``).

    Other entries (the item embedding, augmenters) are left out.
    """
    renamed: dict[str, Tensor] = {}
    fused: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        part = re.match(r"^trm_encoder\.layer\.(\d+)\.multi_head_attention\.(query|key|value)\.(\w+)$", name)
        if part:
            fused.setdefault(f"layers.{part[1]}.qkv.{part[3]}", {})[part[2]] = value
        elif name.startswith("position_embedding."):
            renamed[name] = value
        else:
            for pattern, target in _PUBLISHED:
                if re.match(pattern, name):
                    renamed[re.sub(pattern, target, name)] = value
    for name, parts in fused.items():
        renamed[name] = torch.cat([parts["query"], parts["key"], parts["value"]])
    return renamed
