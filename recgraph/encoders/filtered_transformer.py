"""BSARec's encoder: each layer of a transformer mixed with a filter that rescales high frequencies."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recgraph.encoders._packing import Packed
from recgraph.encoders.transformer import Layer, Transformer, initialise
from recgraph.rng import dropout

__all__ = ["FilteredTransformer", "low_pass"]


def low_pass(max_len: int, c: int, causal: bool, like: Tensor) -> Tensor:
    """[max_len, max_len]: what keeps the ``c // 2 + 1`` lowest frequencies of a sequence of max_len places.

    ``M @ x = irfft(rfft(x) with all higher frequencies 0)``: entry (t, s) depends on ``t - s`` modulo max_len alone, so
    that places which hold zeros may be left out, wherever the sequence is padded.

    Args:
        c: as published; from max_len on nothing is removed.
        causal: without the entries of s > t: each place reads the filter of what came up to it.
        like: gives type and device.
    """
    kept_mask = torch.arange(max_len // 2 + 1, device=like.device) < c // 2 + 1
    response = torch.fft.irfft(kept_mask.to(like.dtype), n=max_len)
    places = torch.arange(max_len, device=like.device)
    matrix: Tensor = response[(places[:, None] - places) % max_len]
    return matrix.tril() if causal else matrix


class FilteredLayer(Layer):
    """``alpha F(x) + (1 - alpha) A(x)``, then feed-forward: A the attention, F the filter, each with dropout, residual
    and LayerNorm. The filter gives ``low + beta (x - low)``, beta = sqrt_beta ** 2 learned for each column."""

    def __init__(
        self,
        hidden_dim: int,
        inner_dim: int,
        n_heads: int,
        dropout: float,
        attention_dropout: float,
        max_len: int,
        alpha: float,
        c: int,
        causal: bool,
    ) -> None:
        super().__init__(hidden_dim, inner_dim, n_heads, dropout, attention_dropout)
        self.max_len, self.alpha, self.c, self.causal = max_len, alpha, c, causal
        self.filter_norm = nn.LayerNorm(hidden_dim, eps=1e-12)
        self.sqrt_beta = nn.Parameter(torch.randn(hidden_dim))

    def forward(self, x: Tensor, packed: Packed, generator: torch.Generator | None) -> Tensor:
        matrix = low_pass(self.max_len, self.c, self.causal, x)
        parts = []
        for bucket in packed.buckets:
            padded = bucket.pad(x[bucket.first_token : bucket.first_token + bucket.n_tokens])
            parts.append(bucket.unpad(matrix[: bucket.length, : bucket.length] @ padded))
        return self._mix(x, torch.cat(parts), self._attend(x, packed, generator), generator)

    def last(self, x: Tensor, packed: Packed, generator: torch.Generator | None) -> Tensor:
        matrix = low_pass(self.max_len, self.c, self.causal, x)
        parts = []
        for bucket in packed.buckets:
            padded = bucket.pad(x[bucket.first_token : bucket.first_token + bucket.n_tokens])
            of_last = matrix[bucket.lengths - 1, : bucket.length]
            parts.append((of_last[:, None] @ padded)[:, 0])
        of_last = x.index_select(0, packed.last)
        return self._mix(of_last, torch.cat(parts), self._attend_last(x, of_last, packed, generator), generator)

    def _mix(self, x: Tensor, low: Tensor, attended: Tensor, generator: torch.Generator | None) -> Tensor:
        rescaled = low + self.sqrt_beta**2 * (x - low)
        filtered = self.filter_norm(x + dropout(rescaled, self.dropout, generator))
        mixed = self.alpha * filtered + (1 - self.alpha) * self._after_attention(x, attended, generator)
        return self._feed_forward(mixed, generator)


class FilteredTransformer(Transformer):
    """Transformer of :class:`~recgraph.models.bsarec.BSARec` (Shin et al., AAAI 2024); see there.

    As :class:`Transformer`, but masked items inside a sequence take part in the filter, as their place's embedding.

    Args:
        hidden_dim, max_len, dropout, n_layers, n_heads, inner_dim, attention_dropout: as of the transformer.
        alpha: share of the filter beside the attention.
        c: the filter's cut-off: the ``c // 2 + 1`` lowest of max_len's frequencies are low.
        causal: the filter of a place reads no later one. Otherwise it reads the whole sequence, and of the states
            only the last may be used to predict what follows.

    Raises:
        ValueError: ``n_heads`` does not divide ``hidden_dim``.
    """

    drops_masked = False

    def __init__(
        self,
        hidden_dim: int = 64,
        max_len: int = 50,
        dropout: float = 0.5,
        n_layers: int = 2,
        n_heads: int = 2,
        inner_dim: int = 256,
        attention_dropout: float = 0.5,
        alpha: float = 0.7,
        c: int = 5,
        causal: bool = False,
    ) -> None:
        super().__init__(hidden_dim, max_len, dropout, 0, n_heads)
        self.layers = nn.ModuleList(
            FilteredLayer(hidden_dim, inner_dim, n_heads, dropout, attention_dropout, max_len, alpha, c, causal)
            for _ in range(n_layers)
        )
        self.layers.apply(initialise)
