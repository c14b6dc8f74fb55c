"""Layers whose attention is no softmax: HSTU's pointwise aggregation, and FuXi-alpha's separate
channels.

Their weights are differentiable any number of times: what is computed here are products and
elementwise functions.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from recgraph.config import Search
from recgraph.encoders.attention import N_SPANS, Bucket, Layout, Padded
from recgraph.encoders.base import EncoderLayer, Heads, LayeredEncoder, Layers, TimeBias
from recgraph.rng import dropout

_EPS = 1e-6


class PointwiseLayer(EncoderLayer):
    """``[K, V, Q, U] = silu(norm(x) W)``; what the keys give to the queries, gated by U, is added
    to x.

    Args:
        hidden_dim: D, the width of K, V and Q.
        max_len: positions at most.
        n_heads: divides D.
        dropout: of what is added.
        n_channels: C, how many vectors of width D attention makes of V; U is C D wide.
        time_bias: whether there is a bias of the time from a key to the event that a query's place
            predicts.
    """

    def __init__(
        self,
        hidden_dim: int,
        max_len: int,
        n_heads: int,
        dropout: float,
        n_channels: int,
        time_bias: bool,
    ) -> None:
        super().__init__()
        self.n_heads, self.dropout, self.max_len = n_heads, dropout, max_len
        self.kvqu = nn.Linear(hidden_dim, (3 + n_channels) * hidden_dim, bias=False)
        nn.init.normal_(self.kvqu.weight, 0.0, 0.02)
        #: [max_len], of each distance between a query and a key before it
        self.position_bias = nn.Parameter(nn.init.normal_(torch.empty(max_len), 0.0, 0.02))
        #: [N_SPANS], of each bucket of :func:`recgraph.encoders.attention.spans`
        self.time_bias: nn.Parameter | None = None
        if time_bias:
            self.time_bias = nn.Parameter(nn.init.normal_(torch.empty(N_SPANS), 0.0, 0.02))

    def forward(self, x: Tensor, layout: Layout, generator: torch.Generator | None) -> Tensor:
        kv, q, u = self._parts(self._normed(x))
        if isinstance(layout, Padded):
            attended = self._attend(kv, q, layout)
        else:
            # a split, as the gradient of each slice would be a tensor of all tokens
            sizes = [bucket.n_tokens for bucket in layout.buckets]
            parts = map(self._attend, torch.split(kv, sizes), torch.split(q, sizes), layout.buckets)
            attended = torch.cat([*parts])
        return self._finish(x, u, attended, generator)

    def last(self, x: Tensor, layout: Layout, generator: torch.Generator | None) -> Tensor:
        width = 2 * x.shape[1]
        normed, weight = self._normed(x), self.kvqu.weight
        kv = F.silu(F.linear(normed, weight[:width]))
        qu = F.silu(F.linear(normed.index_select(0, layout.last), weight[width:]))
        q, u = torch.split(qu, [x.shape[1], qu.shape[1] - x.shape[1]], 1)
        if isinstance(layout, Padded):
            attended = self._attend_last(kv, q, layout)
        else:
            keys = torch.split(kv, [bucket.n_tokens for bucket in layout.buckets])
            queries = torch.split(q, [bucket.n_rows for bucket in layout.buckets])
            attended = torch.cat([*map(self._attend_last, keys, queries, layout.buckets)])
        return self._finish(x.index_select(0, layout.last), u, attended, generator)

    def padded(self, x: Tensor, keep_mask: Tensor) -> Tensor:
        # rows end before their padding: no causal query sees a key of it
        kv, q, u = self._parts(self._normed(x))
        places = torch.arange(x.shape[1], device=x.device)
        mask = places[:, None] >= places
        return self._finish(x, u, self._weighed(kv, q, places, mask, None), None)

    def _attend(self, kv: Tensor, q: Tensor, rows: Bucket | Padded) -> Tensor:
        """What the tokens of some rows give to each other, [N, C D], of [N, 2 D] and [N, D]."""
        return rows.unpad(
            self._weighed(
                rows.pad(kv), rows.pad(q), rows.places, rows.causal_mask, rows.causal_spans
            )
        )

    def _attend_last(self, kv: Tensor, q: Tensor, rows: Bucket | Padded) -> Tensor:
        """What they give to the last places, [n, C D], of [N, 2 D] and [n, D]."""
        last = (rows.lengths - 1)[:, None, None]
        return self._weighed(rows.pad(kv), q[:, None], last, rows.last_mask, rows.last_spans)[:, 0]

    def _parts(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[..., D] -> K and V side by side [..., 2 D], Q [..., D], U [..., C D]."""
        width = normed.shape[-1]
        sizes = [2 * width, width, self.kvqu.out_features - 3 * width]
        kv, q, u = torch.split(F.silu(self.kvqu(normed)), sizes, -1)
        return kv, q, u

    def _weighed(
        self,
        kv: Tensor,
        q: Tensor,
        queries: Tensor,
        mask: Tensor | None,
        spans: Tensor | None,
    ) -> Tensor:
        """What n rows of L keys give to their Q queries, all places or one, [n, Q, C D].

        Args:
            kv, q: [n, L, 2 D] and [n, Q, D].
            queries: the places of the queries, [L], or [n, 1, 1] of one in each row.
            mask: True where a query sees a key, [L, L] or [n, 1, Q, L]; None: everywhere.
            spans: [n, Q, L] int64, the bucket of the time from a key to what a query predicts;
                None: no time is known.
        """
        n_rows, length, _ = kv.shape
        places = torch.arange(length, device=kv.device)
        # no query sees a key behind it: which distance stands there does not matter
        distances = (queries[..., None] - places).clamp(min=0)
        biases = [_read(self.position_bias, distances).to(kv.dtype)]
        if self.time_bias is not None:
            if spans is None:
                spans = places.new_zeros(n_rows, q.shape[1], length)
            biases.append(_read(self.time_bias, spans)[:, None].to(kv.dtype))
        keys, values = kv.view(n_rows, length, 2 * self.n_heads, -1).transpose(1, 2).chunk(2, 1)
        heads = q.reshape(n_rows, q.shape[1], self.n_heads, -1).transpose(1, 2)
        shown = None if mask is None else mask.to(kv.dtype)
        channels = self._channels(heads, keys, values, biases, shown)
        return torch.cat(channels, -1).transpose(1, 2).flatten(2)

    def _scores(
        self, queries: Tensor, keys: Tensor, biases: list[Tensor], shown: Tensor | None
    ) -> Tensor:
        """``silu(Q K^T + biases)`` [n, H, L or 1, L], 0 where a key is not shown: silu is 0 at
        0.
        """
        scores = queries @ keys.transpose(2, 3)
        for bias in biases:
            scores = scores + bias
        if shown is not None:
            scores = scores * shown
        return F.silu(scores)

    def _normed(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _channels(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        biases: list[Tensor],
        shown: Tensor | None,
    ) -> list[Tensor]:
        """C of [n, H, Q, D / H], of queries [n, H, Q, D / H], keys and values [n, H, L, D / H].

        Args:
            biases: of distances, [L, L] or [n, 1, 1, L]; and where they are read of times, [n, 1,
                Q, L].
            shown: 1 where a query sees a key, else 0; see :meth:`_weighed`.
        """
        raise NotImplementedError

    def _finish(
        self, x: Tensor, u: Tensor, attended: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """x with what the layer adds, of u and attended [..., C D]."""
        raise NotImplementedError


def _read(table: Tensor, index: Tensor) -> Tensor:
    """``table[index]`` of a vector, by the faster kernel."""
    return table.index_select(0, index.flatten()).view(index.shape)


class HSTULayer(PointwiseLayer):
    """``x + W2 (LN(A V) * U) + b``, ``A = silu(Q K^T + biases) / max_len`` up to each place."""

    def __init__(
        self, hidden_dim: int, max_len: int, n_heads: int, dropout: float, time_bias: bool
    ) -> None:
        super().__init__(hidden_dim, max_len, n_heads, dropout, 1, time_bias)
        self.out = nn.Linear(hidden_dim, hidden_dim)
        nn.init.xavier_uniform_(self.out.weight)

    def _normed(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=_EPS)

    def _channels(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        biases: list[Tensor],
        shown: Tensor | None,
    ) -> list[Tensor]:
        return [self._scores(queries, keys, biases, shown) @ values]

    def _finish(
        self, x: Tensor, u: Tensor, attended: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        # LN of y / n with eps is LN of y with n^2 eps: A is never divided
        normed = F.layer_norm(attended, attended.shape[-1:], eps=_EPS * self.max_len**2)
        added: Tensor = self.out(dropout(u * normed, self.dropout, generator))
        return x + added


class FuXiLayer(PointwiseLayer):
    """Channels of positions, ``P V`` with P the bias of distances, of times alike where they are
    read, and of items, ``silu(Q K^T) V / max_len``; ``o = x + W0 (RMS(channels) * U) + b``, then
    ``o + W2 (silu(W1 RMS(o)) * W3 RMS(o))``.
    """

    def __init__(
        self,
        hidden_dim: int,
        max_len: int,
        n_heads: int,
        dropout: float,
        inner_dim: int,
        time_bias: bool,
    ) -> None:
        n_channels = 2 + time_bias
        super().__init__(hidden_dim, max_len, n_heads, dropout, n_channels, time_bias)
        self.out = nn.Linear(n_channels * hidden_dim, hidden_dim)
        # W1 and W3 as one product
        self.up = nn.Linear(hidden_dim, 2 * inner_dim, bias=False)
        self.down = nn.Linear(inner_dim, hidden_dim, bias=False)
        for weight in (self.out.weight, *self.up.weight.chunk(2), self.down.weight):
            nn.init.xavier_uniform_(weight)

    def _normed(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], eps=_EPS)

    def _channels(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        biases: list[Tensor],
        shown: Tensor | None,
    ) -> list[Tensor]:
        channels = []
        for bias in biases:
            if shown is not None:
                bias = bias * shown
            channels.append(bias @ values)
        return [*channels, self._scores(queries, keys, [], shown) @ values / self.max_len]

    def _finish(
        self, x: Tensor, u: Tensor, attended: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        x = x + self.out(dropout(u * self._normed(attended), self.dropout, generator))
        gate, inner = self.up(dropout(self._normed(x), self.dropout, generator)).chunk(2, -1)
        added: Tensor = self.down(F.silu(gate) * inner)
        return x + added


class PointwiseEncoder(LayeredEncoder):
    """Base of the encoders of pointwise layers: ``sqrt(D) item + position``, dropout, layers,
    LayerNorm.

    Masked items are no keys, but keep their places, so that distances are those of the sequence; a
    place that would see no key sees itself.
    """

    drops_masked = False

    def __init__(
        self, hidden_dim: int, max_len: int, dropout: float, n_heads: int, time_bias: bool
    ) -> None:
        super().__init__(hidden_dim, max_len, dropout, n_heads)
        self.time_bias = self.reads_times = time_bias
        self.embedding_scale = math.sqrt(hidden_dim)
        self.position_embedding = nn.Embedding(max_len, hidden_dim)
        spread = hidden_dim**-0.5
        nn.init.trunc_normal_(
            self.position_embedding.weight, std=spread, a=-2 * spread, b=2 * spread
        )
        self.norm = nn.LayerNorm(hidden_dim)

    def padded(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        if self.time_bias:
            raise ValueError(
                "time_bias = True reads times, which a padded form has not; use time_bias=False"
            )
        return super().padded(inputs, lengths)

    def leave(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x)
        return out

    def make_masks(self, layout: Padded, last_only: bool) -> None:
        _ = layout.causal_mask, layout.causal_spans
        if last_only:
            _ = layout.last_mask, layout.last_spans


class HSTU(PointwiseEncoder):
    """Encoder of :class:`~recgraph.models.sequence.sasrec.HSTU` (Zhai et al., ICML 2024); see
    there.

    Args:
        hidden_dim, max_len, dropout: as of every encoder.
        n_layers, n_heads: ``n_heads`` divides ``hidden_dim``.
        time_bias: whether times are read.
    """

    def __init__(
        self,
        hidden_dim: int,
        max_len: int,
        dropout: float,
        n_layers: Layers = 2,
        n_heads: Heads = 1,
        time_bias: TimeBias = False,
    ) -> None:
        super().__init__(hidden_dim, max_len, dropout, n_heads, time_bias)
        self.layers = nn.ModuleList(
            HSTULayer(hidden_dim, max_len, n_heads, dropout, time_bias) for _ in range(n_layers)
        )


class FuXi(PointwiseEncoder):
    """Encoder of :class:`~recgraph.models.sequence.sasrec.FuXiAlpha` (Ye et al., WWW 2025); see
    there.

    Args:
        hidden_dim, max_len, dropout: as of every encoder.
        n_layers, n_heads: ``n_heads`` divides ``hidden_dim``.
        inner_dim: of the second stage of the feed-forward part; None: ``hidden_dim``.
        time_bias: whether times are read.
    """

    def __init__(
        self,
        hidden_dim: int,
        max_len: int,
        dropout: float,
        n_layers: Layers = 2,
        n_heads: Heads = 1,
        inner_dim: Annotated[
            int | None,
            Field(ge=1, description="width of the feed-forward part; none: hidden_dim"),
            Search(choices=(None, 64, 128, 256)),
        ] = None,
        time_bias: TimeBias = False,
    ) -> None:
        super().__init__(hidden_dim, max_len, dropout, n_heads, time_bias)
        self.layers = nn.ModuleList(
            FuXiLayer(hidden_dim, max_len, n_heads, dropout, inner_dim or hidden_dim, time_bias)
            for _ in range(n_layers)
        )
