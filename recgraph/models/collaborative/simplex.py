"""SimpleX: matrix factorisation with the user's history, by cosines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from recgraph import encoders, losses
from recgraph.config import PartConfig, Search
from recgraph.data.batches import PairBatch, Query
from recgraph.data.part import Part
from recgraph.models.base import Model, ModelConfig, Space
from recgraph.models.collaborative.base import CollaborativeConfig, CollaborativeModel
from recgraph.models.reading import Reading
from recgraph.registry import part
from recgraph.rng import dropout
from recgraph.sparse.ragged import Ragged
from recgraph.sparse.rows import lookup

_USERS = "users of this rank"


class SimpleXConfig(CollaborativeConfig):
    loss: Annotated[PartConfig, part("loss"), Field(description="of the recommendations")] = (
        losses.CCL(n_negatives=200)
    )
    l2: Annotated[
        float,
        Field(ge=0, description="weight of the squared norms of each sample's vectors"),
        Search(1e-9, 1e-4, log=True),
    ] = 1e-7
    aggregator: Annotated[
        PartConfig,
        part("aggregator"),
        Field(description="of a user's history"),
        Search(choices=("mean", "user_attention", "self_attention")),
    ] = encoders.Mean()
    own_weight: Annotated[
        float,
        Field(
            ge=0, le=1, description="g, what the user's own vector counts; the history counts 1 - g"
        ),
        Search(0.0, 1.0),
    ] = 0.5
    history_table: Annotated[
        bool,
        Field(
            description="whether histories read a table of items of their own, beside that of scores"
        ),
    ] = False
    exclude_target: Annotated[
        bool,
        Field(
            description="whether a sample's history leaves out the item that it predicts, in training"
        ),
    ] = False
    dropout: Annotated[
        float,
        Field(ge=0, lt=1, description="of user vectors, in training"),
        Search(choices=(0.0, 0.1, 0.2)),
    ] = 0.1


class SimpleX(CollaborativeModel):
    """Cosine of an item's vector and ``g p_u + (1 - g) W sum_i a_ui q_i``: the user's own vector
    and the history's.

    The weights a of the history's items are those of ``aggregator``. It is trained by the cosine
    contrastive loss, with many negatives (``loss`` has its margin and the weight of the negatives):
    on Gowalla the publication has 2,000, user attention, g .8, margin .9 and weight 250. In
    training a history holds the item that is predicted, unless ``exclude_target`` leaves it out: a
    large ``own_weight`` or many negatives keep the model from copying it.

    A user is ranked for by the history of the query, so that what a known user did since the
    training counts. A user who is unknown has the part of the history alone; one who is unknown and
    without history is ranked for by the mean of the trained users' own vectors. With
    ``own_weight=1`` it is :class:`BPRMF`.

    Source: Mao et al., SimpleX: A Simple and Strong Baseline for Collaborative Filtering (CIKM
    2021). Departures: histories are not cut; ``l2`` is of the vectors of a batch's samples. The
    published code differs from the defaults here: a history lacks the item that is predicted
    (``exclude_target=True``), its q are of a table of their own (``history_table=True``), the
    padding takes a share of the attention, and matrices start from N(0, 1 / D)
    (``aggregator={"n_places": 810, "init": "xavier"}`` on Gowalla); dropout is after vectors are
    brought to length 1 (``dropout=0, loss={"dropout": 0.1}``); tables start from N(0, 1e-4)
    (``init_std``); gradients are clipped (``clip_norm=10``, without which such a start is slow);
    samples may draw items of their own user (``exclude_own=False``).
    """

    Config: ClassVar[type[ModelConfig]] = SimpleXConfig
    tables: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **CollaborativeModel.tables,
        "history_embedding.weight": ("items",),
    }

    def _build(self, space: Space) -> None:
        super()._build(space)
        self.history_embedding: nn.Embedding | None = None
        if self.config.history_table:
            self.history_embedding = self._new_table(space.n_items)
        self.aggregator = self.config.aggregator.build(hidden_dim=self.config.hidden_dim)

    def setup(self, train: Part) -> None:
        super().setup(train)
        self._histories = train.items

    def nodes(self) -> Tensor:
        """[n_users + n_items, D]: own vectors of users, without their histories, and vectors of
        items.
        """
        table: Tensor = self.embedding.weight
        return table

    def prepare(self, batch: PairBatch) -> None:
        super().prepare(batch)
        if not self.config.exclude_target:
            # on the host: on an accelerator it would wait for their number
            batch.drawn[_USERS] = _users_once(batch)

    def nodes_of(self, batch: PairBatch) -> tuple[PairBatch, Tensor]:
        table = self.embedding.weight
        generator = batch.generators.of_rank("dropout")
        rows = torch.arange(len(batch.users), device=batch.users.device)
        if self.config.exclude_target:
            # a history for each sample, which lacks the item that it predicts
            users, places = batch.users, rows
            histories = self._histories_of(users)
            histories = histories.filter(histories.values != batch.items[histories.rows])
        else:
            # a user with many samples has many in a batch, and a long history, which is read once
            users, places = batch.drawn.get(_USERS) or _users_once(batch)
            histories = self._histories_of(users)
        items = table[self.space.n_users :]
        vectors = self._vectors(lookup(table, users), histories, self._read(items), generator)
        vectors = vectors[places]
        if self.training:
            vectors = dropout(vectors, self.config.dropout, generator)
        return replace(batch, users=rows), torch.cat([vectors, items])

    def _histories_of(self, users: Tensor) -> Ragged:
        """What users [U] did in training; moved to their device once."""
        if self._histories.device != users.device:
            self._histories = self._histories.to(users.device)
        return self._histories.take(users)

    def _read(self, items: Tensor) -> Tensor:
        """[n_items, D]: what histories read, given the vectors of items that are scored."""
        if self.history_embedding is None:
            return items
        return self.history_embedding.weight

    def _vectors(
        self, own: Tensor, rows: Ragged, items: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """[U, D], of own vectors [U, D], histories and items [n_items, D]; the generator draws the
        aggregator's dropout."""
        share = self.config.own_weight
        if share == 1:
            return own
        vectors: Tensor = share * own + (1 - share) * self.aggregator(own, rows, items, generator)
        return vectors

    def _user_vectors(self, query: Query, nodes: Tensor) -> Tensor:
        known_mask = self._known_mask(query)
        own = nodes.new_zeros(len(query), nodes.shape[1])
        own[known_mask] = lookup(nodes, query.users[known_mask])
        vectors = self._vectors(own, query.history, self._read(nodes[self.space.n_users :]))
        lost_mask = ~known_mask & ((query.history.lengths == 0) | (self.config.own_weight == 1))
        if bool(lost_mask.any()):
            vectors[lost_mask] = super()._fold_in(query.take(lost_mask.nonzero()[:, 0]), nodes)
        return vectors

    def reading(self, query: Query) -> Reading:
        if self.config.own_weight == 1:
            return super().reading(query)
        return Model.reading(self, query)


def _users_once(batch: PairBatch) -> list[Tensor]:
    """The users of a rank's samples, each once, ascending, and [B] the place of each sample's among
    them.
    """
    return list(torch.unique(batch.users, return_inverse=True))
