"""Aggregators of histories: one vector of the items that a user has chosen, without their order."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from recgraph.encoders.base import dropout_generator
from recgraph.rng import dropout
from recgraph.sparse.ragged import Ragged, row_softmax
from recgraph.sparse.spmm import pair_products

Rate = Annotated[float, Field(ge=0, lt=1, description="of the weights, in training")]
Init = Literal["uniform", "xavier"]


class HistoryAggregator(nn.Module):
    """Base of the registry's kind ``aggregator``: ``aggregator(own, rows, items, generator)`` gives
    ``W sum_i a_ui q_i``, [U, D], over the items i of each user's history; 0 of an empty one.

    A subclass says in :meth:`attention` what each item counts. Repeats in a history count as often
    as they occur. Source: Mao et al., SimpleX (CIKM 2021), section 4.1. Departures: the published
    code pads histories, and the padding takes a share of the attention; here the weights of a
    history sum to 1, unless ``n_places`` says otherwise. Its matrices start wider
    (``init="xavier"``).

    Args:
        hidden_dim: D.
        dropout: of the weights a, in training.
        init: how matrices start: "uniform", entries up to ``1 / sqrt(D)``, as torch's; or "xavier",
            N(0, 1 / D), with biases of 0, as in the published code.
    """

    def __init__(self, hidden_dim: int, dropout: Rate = 0.0, init: Init = "uniform") -> None:
        super().__init__()
        self.dropout = dropout
        self.init = init
        self.out = self._linear(hidden_dim, bias=False)

    def _linear(self, hidden_dim: int, bias: bool) -> nn.Linear:
        layer = nn.Linear(hidden_dim, hidden_dim, bias=bias)
        if self.init == "xavier":
            nn.init.xavier_normal_(layer.weight)
            if bias:
                nn.init.zeros_(layer.bias)
        return layer

    def attention(self, own: Tensor, rows: Ragged, items: Tensor) -> Tensor:
        """[T]: what the events of the histories count, those of each history summing to 1;
        arguments as of a call.
        """
        raise NotImplementedError

    def forward(
        self, own: Tensor, rows: Ragged, items: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """[U, D].

        Args:
            own: [U, D], the users' own vectors.
            rows: U histories of T events in all, of indices of items.
            items: [n_items, D], the items' vectors q.
            generator: draws dropout; required in training mode where dropout is above 0.
        """
        generator = dropout_generator(self, self.dropout, generator)
        weights = dropout(self.attention(own, rows, items), self.dropout, generator)
        pooled = F.embedding_bag(
            rows.values,
            items,
            rows.offsets,
            mode="sum",
            include_last_offset=True,
            per_sample_weights=weights,
        )
        mapped: Tensor = self.out(pooled)
        return mapped


class Mean(HistoryAggregator):
    """``W mean_i q_i``: all items of a history count alike."""

    def attention(self, own: Tensor, rows: Ragged, items: Tensor) -> Tensor:
        return (1 / rows.lengths.to(items.dtype))[rows.rows]


class _Attention(HistoryAggregator):
    """Base of those that ask the keys ``tanh(K q_i + b)`` of items.

    Args:
        hidden_dim, dropout, init: see :class:`HistoryAggregator`.
        n_places: of a history: those that its items leave empty have the score 0 and take their
            share of the softmax, as in the published code, whose number of places is the length of
            the longest history. None: no place is empty.
    """

    def __init__(
        self,
        hidden_dim: int,
        dropout: Rate = 0.0,
        init: Init = "uniform",
        n_places: int | None = None,
    ) -> None:
        super().__init__(hidden_dim, dropout, init)
        self.n_places = n_places
        self.key = self._linear(hidden_dim, bias=True)

    def _read(self, rows: Ragged, items: Tensor) -> tuple[Tensor, Tensor]:
        """Keys, and the row of them of each event: those of all items where there are more events
        than items.
        """
        if rows.values.numel() > len(items):
            return torch.tanh(self.key(items)), rows.values
        keys = torch.tanh(self.key(F.embedding(rows.values, items)))
        return keys, torch.arange(len(keys), device=keys.device)

    def _softmax(self, scores: Tensor, rows: Ragged, items: Tensor) -> Tensor:
        """Of the scores of events, within each history, in the type of the items: half precision
        stops adding up.
        """
        n_empty = None if self.n_places is None else (self.n_places - rows.lengths).clamp(min=0)
        return row_softmax(scores.to(items.dtype), rows.offsets, rows.rows, n_empty)


class UserAttention(_Attention):
    """``a_ui = softmax_i(p_u . tanh(K q_i + b))``: the user's own vector p_u asks."""

    def attention(self, own: Tensor, rows: Ragged, items: Tensor) -> Tensor:
        keys, places = self._read(rows, items)
        return self._softmax(pair_products(own, keys, rows.with_values(places)), rows, items)


class SelfAttention(_Attention):
    """``a_ui = softmax_i(h . tanh(K q_i + b))``: a learned vector h asks, the same of all users."""

    def __init__(
        self,
        hidden_dim: int,
        dropout: Rate = 0.0,
        init: Init = "uniform",
        n_places: int | None = None,
    ) -> None:
        super().__init__(hidden_dim, dropout, init, n_places)
        self.query = nn.Parameter(torch.empty(hidden_dim, 1))
        nn.init.xavier_normal_(self.query)

    def attention(self, own: Tensor, rows: Ragged, items: Tensor) -> Tensor:
        keys, places = self._read(rows, items)
        return self._softmax((keys @ self.query)[:, 0][places], rows, items)
