"""What follows what, counted and not trained: Transitions, and STAN, which reads whole histories of others."""

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
from recgraph.sparse.ragged import Ragged

#: the relative error of float32
_EPSILON = 2.0**-24
#: histories for which others are sought at a time: each may meet most of the users
_QUERIES = 64


Backward = Annotated[
    float, Field(ge=0, description="weight of the way back, from an item to those before it"), Search(0.0, 1.0)
]
HistoryPower = Annotated[
    float,
    Field(ge=0, le=1, description="of an item's sum of weights, by which what it leads to is divided"),
    Search(0.0, 1.0),
]
ItemPower = Annotated[
    float,
    Field(ge=0, le=1, description="of an item's sum of weights, by which what leads to it is divided"),
    Search(0.0, 1.0),
]
Decay = Annotated[
    float,
    Field(gt=0, le=1, description="of the weight of an item of the history for each later one"),
    Search(0.5, 1.0),
]


class TransitionsConfig(ModelConfig):
    window: Annotated[
        int, Field(ge=1, description="steps of a history between an item and those that follow it"), Search(1, 20)
    ] = 10
    backward: Backward = 0.25
    history_power: HistoryPower = 0.5
    item_power: ItemPower = 0.3
    decay: Decay = 0.7


class Transitions(SizedByState, ClosedFormModel):
    """The transitions from the items of a history, the newest first.

    ``s_j = sum_t decay^t T[h_t, j]`` with ``h_0`` the last item of the history, and
    ``T = diag(C 1)^-history_power C diag(1'C)^-item_power``, where ``C_ij`` sums ``1 / d`` over all places of the
    training histories at which j stands d steps after i, ``d <= window``, and ``backward / d`` where j stands d before
    i; of interactions of weights v and w ``sqrt(v w)`` times as much. The defaults are between those that the valid
    parts of Amazon Beauty and MovieLens-1M like best.

    The item-to-item table that sequence models are compared with: with ``window=1, backward=0, decay`` near 0 it is a
    Markov chain of the first order. Memory is 12 bytes for each pair of items that stand within a window.

    Attributes:
        offsets, items, weights: [n_items + 1], [nnz] int64 and [nnz] float32, the rows of T one after another.
    """

    Config = TransitionsConfig
    reads_weights = True
    sized_by_state = ("items", "weights")
    offsets: Tensor
    items: Tensor
    weights: Tensor

    @property
    def n_read(self) -> int:
        """The items of a history that count."""
        return n_read(self.config.decay)

    @property
    def matrix(self) -> Csr:
        """T, [n_items, n_items]."""
        n_items = len(self.offsets) - 1
        return self.once("matrix", lambda: Csr(self.offsets, self.items, self.weights, (n_items, n_items)))

    def _build(self, space: Space) -> None:
        self.register_buffer("offsets", torch.zeros(space.n_items + 1, dtype=torch.int64))
        self.register_buffer("items", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("weights", torch.zeros(0))

    def fit(self, train: Part) -> Self:
        config, device = self.config, self.offsets.device
        weights = None if train.weights is None else train.weights.to(device)
        table = transitions(train.items.to(device), train.n_items, config.window, config.backward, weights)
        #: what the rows and the columns of C are scaled by
        self.scales = (
            power(table.row_sums(), -config.history_power).float(),
            power(table.t().row_sums(), -config.item_power).float(),
        )
        table = table.scale(*self.scales)
        self.offsets, self.items, self.weights = table.indptr, table.indices, table.values(torch.float32)
        self.changed()
        return self

    def score(self, query: Query) -> Tensor:
        history = query.history.last(self.n_read)
        weights = ages(history, self.config.decay)
        known = Csr(history.offsets, history.values, weights, (len(query), len(self.offsets) - 1))
        return compose(known, self.matrix).to_dense()


def n_read(decay: float) -> int:
    """The items of a history that count: those before are less than a rounding error of the newest."""
    return 1 << 31 if decay == 1 else 1 + int(math.log(_EPSILON) / math.log(decay))


def ages(history: Ragged, decay: float) -> Tensor:
    """[T]: decay to the power of the later items of the same history."""
    return torch.pow(decay, (history.lengths[history.rows] - 1 - history.positions).float())


class STANConfig(ModelConfig):
    k: Annotated[int, Field(ge=1, description="histories of other users that are read"), Search(50, 2000, log=True)] = (
        500
    )
    decay: Decay = 0.7
    distance_decay: Annotated[
        float,
        Field(gt=0, le=1, description="of the weight of another's item for each place that it is off the shared one"),
        Search(0.5, 1.0),
    ] = 0.7
    length_power: Annotated[
        float, Field(ge=0, le=1, description="of another's length, by which similarity is divided"), Search(0.0, 1.0)
    ] = 0.5


class STAN(SizedByState, ClosedFormModel):
    """Nearest histories of other users, by recent items, and of these what stands near the shared ones.

    ``s_j = sum_n sim(n) distance_decay^|p(n, j) - p(n, m)|`` over the ``k`` most similar others n that hold j, with
    ``sim(n) = |n|^-length_power sum decay^t`` over the items ``h_t`` of the history that n holds, the newest h_0, p the
    last place of an item in n, and m the newest item of the history in n.

    Source: Garg et al., Sequence and Time Aware Neighborhood for Session-based Recommendations (SIGIR 2019), equations
    2 to 7, with decays by place, exp(-1 / lambda). Departure: no decay by the time between sessions, since histories
    span years. With ``distance_decay=1`` it is V-SKNN (Ludewig and Jannach, UMUAI 2018) with this decay for its linear
    one.

    Attributes:
        offsets, items: [n_users + 1], [T] int64, the training histories, one after another.
    """

    Config = STANConfig
    sized_by_state = ("items",)
    offsets: Tensor
    items: Tensor

    def _build(self, space: Space) -> None:
        self.register_buffer("offsets", torch.zeros(space.n_users + 1, dtype=torch.int64))
        self.register_buffer("items", torch.zeros(0, dtype=torch.int64))

    def fit(self, train: Part) -> Self:
        self.offsets, self.items = train.items.offsets.to(self.offsets.device), train.items.values.to(self.items.device)
        self.changed()
        return self

    def _places(self) -> tuple[Csr, Csr]:
        """The last place of each item in each history [n_users, n_items], and transposed."""
        assert self.space is not None
        rows = Ragged(self.items, self.offsets)
        every = Csr.from_coo(rows.rows, rows.values, rows.positions.double(), shape=(len(rows), self.space.n_items))
        is_last = torch.ones_like(every.indices, dtype=torch.bool)
        is_last[:-1] = (every.indices[1:] != every.indices[:-1]) | (every.rows[1:] != every.rows[:-1])
        last = every.select(is_last)
        return last, last.t()

    def score(self, query: Query) -> Tensor:
        return torch.cat(
            [self._scores(query.rows(at, min(at + _QUERIES, len(query)))) for at in range(0, len(query), _QUERIES)]
        )

    def _scores(self, query: Query) -> Tensor:
        by_user, by_item = self.once("places", self._places)
        history, config = query.history.last(n_read(self.config.decay)), self.config
        met = by_item.take_rows(history.values)  # of each item of a history those who hold it
        row = history.rows[met.rows]
        others = met.indices != query.users[row]
        of_item, row, user, place = met.rows[others], row[others], met.indices[others], met.values()[others]
        pairs, found = torch.unique(row * by_user.shape[0] + user, return_inverse=True)
        row, user = pairs // by_user.shape[0], pairs % by_user.shape[0]
        sums = torch.zeros(len(pairs), dtype=torch.float64, device=row.device)
        similar = sums.index_add(0, found, ages(history, config.decay)[of_item].double())
        similar *= by_user.degrees[user].double() ** -config.length_power
        newest = torch.zeros_like(row).scatter_reduce(0, found, torch.arange(len(found), device=row.device), "amax")
        shared = place[newest]
        # the k greatest of each row, ties by user
        order = torch.argsort(similar, descending=True, stable=True)
        order = order[torch.argsort(row[order], stable=True)]
        ranked = Ragged.from_lengths(order, torch.bincount(row, minlength=len(query)))
        kept = order[ranked.positions < config.k]
        theirs = by_user.take_rows(user[kept])
        distance = (theirs.values() - shared[kept][theirs.rows]).abs()
        weights = similar[kept][theirs.rows] * config.distance_decay**distance
        scores = sums.new_zeros(len(query), by_user.shape[1])
        return scores.index_put_((row[kept][theirs.rows], theirs.indices), weights, accumulate=True).float()
