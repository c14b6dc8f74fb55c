"""Nearest histories of other users, by recent items, and of these what stands near the shared ones.

``recgraph train stan --import experiments/ideas/stan.py``; with ``distance_decay=1`` it is V-SKNN.
"""

from __future__ import annotations

from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor

import recgraph as rg
from recgraph.config import Search
from recgraph.data.batches import Query
from recgraph.data.part import Part
from recgraph.encoders.items import SizedByState
from recgraph.models.base import ClosedFormModel, ModelConfig, Space
from recgraph.sparse.csr import Csr
from recgraph.sparse.ragged import Ragged

#: histories for which others are sought at a time: each may meet most of the users
QUERIES = 64
Decay = Annotated[float, Field(gt=0, le=1), Search(0.5, 1.0)]


class STANConfig(ModelConfig):
    k: Annotated[
        int, Field(ge=1, description="histories that are read"), Search(50, 2000, log=True)
    ] = 100
    decay: Annotated[
        Decay, Field(description="of the weight of an item of the history for each later one")
    ] = 0.7
    distance_decay: Annotated[Decay, Field(description="for each place off the shared item")] = 0.7
    length_power: Annotated[
        float,
        Field(ge=0, le=1, description="of another's length, by which similarity is divided"),
        Search(0.0, 1.0),
    ] = 0.2


@rg.register("model")
class STAN(SizedByState, ClosedFormModel):
    """``s_j = sum_n sim(n) distance_decay^|p(n, j) - p(n, m)|`` over the ``k`` most similar others
    n that hold j.

    ``sim(n) = |n|^-length_power sum decay^t`` over the items ``h_t`` of the history that n holds,
    the newest h_0; p is the last place of an item in n, m the newest item of the history in n.

    Source: Garg et al., Sequence and Time Aware Neighborhood for Session-based Recommendations
    (SIGIR 2019), equations 2 to 7, with decays by place, exp(-1 / lambda); V-SKNN: Ludewig and
    Jannach (UMUAI 2018), with this decay for its linear one. Departure: no decay by the time
    between sessions, since histories span years.

    Attributes:
        offsets, items: [n_users + 1], [T] int64, the training histories.
    """

    Config = STANConfig
    sized_by_state = ("items",)
    offsets: Tensor
    items: Tensor

    def _build(self, space: Space) -> None:
        self.register_buffer("offsets", torch.zeros(space.n_users + 1, dtype=torch.int64))
        self.register_buffer("items", torch.zeros(0, dtype=torch.int64))

    def fit(self, train: Part) -> Self:
        self.offsets, self.items = (
            train.items.offsets.to(self.offsets.device),
            train.items.values.to(self.items.device),
        )
        self.changed()
        return self

    def _places(self) -> tuple[Csr, Csr]:
        """The last place of each item in each history [n_users, n_items], and transposed."""
        assert self.space is not None
        rows = Ragged(self.items, self.offsets)
        every = Csr.from_coo(
            rows.rows, rows.values, rows.positions.double(), shape=(len(rows), self.space.n_items)
        )
        is_last = torch.ones_like(every.indices, dtype=torch.bool)
        is_last[:-1] = (every.indices[1:] != every.indices[:-1]) | (
            every.rows[1:] != every.rows[:-1]
        )
        last = every.select(is_last)
        return last, last.t()

    def score(self, query: Query) -> Tensor:
        return torch.cat(
            [
                self._scores(query.rows(at, min(at + QUERIES, len(query))))
                for at in range(0, len(query), QUERIES)
            ]
        )

    def _scores(self, query: Query) -> Tensor:
        by_user, by_item = self.once("places", self._places)
        history, config, n_users = query.history, self.config, len(self.offsets) - 1
        ages = torch.pow(
            config.decay, (history.lengths[history.rows] - 1 - history.positions).double()
        )
        met = by_item.take_rows(history.values)  # of each item of a history those who hold it
        others = met.indices != query.users[history.rows[met.rows]]
        of_item, user, place = met.rows[others], met.indices[others], met.values()[others]
        pairs, found = torch.unique(history.rows[of_item] * n_users + user, return_inverse=True)
        row, user = pairs // n_users, pairs % n_users
        similar = ages.new_zeros(len(pairs)).index_add(0, found, ages[of_item])
        similar *= by_user.degrees[user].double() ** -config.length_power
        newest = torch.zeros_like(row).scatter_reduce(
            0, found, torch.arange(len(found), device=row.device), "amax"
        )
        # the k greatest of each row, ties by user
        order = torch.argsort(similar, descending=True, stable=True)
        order = order[torch.argsort(row[order], stable=True)]
        ranked = Ragged.from_lengths(order, torch.bincount(row, minlength=len(query)))
        kept = order[ranked.positions < config.k]
        theirs = by_user.take_rows(user[kept])
        distance = (theirs.values() - place[newest[kept]][theirs.rows]).abs()
        weights = similar[kept][theirs.rows] * config.distance_decay**distance
        scores = ages.new_zeros(len(query), by_user.shape[1])
        return scores.index_put_(
            (row[kept][theirs.rows], theirs.indices), weights, accumulate=True
        ).float()
