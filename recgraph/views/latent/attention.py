"""Attention as a latent augmenter: over the sequence's own states, or over the batch as published."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recgraph.sparse.ragged import Ragged
from recgraph.views.latent.base import Augmenter, Variant


class Attention(Augmenter):
    """Query, key and value projections, one head of scaled dot-product attention, GELU, L2.

    ``variant="published"``: each row attends to all rows *of the batch*, so that its view depends on which
    other users happen to share its batch, and on the batch size.
    ``variant="row"`` (a departure): the encoded sequence is the query, the keys and values are the states of
    that sequence; the view depends on the sequence alone. A row without states gives a zero vector.
    """

    def __init__(self, hidden_dim: int, variant: Variant = "row") -> None:
        super().__init__(hidden_dim, variant)
        self.query = nn.Linear(hidden_dim, hidden_dim)
        self.key = nn.Linear(hidden_dim, hidden_dim)
        self.value = nn.Linear(hidden_dim, hidden_dim)

    @property
    def needs_states(self) -> bool:
        return self.variant == "row"

    def _augment(self, hidden: Tensor, states: Ragged | None) -> Tensor:
        query = self.query(hidden)
        if self.variant == "published":
            attended = F.scaled_dot_product_attention(query[None], self.key(hidden)[None], self.value(hidden)[None])[0]
        else:
            assert states is not None  # checked by the base
            attended = attend_rows(query, states.with_values(self.key(states.values)), self.value(states.values))
        return F.gelu(attended)


def attend_rows(query: Tensor, keys: Ragged, values: Tensor) -> Tensor:
    """Scaled dot-product attention of one query a row over that row's keys, without padding.

    Args:
        query: [B, D].
        keys: B rows of [D].
        values: [T, D], aligned with ``keys.values``.

    Returns:
        [B, D]; zeros where a row has no keys.
    """
    rows = keys.rows
    logits = (query[rows] * keys.values).sum(-1) / math.sqrt(query.shape[-1])
    # the largest logit of each row is a constant of the softmax: it takes no gradient
    peak = logits.new_full((keys.n_rows,), -math.inf).scatter_reduce(0, rows, logits.detach(), "amax")
    weight = torch.exp(logits - peak[rows])
    total = weight.new_zeros(keys.n_rows).index_add(0, rows, weight)
    # of the product's type: the autocast of GPUs makes exp float32
    parts = (weight / total[rows])[:, None] * values
    return parts.new_zeros(query.shape).index_add(0, rows, parts)
