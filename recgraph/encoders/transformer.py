"""Transformers over packed or padded tokens, which differ in their layers alone.

SASRec's as RecBole and MCLRec write it, BSARec's with a filter, eSASRec's with gates.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from recgraph.config import Search
from recgraph.encoders.attention import Asked, Layout, attend
from recgraph.encoders.base import (
    AttentionDropout,
    EncoderLayer,
    Heads,
    LayeredEncoder,
    Layers,
    Width,
)
from recgraph.rng import dropout
from recgraph.sparse.device import is_accelerated


def initialise(module: nn.Module) -> None:
    """Weights ~ N(0, 0.02), biases 0, LayerNorm 1 and 0 (as RecBole)."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, 0.0, 0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


class Layer(EncoderLayer):
    """Post-norm layer: attention and feed-forward, each with dropout, residual and LayerNorm."""

    #: sets the initial weights of each module of the layers
    initialise = staticmethod(initialise)

    def __init__(
        self,
        hidden_dim: int,
        inner_dim: int,
        n_heads: int,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        self.n_heads, self.dropout, self.attention_dropout = n_heads, dropout, attention_dropout
        self.qkv = nn.Linear(hidden_dim, 3 * hidden_dim)
        self.out = nn.Linear(hidden_dim, hidden_dim)
        self.attention_norm = nn.LayerNorm(hidden_dim, eps=1e-12)
        self.up = nn.Linear(hidden_dim, inner_dim)
        self.down = nn.Linear(inner_dim, hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim, eps=1e-12)

    def forward(self, x: Tensor, layout: Layout, generator: torch.Generator | None) -> Tensor:
        attended = attend(self.qkv(x), layout, self.n_heads, self.attention_dropout, generator)
        return self._finish(x, attended, generator)

    def last(self, x: Tensor, layout: Layout, generator: torch.Generator | None) -> Tensor:
        of_last = x.index_select(0, layout.last)
        return self._finish(of_last, self._attend_last(x, of_last, layout, generator), generator)

    def _attend_last(
        self,
        x: Tensor,
        of_last: Tensor,
        layout: Layout,
        generator: torch.Generator | None,
        asked: Asked | None = None,
    ) -> Tensor:
        width, weight, bias = x.shape[1], self.qkv.weight, self.qkv.bias
        queries = F.linear(of_last, weight[:width], bias[:width])
        kv = F.linear(x, weight[width:], bias[width:])
        return attend(kv, layout, self.n_heads, self.attention_dropout, generator, queries, asked)

    def padded(self, x: Tensor, keep_mask: Tensor) -> Tensor:
        return self._finish(x, self._attend_padded(x, keep_mask), None)

    def attention(self, x: Tensor) -> Tensor:
        return self._weighed(x)[0]

    def _attend_padded(self, x: Tensor, keep_mask: Tensor | None = None) -> Tensor:
        probabilities, values = self._weighed(x, keep_mask)
        return (probabilities @ values).transpose(1, 2).reshape(x.shape)

    def _weighed(self, x: Tensor, keep_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The probabilities, and the values [B, n_heads, L, D / n_heads] that they weigh."""
        n_rows, length, width = x.shape
        heads = self.qkv(x).view(n_rows, length, 3, self.n_heads, width // self.n_heads)
        queries, keys, values = heads.permute(2, 0, 3, 1, 4).unbind(0)
        scores = queries @ keys.transpose(2, 3) / math.sqrt(width // self.n_heads)
        places = torch.arange(length, device=x.device)
        scores = scores.masked_fill(self._hidden(places, keep_mask), float("-inf"))
        return torch.softmax(scores, -1), values

    def _hidden(self, places: Tensor, keep_mask: Tensor | None) -> Tensor:
        """Which keys a query of a padded row does not see, of a shape that extends to [B, n_heads,
        L, L].
        """
        # rows end before their padding: no causal query sees a key of it
        return places > places[:, None]

    def _finish(self, x: Tensor, attended: Tensor, generator: torch.Generator | None) -> Tensor:
        x = self.attention_norm(x + dropout(self.out(attended), self.dropout, generator))
        return self._feed_forward(x, generator)

    def _feed_forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        out: Tensor = self.norm(x + dropout(self.down(F.gelu(self.up(x))), self.dropout, generator))
        return out


class Transformer(LayeredEncoder):
    """Causal transformer of Kang and McAuley, Self-Attentive Sequential Recommendation (ICDM 2018),
    in RecBole's form.

    Item plus learned position embedding, LayerNorm, dropout; post-norm layers with exact GELU.
    Departures: query, key and value are one product, and what :class:`LayeredEncoder` leaves out is
    not computed. The numbers are those of the padded computation.

    Args:
        hidden_dim, max_len, dropout: as of every encoder.
        n_layers, n_heads: ``n_heads`` divides ``hidden_dim``.
        inner_dim: of the feed-forward part.
        attention_dropout: of the attention probabilities.
    """

    layer_class: ClassVar[type[Layer]] = Layer
    #: whether embeddings pass a LayerNorm
    norms_embeddings: ClassVar[bool] = True
    #: whether positions get their initial values before the layers are made: the order of the draws
    #: of a seed
    positions_first: ClassVar[bool] = False

    def __init__(
        self,
        hidden_dim: int,
        max_len: int,
        dropout: float,
        n_layers: Layers = 2,
        n_heads: Heads = 2,
        inner_dim: Width = 256,
        attention_dropout: AttentionDropout = 0.5,
    ) -> None:
        super().__init__(hidden_dim, max_len, dropout, n_heads)
        self.most_dropped = max(dropout, attention_dropout)
        self.position_embedding = nn.Embedding(max_len, hidden_dim)
        if self.positions_first:
            initialise(self.position_embedding)
        self.norm: nn.Module = nn.Identity()
        if self.norms_embeddings:
            self.norm = nn.LayerNorm(hidden_dim, eps=1e-12)
        self.layers = nn.ModuleList(
            self.layer_class(hidden_dim, inner_dim, n_heads, dropout, attention_dropout)
            for _ in range(n_layers)
        )
        if not self.positions_first:
            initialise(self.position_embedding)
        self.layers.apply(self.layer_class.initialise)

    def enter(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x)
        return out


def low_pass(max_len: int, c: int, causal: bool, like: Tensor) -> Tensor:
    """[max_len, max_len]: what keeps the ``c // 2 + 1`` lowest frequencies of a sequence of max_len
    places.

    ``M @ x = irfft(rfft(x) with all higher frequencies 0)``: entry (t, s) depends on ``t - s``
    modulo max_len alone, so that places which hold zeros may be left out, wherever the sequence is
    padded.

    Args:
        c: as published; from max_len on nothing is removed.
        causal: without the entries of s > t: each place reads the filter of what came up to it.
        like: gives type and device.
    """
    kept_mask = torch.arange(max_len // 2 + 1, device=like.device) < c // 2 + 1
    response = torch.fft.irfft(kept_mask.to(like.dtype), n=max_len)
    places = torch.arange(max_len, device=like.device)
    matrix: Tensor = response[(places[:, None] - places) % max_len]
    if causal:
        return matrix.tril()
    return matrix


class FilteredLayer(Layer):
    """``alpha F(x) + (1 - alpha) A(x)``, then feed-forward: A the attention, F the filter, each
    with dropout, residual and LayerNorm. The filter gives ``low + beta (x - low)``, beta =
    sqrt_beta ** 2 learned for each column."""

    filter_matrix: Tensor

    def __init__(
        self,
        hidden_dim: int,
        inner_dim: int,
        n_heads: int,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__(hidden_dim, inner_dim, n_heads, dropout, attention_dropout)
        self.filter_norm = nn.LayerNorm(hidden_dim, eps=1e-12)
        self.sqrt_beta = nn.Parameter(torch.randn(hidden_dim))
        self._matrix: Tensor | None = None

    def set_filter(self, max_len: int, alpha: float, c: int, causal: bool) -> None:
        """Before the first use; see :class:`BSA`."""
        self.max_len, self.alpha, self.c, self.causal = max_len, alpha, c, causal
        # a constant of exports, whose formats have no Fourier transform
        matrix = low_pass(max_len, c, causal, self.sqrt_beta.detach())
        self.register_buffer("filter_matrix", matrix, persistent=False)

    def forward(self, x: Tensor, layout: Layout, generator: torch.Generator | None) -> Tensor:
        low = layout.mix(x, self._low_pass(x))
        attended = attend(self.qkv(x), layout, self.n_heads, self.attention_dropout, generator)
        return self._mix(x, low, attended, generator)

    def last(self, x: Tensor, layout: Layout, generator: torch.Generator | None) -> Tensor:
        low = layout.mix_last(x, self._low_pass(x))
        of_last = x.index_select(0, layout.last)
        return self._mix(of_last, low, self._attend_last(x, of_last, layout, generator), generator)

    def _low_pass(self, x: Tensor) -> Tensor:
        """The filter's matrix in the type of ``x``."""
        if not is_accelerated(x):
            return low_pass(self.max_len, self.c, self.causal, x)
        matrix = self._matrix
        if matrix is None or matrix.dtype != x.dtype or matrix.device != x.device:
            matrix = low_pass(self.max_len, self.c, self.causal, x.detach())
            # an inference tensor could not be used in training; a compiled graph cannot ask for the
            # mode
            if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
                self._matrix = matrix
        return matrix

    def padded(self, x: Tensor, keep_mask: Tensor) -> Tensor:
        # a slice would make max_len, which it leaves whole, a case of its own for an export
        places = torch.arange(x.shape[1], device=x.device)
        matrix = self.filter_matrix.index_select(0, places).index_select(1, places)
        return self._mix(x, matrix @ (x * keep_mask[:, :, None]), self._attend_padded(x), None)

    def _mix(
        self, x: Tensor, low: Tensor, attended: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        rescaled = low + self.sqrt_beta**2 * (x - low)
        filtered = self.filter_norm(x + dropout(rescaled, self.dropout, generator))
        attended = self.attention_norm(x + dropout(self.out(attended), self.dropout, generator))
        x = self.alpha * filtered + (1 - self.alpha) * attended
        return self._feed_forward(x, generator)


class BSA(Transformer):
    """Transformer of :class:`~recgraph.models.sequence.sasrec.BSARec` (Shin et al., AAAI 2024); see
    there.

    As :class:`Transformer`, but masked items inside a sequence take part in the filter, as their
    place's embedding.

    Args:
        hidden_dim, max_len, dropout, n_layers, n_heads, inner_dim, attention_dropout: as of the
            transformer.
        alpha: share of the filter beside the attention.
        c: the filter's cut-off: the ``c // 2 + 1`` lowest of max_len's frequencies are low.
        causal: the filter of a place reads no later one. Otherwise it reads the whole sequence, and
            of the states only the last may be used to predict what follows.
    """

    layer_class = FilteredLayer
    drops_masked = False
    positions_first = True

    def __init__(
        self,
        hidden_dim: int,
        max_len: int,
        dropout: float,
        causal: bool,
        n_layers: Layers = 2,
        n_heads: Heads = 2,
        inner_dim: Width = 256,
        attention_dropout: AttentionDropout = 0.5,
        alpha: Annotated[
            float,
            Field(ge=0, le=1, description="share of the filter; 0: SASRec"),
            Search(choices=(0.1, 0.3, 0.5, 0.7, 0.9)),
        ] = 0.7,
        c: Annotated[
            int,
            Field(
                ge=0,
                description="cut-off: the c // 2 + 1 lowest of max_len's frequencies count as low",
            ),
            Search(choices=(1, 3, 5, 7, 9)),
        ] = 5,
    ) -> None:
        super().__init__(
            hidden_dim, max_len, dropout, n_layers, n_heads, inner_dim, attention_dropout
        )
        for layer in cast("list[FilteredLayer]", list(self.layers)):
            layer.set_filter(max_len, alpha, c, causal)


class GatedLayer(Layer):
    """``x <- x + sigmoid(G1 x) attention(LN x)``, then ``x <- x + sigmoid(G2 x) FFN(LN x)``: what a
    part adds is gated by the state that it is added to. The feed-forward part is SwiGLU, ``W3
    (silu(W1 x) * W2 x)``, without biases."""

    def __init__(
        self,
        hidden_dim: int,
        inner_dim: int,
        n_heads: int,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__(hidden_dim, inner_dim, n_heads, dropout, attention_dropout)
        self.attention_norm = nn.LayerNorm(hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim)
        self.attention_gate = nn.Linear(hidden_dim, hidden_dim)
        self.gate = nn.Linear(hidden_dim, hidden_dim)
        # W1 and W2 as one product
        self.up = nn.Linear(hidden_dim, 2 * inner_dim, bias=False)
        self.down = nn.Linear(inner_dim, hidden_dim, bias=False)

    @staticmethod
    def initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, layout: Layout, generator: torch.Generator | None) -> Tensor:
        qkv = self.qkv(self.attention_norm(x))
        attended = attend(qkv, layout, self.n_heads, self.attention_dropout, generator)
        return self._finish(x, attended, generator)

    def last(self, x: Tensor, layout: Layout, generator: torch.Generator | None) -> Tensor:
        normed = self.attention_norm(x)
        attended = self._attend_last(normed, normed.index_select(0, layout.last), layout, generator)
        return self._finish(x.index_select(0, layout.last), attended, generator)

    def padded(self, x: Tensor, keep_mask: Tensor) -> Tensor:
        return self._finish(x, self._attend_padded(self.attention_norm(x)), None)

    def attention(self, x: Tensor) -> Tensor:
        return super().attention(self.attention_norm(x))

    def _finish(self, x: Tensor, attended: Tensor, generator: torch.Generator | None) -> Tensor:
        added = dropout(self.out(attended), self.dropout, generator)
        x = x + torch.sigmoid(self.attention_gate(x)) * added
        gate, inner = self.up(self.norm(x)).chunk(2, -1)
        inner = dropout(F.silu(gate) * inner, self.dropout, generator)
        return x + torch.sigmoid(self.gate(x)) * dropout(self.down(inner), self.dropout, generator)


class GatedTransformer(Transformer):
    """Transformer of :class:`~recgraph.models.sequence.sasrec.ESASRec`; see there.

    As :class:`Transformer`, but of pre-norm layers with gates, and without a LayerNorm of the
    embeddings. Matrices begin by Xavier (normal), query, key and value as one, and W1 and W2 as one
    (in RecTools each of these two by itself, which begins them up to 1.4 times as wide).

    Args:
        hidden_dim, max_len, dropout, n_layers, n_heads, inner_dim, attention_dropout: as of the
            transformer.
        drops_embeddings: whether dropout is of embeddings, too, not of layers alone.
        position_std: of the first vectors of positions; None: Xavier's, as of the matrices.
    """

    layer_class = GatedLayer
    norms_embeddings = False
    positions_first = True

    def __init__(
        self,
        hidden_dim: int,
        max_len: int,
        dropout: float,
        n_layers: Layers = 2,
        n_heads: Heads = 2,
        inner_dim: Width = 256,
        attention_dropout: AttentionDropout = 0.5,
        drops_embeddings: Annotated[
            bool, Field(description="whether embeddings have dropout, too")
        ] = True,
        position_std: Annotated[
            float | None,
            Field(gt=0, description="deviation of the first vectors of positions; none: Xavier's"),
        ] = None,
    ) -> None:
        super().__init__(
            hidden_dim, max_len, dropout, n_layers, n_heads, inner_dim, attention_dropout
        )
        if position_std is None:
            position_std = math.sqrt(2 / (max_len + hidden_dim))
        with torch.no_grad():  # they were drawn first, with .02
            self.position_embedding.weight *= position_std / 0.02
        if not drops_embeddings:
            self.embedding_dropout = 0.0


class BidirectionalLayer(Layer):
    """A :class:`Layer` whose places see all of their row."""

    def some(
        self, x: Tensor, layout: Layout, asked: Asked, generator: torch.Generator | None
    ) -> Tensor:
        of_asked = x.index_select(0, asked.tokens)
        attended = self._attend_last(x, of_asked, layout, generator, asked)
        return self._finish(of_asked, attended, generator)

    def _hidden(self, places: Tensor, keep_mask: Tensor | None) -> Tensor:
        if keep_mask is None:
            return places < 0
        return ~keep_mask[:, None, None]


class BidirectionalTransformer(Transformer):
    """Transformer of :class:`~recgraph.models.sequence.sasrec.BERT4Rec`; see there.

    As :class:`Transformer`, but each place attends to all places of its row. A masked item, token
    0, is a token with a learned vector as the others; a history is read by one that stands behind
    it. The states are ``LN(gelu(W x + b))`` of the last layer's output.

    Args:
        hidden_dim, max_len, dropout, n_layers, n_heads, inner_dim, attention_dropout: as of the
            transformer.
    """

    layer_class = BidirectionalLayer
    drops_masked = False
    sees_all = True
    ends_masked = True

    def __init__(
        self,
        hidden_dim: int,
        max_len: int,
        dropout: float,
        n_layers: Layers = 2,
        n_heads: Heads = 2,
        inner_dim: Width = 256,
        attention_dropout: AttentionDropout = 0.5,
    ) -> None:
        super().__init__(
            hidden_dim, max_len, dropout, n_layers, n_heads, inner_dim, attention_dropout
        )
        self.head = nn.Linear(hidden_dim, hidden_dim)
        self.head_norm = nn.LayerNorm(hidden_dim, eps=1e-12)
        initialise(self.head)

    def leave(self, x: Tensor) -> Tensor:
        out: Tensor = self.head_norm(F.gelu(self.head(x)))
        return out
