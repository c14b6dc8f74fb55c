"""Transitions: what follows what, counted and not trained."""

from __future__ import annotations

import math
from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor

from recgraph.config import Search
from recgraph.data.batches import Query
from recgraph.data.part import Part
from recgraph.encoders.graph import transitions
from recgraph.encoders.items import SizedByState
from recgraph.models.base import ClosedFormModel, ModelConfig, Space
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import power
from recgraph.sparse.products import compose
from recgraph.sparse.spmm import spmm

#: the relative error of float32
_EPSILON = 2.0**-24


class TableConfig(ModelConfig):
    window: Annotated[
        int,
        Field(ge=1, description="steps of a history between an item and those that follow it"),
        Search(1, 20),
    ] = 10
    backward: Annotated[
        float,
        Field(ge=0, description="weight of the way back, from an item to those before it"),
        Search(0.0, 1.0),
    ] = 0.25
    history_power: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="of an item's sum of weights, by which what it leads to is divided",
        ),
        Search(0.0, 1.0),
    ] = 0.5
    item_power: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="of an item's sum of weights, by which what leads to it is divided",
        ),
        Search(0.0, 1.0),
    ] = 0.3
    decay: Annotated[
        float,
        Field(gt=0, le=1, description="of the weight of an item of the history for each later one"),
        Search(0.5, 1.0),
    ] = 0.7


class TransitionsConfig(TableConfig):
    hops: Annotated[
        int, Field(ge=1, description="steps along the table that are summed"), Search(1, 3)
    ] = 1


class Transitions(SizedByState, ClosedFormModel):
    """The transitions from the items of a history, the newest first.

    ``s_j = sum_t decay^t T[h_t, j]`` with ``h_0`` the last item of the history, plus ``s T`` with
    two ``hops``, and ``T = diag(C 1)^-history_power C diag(1'C)^-item_power``, where ``C_ij`` sums
    ``1 / d`` over all places of the training histories at which j stands d steps after i, ``d <=
    window``, and ``backward / d`` where j stands d before i; of interactions of weights v and w
    ``sqrt(v w)`` times as much. The defaults are between those that the valid parts of Amazon
    Beauty and MovieLens-1M like best.

    The item-to-item table that sequence models are compared with: with ``window=1, backward=0,
    decay`` near 0 it is a Markov chain of the first order. Memory is 12 bytes for each pair of
    items that stand within a window.

    Source: ours, after the sequential rules of Ludewig and Jannach, Evaluation of Session-based
    Recommendation Algorithms (UMUAI 2018), section 3.1. Departures: the way back, the powers, and
    all of the history.

    Attributes:
        offsets, items, weights: [n_items + 1], [nnz] int64 and [nnz] float32, the rows of T one
            after another.
    """

    Config = TransitionsConfig
    reads_weights = True
    sized_by_state = ("items", "weights")
    offsets: Tensor
    items: Tensor
    weights: Tensor

    @property
    def n_read(self) -> int:
        """The items of a history that count: those before are less than a rounding error of the
        newest.
        """
        if self.config.decay == 1:
            return 1 << 31
        return 1 + int(math.log(_EPSILON) / math.log(self.config.decay))

    @property
    def matrix(self) -> Csr:
        """T, [n_items, n_items]."""
        n_items = len(self.offsets) - 1
        return self.once(
            "matrix", lambda: Csr(self.offsets, self.items, self.weights, (n_items, n_items))
        )

    def _build(self, space: Space) -> None:
        self.register_buffer("offsets", torch.zeros(space.n_items + 1, dtype=torch.int64))
        self.register_buffer("items", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("weights", torch.zeros(0))

    def fit(self, train: Part) -> Self:
        config, device = self.config, self.offsets.device
        weights = None if train.weights is None else train.weights.to(device)
        table = transitions(
            train.items.to(device), train.n_items, config.window, config.backward, weights
        )
        rows_scale = power(table.row_sums(), -config.history_power).float()
        columns_scale = power(table.t().row_sums(), -config.item_power).float()
        table = table.scale(rows_scale, columns_scale)
        self.offsets = table.indptr
        self.items = table.indices
        self.weights = table.values(torch.float32)
        self.changed()
        return self

    def score(self, query: Query) -> Tensor:
        history = query.history.last(self.n_read)
        ages = history.lengths[history.rows] - 1 - history.positions
        weights = torch.pow(self.config.decay, ages.to(self.weights.dtype))
        known = Csr(history.offsets, history.values, weights, (len(query), len(self.offsets) - 1))
        reached = scores = compose(known, self.matrix).to_dense()
        for _ in range(self.config.hops - 1):
            reached = spmm(self.once("transposed", self.matrix.t), reached.T.contiguous()).T
            scores = scores + reached
        return scores
