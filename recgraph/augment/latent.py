"""Latent augmenters: small networks that make another view of encoded sequences. MLP, attention,
convolution.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recgraph.sparse.blocks import unit_length, work_type
from recgraph.sparse.device import full_precision
from recgraph.sparse.ragged import Ragged, row_softmax

Variant = Literal["row", "published"]


class Augmenter(nn.Module):
    """Base of all latent augmenters: ``z = augmenter(h)``, rows of unit length.

    Source: Qin et al., Meta-optimized Contrastive Learning for Sequential Recommendation (SIGIR
    2023). A subclass makes its layers (torch's default initialisation, as the published code) and
    fills :meth:`forward`.

    Args:
        hidden_dim: D.
        variant: ``"row"``, the view of a row depends on that row alone; ``"published"``, what the
            published code does, where that differs.
    """

    #: whether ``states`` must be given; an encoder can leave them out otherwise
    needs_states: bool = False
    #: the one batch size that the augmenter can take, or None for any
    batch_size: int | None = None

    def forward(
        self, hidden: Tensor, states: Ragged | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Another view of each row.

        Args:
            hidden: [B, D], encoded sequences.
            states: B rows of [D]: the encoder's output at each place of each sequence.
            generator: for augmenters that draw, on the device of ``hidden``; without one a view is
                always the same.

        Returns:
            [B, D], rows of unit L2 norm.
        """
        raise NotImplementedError


class MLP(Augmenter):
    """``D -> D/2 -> D/4 -> D`` with exact GELU after the first two layers, then L2.

    As published (64 -> 32 -> 16 -> 64, and the layers' names). Rows do not mix, so both variants
    are the same.
    """

    def __init__(self, hidden_dim: int, variant: Variant = "row") -> None:
        super().__init__()
        half, quarter = max(hidden_dim // 2, 1), max(hidden_dim // 4, 1)
        self.dense_1 = nn.Linear(hidden_dim, half)
        self.dense_2 = nn.Linear(half, quarter)
        self.dense_3 = nn.Linear(quarter, hidden_dim)

    def forward(
        self, hidden: Tensor, states: Ragged | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        inner = F.gelu(self.dense_2(F.gelu(self.dense_1(hidden))))
        return unit_length(self.dense_3(inner))


class Attention(Augmenter):
    """Query, key and value projections, one head of scaled dot-product attention, GELU, L2.

    ``variant="published"``: each row attends to all rows *of the batch*, so that its view depends
    on which other users happen to share its batch, and on the batch size. ``variant="row"`` (a
    departure): the encoded sequence is the query, the keys and values are the states of that
    sequence; the view depends on the sequence alone. A row without states gives a zero vector.
    """

    def __init__(self, hidden_dim: int, variant: Variant = "row") -> None:
        super().__init__()
        self.query = nn.Linear(hidden_dim, hidden_dim)
        self.key = nn.Linear(hidden_dim, hidden_dim)
        self.value = nn.Linear(hidden_dim, hidden_dim)
        self.variant, self.needs_states = variant, variant == "row"

    def forward(
        self, hidden: Tensor, states: Ragged | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        query = self.query(hidden)
        if self.variant == "published":
            attended = F.scaled_dot_product_attention(
                query[None], self.key(hidden)[None], self.value(hidden)[None]
            )[0]
        else:
            assert states is not None
            attended = attend_rows(
                query, states.with_values(self.key(states.values)), self.value(states.values)
            )
        return unit_length(F.gelu(attended))


def attend_rows(query: Tensor, keys: Ragged, values: Tensor) -> Tensor:
    """Scaled dot-product attention of one query a row over that row's keys, without padding, in
    float32 at least.

    The sums of half precision would stop growing at a row's 256th key.

    Args:
        query: [B, D].
        keys: B rows of [D].
        values: [T, D], aligned with ``keys.values``.

    Returns:
        [B, D]; zeros where a row has no keys.
    """
    rows, work = keys.rows, work_type(query, keys.values, values)
    with full_precision(query):
        query, own, values = query.to(work), keys.values.to(work), values.to(work)
        logits = (query[rows] * own).sum(-1) / math.sqrt(query.shape[-1])
        parts = row_softmax(logits, keys.offsets, rows)[:, None] * values
        return parts.new_zeros(query.shape).index_add(0, rows, parts)


_KERNEL = 3
_CHANNELS = 8


class Conv(Augmenter):
    """One-dimensional convolution of width 3 along the embedding, GELU, L2.

    ``variant="published"``: the *batch* is the channel dimension of one convolution with D
    channels, so that rows mix by their place in the batch and a batch must hold exactly D rows.
    ``variant="row"`` (a departure): each row is one channel, widened to 8 channels and back to one,
    with GELU between; rows do not mix and any batch size goes.
    """

    def __init__(self, hidden_dim: int, variant: Variant = "row") -> None:
        super().__init__()
        self.variant = variant
        if variant == "published":
            self.batch_size = hidden_dim
            self.conv = nn.Conv1d(hidden_dim, hidden_dim, _KERNEL, padding="same")
        else:
            self.up = nn.Conv1d(1, _CHANNELS, _KERNEL, padding="same")
            self.down = nn.Conv1d(_CHANNELS, 1, _KERNEL, padding="same")

    def forward(
        self, hidden: Tensor, states: Ragged | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        if self.variant == "published":
            return unit_length(F.gelu(self.conv(hidden[None])[0]))
        return unit_length(self.down(F.gelu(self.up(hidden[:, None])))[:, 0])
