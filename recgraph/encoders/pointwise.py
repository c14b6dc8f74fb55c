"""Layers whose attention is no softmax: HSTU's pointwise aggregation, and FuXi-alpha's separate channels.

Their weights are differentiable any number of times: what is computed here are products and elementwise functions.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recgraph.encoders.attention import Layout
from recgraph.encoders.layered import EncoderLayer, LayeredEncoder
from recgraph.encoders.padded import Padded
from recgraph.rng import dropout

__all__ = ["HSTU", "FuXi", "PointwiseEncoder", "PointwiseLayer"]

_EPS = 1e-6


class PointwiseLayer(EncoderLayer):
    """``[K, V, Q, U] = silu(norm(x) W)``; what the keys give to the queries, gated by U, is added to x.

    Args:
        hidden_dim: D, the width of K, V and Q.
        max_len: positions at most.
        n_heads: divides D.
        dropout: of what is added.
        n_channels: C, how many vectors of width D attention makes of V; U is C D wide.
    """

    def __init__(self, hidden_dim: int, max_len: int, n_heads: int, dropout: float, n_channels: int) -> None:
        super().__init__()
        self.n_heads, self.dropout, self.max_len = n_heads, dropout, max_len
        self.kvqu = nn.Linear(hidden_dim, (3 + n_channels) * hidden_dim, bias=False)
        nn.init.normal_(self.kvqu.weight, 0.0, 0.02)
        #: [max_len], of each distance between a query and a key before it
        self.position_bias = nn.Parameter(nn.init.normal_(torch.empty(max_len), 0.0, 0.02))

    def forward(self, x: Tensor, layout: Layout, generator: torch.Generator | None) -> Tensor:
        kv, q, u = self._parts(self._normed(x))
        if isinstance(layout, Padded):
            shape = (layout.n_rows, layout.length, -1)
            attended = self._weighed(kv.view(shape), q.view(shape), layout.causal_mask, None).flatten(0, 1)
        else:
            attended = torch.cat(
                [
                    bucket.unpad(
                        self._weighed(
                            bucket.pad(kv[bucket.tokens]), bucket.pad(q[bucket.tokens]), bucket.causal_mask, None
                        )
                    )
                    for bucket in layout.buckets
                ]
            )
        return self._finish(x, u, attended, generator)

    def last(self, x: Tensor, layout: Layout, generator: torch.Generator | None) -> Tensor:
        width = 2 * x.shape[1]
        normed, weight = self._normed(x), self.kvqu.weight
        kv = F.silu(F.linear(normed, weight[:width]))
        q, u = self._queries(F.silu(F.linear(normed.index_select(0, layout.last), weight[width:])))
        if isinstance(layout, Padded):
            rows = kv.view(layout.n_rows, layout.length, -1)
            attended = self._weighed(rows, q[:, None], layout.last_mask, layout.lengths)[:, 0]
        else:
            attended = torch.cat(
                [
                    self._weighed(
                        bucket.pad(kv[bucket.tokens]), q[bucket.rows][:, None], bucket.last_mask, bucket.lengths
                    )
                    for bucket in layout.buckets
                ]
            )[:, 0]
        return self._finish(x.index_select(0, layout.last), u, attended, generator)

    def padded(self, x: Tensor, keep_mask: Tensor) -> Tensor:
        # rows end before their padding: no causal query sees a key of it
        kv, q, u = self._parts(self._normed(x))
        places = torch.arange(x.shape[1], device=x.device)
        return self._finish(x, u, self._weighed(kv, q, places[:, None] >= places, None), None)

    def _parts(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[..., D] -> K and V side by side [..., 2 D], Q [..., D], U [..., C D]."""
        width = 2 * normed.shape[-1]
        every = F.silu(self.kvqu(normed))
        return every[..., :width], *self._queries(every[..., width:])

    def _queries(self, qu: Tensor) -> tuple[Tensor, Tensor]:
        width = self.kvqu.in_features
        return qu[..., :width], qu[..., width:]

    def _weighed(self, kv: Tensor, q: Tensor, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
        """What n rows of L keys give to their queries.

        Args:
            kv: [n, L, 2 D].
            q: [n, L, D], or with ``lengths`` [n, 1, D], those of the last places.
            mask: True where a query sees a key, [L, L] or [n, 1, L or 1, L]; None: everywhere.
            lengths: [n] int64.

        Returns:
            [n, L or 1, C D].
        """
        n_rows, length, _ = kv.shape
        places = torch.arange(length, device=kv.device)
        queries = places if lengths is None else lengths[:, None] - 1
        # no query sees a key behind it: which distance stands there does not matter
        distances = (queries[..., None] - places).clamp(min=0)
        bias = self.position_bias.index_select(0, distances.flatten()).view(distances.shape).to(kv.dtype)
        keys, values = kv.view(n_rows, length, 2 * self.n_heads, -1).transpose(1, 2).chunk(2, 1)
        heads = q.reshape(n_rows, q.shape[1], self.n_heads, -1).transpose(1, 2)
        shown = None if mask is None else mask.to(kv.dtype)
        channels = self._channels(heads, keys, values, bias if lengths is None else bias[:, None], shown)
        return torch.cat(channels, -1).transpose(1, 2).flatten(2)

    def _scores(self, queries: Tensor, keys: Tensor, bias: Tensor | None, shown: Tensor | None) -> Tensor:
        """``silu(Q K^T + bias)`` [n, H, L or 1, L], 0 where a key is not shown: silu is 0 at 0."""
        scores = queries @ keys.transpose(2, 3)
        if bias is not None:
            scores = scores + bias
        return F.silu(scores if shown is None else scores * shown)

    def _normed(self, x: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define _normed")

    def _channels(
        self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, shown: Tensor | None
    ) -> list[Tensor]:
        """C of [n, H, L or 1, D / H].

        Args:
            queries: [n, H, L or 1, D / H].
            keys, values: [n, H, L, D / H].
            bias: of distances, [L, L], or [n, 1, 1, L] of last places.
            shown: 1 where a query sees a key, else 0; see :meth:`_weighed`.
        """
        raise TypeError(f"{type(self).__name__} must define _channels")

    def _finish(self, x: Tensor, u: Tensor, attended: Tensor, generator: torch.Generator | None) -> Tensor:
        """x with what the layer adds.

        Args:
            u, attended: [..., C D].
        """
        raise TypeError(f"{type(self).__name__} must define _finish")


class HSTULayer(PointwiseLayer):
    """``x + W2 (LN(A V) * U) + b``, ``A = silu(Q K^T + bias) / max_len`` up to each place."""

    def __init__(self, hidden_dim: int, max_len: int, n_heads: int, dropout: float) -> None:
        super().__init__(hidden_dim, max_len, n_heads, dropout, n_channels=1)
        self.out = nn.Linear(hidden_dim, hidden_dim)
        nn.init.xavier_uniform_(self.out.weight)

    def _normed(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=_EPS)

    def _channels(
        self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, shown: Tensor | None
    ) -> list[Tensor]:
        return [self._scores(queries, keys, bias, shown) @ values]

    def _finish(self, x: Tensor, u: Tensor, attended: Tensor, generator: torch.Generator | None) -> Tensor:
        # LN of y / n with eps is LN of y with n^2 eps: A is never divided
        normed = F.layer_norm(attended, attended.shape[-1:], eps=_EPS * self.max_len**2)
        added: Tensor = self.out(dropout(u * normed, self.dropout, generator))
        return x + added


class FuXiLayer(PointwiseLayer):
    """Channels of positions, ``P V`` with P the bias of distances, and of items, ``silu(Q K^T) V / max_len``; then
    ``o = W0 (RMS(channels) * U) + b + x`` and ``o + W2 (silu(W1 RMS(o)) * W3 RMS(o))``."""

    def __init__(self, hidden_dim: int, max_len: int, n_heads: int, dropout: float, inner_dim: int) -> None:
        super().__init__(hidden_dim, max_len, n_heads, dropout, n_channels=2)
        self.out = nn.Linear(2 * hidden_dim, hidden_dim)
        # W1 and W3 as one product
        self.up = nn.Linear(hidden_dim, 2 * inner_dim, bias=False)
        self.down = nn.Linear(inner_dim, hidden_dim, bias=False)
        for weight in (self.out.weight, *self.up.weight.chunk(2), self.down.weight):
            nn.init.xavier_uniform_(weight)

    def _normed(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], eps=_EPS)

    def _channels(
        self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, shown: Tensor | None
    ) -> list[Tensor]:
        of_places = (bias if shown is None else bias * shown) @ values
        return [of_places, self._scores(queries, keys, None, shown) @ values / self.max_len]

    def _finish(self, x: Tensor, u: Tensor, attended: Tensor, generator: torch.Generator | None) -> Tensor:
        x = x + self.out(dropout(u * self._normed(attended), self.dropout, generator))
        opened, given = self.up(dropout(self._normed(x), self.dropout, generator)).chunk(2, -1)
        added: Tensor = self.down(F.silu(opened) * given)
        return x + added


class PointwiseEncoder(LayeredEncoder):
    """Base of the encoders of pointwise layers: ``sqrt(D) item + position``, dropout, layers, LayerNorm.

    Masked items are no keys, but keep their places, so that distances are those of the sequence; a place that would see
    no key sees itself.
    """

    drops_masked = False

    def __init__(self, hidden_dim: int, max_len: int, dropout: float, n_heads: int) -> None:
        super().__init__(hidden_dim, max_len, dropout, n_heads)
        self.position_embedding = nn.Embedding(max_len, hidden_dim)
        spread = hidden_dim**-0.5
        nn.init.trunc_normal_(self.position_embedding.weight, std=spread, a=-2 * spread, b=2 * spread)
        self.norm = nn.LayerNorm(hidden_dim)

    def scaled(self, vectors: Tensor) -> Tensor:
        return vectors * math.sqrt(self.hidden_dim)

    def leave(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x)
        return out

    def make_masks(self, layout: Padded, last_only: bool) -> None:
        layout.make_masks(last_only)


class HSTU(PointwiseEncoder):
    """Encoder of :class:`~recgraph.models.sequence.pointwise.HSTU` (Zhai et al., ICML 2024); see there.

    Args:
        hidden_dim, max_len, dropout: as of every encoder.
        n_layers, n_heads: ``n_heads`` divides ``hidden_dim``.

    Raises:
        ValueError: ``n_heads`` does not divide ``hidden_dim``.
    """

    saved = (18, 0, 8)

    def __init__(
        self, hidden_dim: int = 64, max_len: int = 50, dropout: float = 0.2, n_layers: int = 2, n_heads: int = 1
    ) -> None:
        super().__init__(hidden_dim, max_len, dropout, n_heads)
        self.layers = nn.ModuleList(HSTULayer(hidden_dim, max_len, n_heads, dropout) for _ in range(n_layers))


class FuXi(PointwiseEncoder):
    """Encoder of :class:`~recgraph.models.sequence.pointwise.FuXiAlpha` (Ye et al., WWW 2025); see there.

    Args:
        hidden_dim, max_len, dropout: as of every encoder.
        n_layers, n_heads: ``n_heads`` divides ``hidden_dim``.
        inner_dim: of the second stage of the feed-forward part.

    Raises:
        ValueError: ``n_heads`` does not divide ``hidden_dim``.
    """

    saved = (28, 4, 10)

    def __init__(
        self,
        hidden_dim: int = 64,
        max_len: int = 50,
        dropout: float = 0.2,
        n_layers: int = 2,
        n_heads: int = 1,
        inner_dim: int = 64,
    ) -> None:
        super().__init__(hidden_dim, max_len, dropout, n_heads)
        self.layers = nn.ModuleList(
            FuXiLayer(hidden_dim, max_len, n_heads, dropout, inner_dim) for _ in range(n_layers)
        )
