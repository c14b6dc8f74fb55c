"""Popularity, and models in which an item is scored by its neighbours in the history: ItemKNN,
RP3beta, SLIM's base.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

import psutil
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from recgraph.config import Search
from recgraph.data.batches import Query
from recgraph.data.part import Part
from recgraph.models.base import ClosedFormModel, ModelConfig, PaddedForm, Space
from recgraph.models.reading import Reading
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import power
from recgraph.sparse.products import neighbours


class Popularity(ClosedFormModel):
    """Scores an item by the number of users who chose it, or the sum of the weights: the same
    ranking for everyone.
    """

    reads_weights = True
    counts: Tensor

    def _build(self, space: Space) -> None:
        self.register_buffer("counts", torch.zeros(space.n_items))

    def fit(self, train: Part) -> Self:
        matrix = fit_matrix(self, train, self.counts.device)
        self.counts.copy_(torch.bincount(matrix.indices, matrix.weights, minlength=train.n_items))
        return self

    def score(self, query: Query) -> Tensor:
        return self.counts.expand(len(query), -1)

    def reading(self, query: Query) -> Reading:
        raise ValueError(
            f"{type(self).__name__} ranks alike for everyone and reads no history, so that no recommendation can be "
            "attributed to its items; a model that reads them is ItemKNN, EASE or any sequence model"
        )

    def padded_form(self) -> PaddedForm:
        return PaddedForm(PaddedScores(self.counts), "scores")


class PaddedScores(nn.Module):
    """Scores [B, n_items] of padded rows of tokens.

    From a table: the scores of everyone, those that each item of the history adds, or the weights
    of the neighbours of each scored item.

    Args:
        table: [n_items], [n_items, n_items] or, with ``neighbours``, [n_items, K].
        neighbours: [n_items, K] int64, of the scored item.
    """

    table: Tensor
    neighbours: Tensor | None

    def __init__(self, table: Tensor, neighbours: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("table", table)
        self.register_buffer("neighbours", neighbours)

    def forward(self, history: Tensor) -> Tensor:
        """[B, L] -> [B, n_items]."""
        marks = self.table.new_zeros(history.shape[0], self.table.shape[0] + 1)
        marks = marks.scatter(1, history, 1.0)[:, 1:]
        if self.table.dim() == 1:
            return self.table + 0 * marks
        if self.neighbours is None:
            return marks @ self.table
        marks = marks.index_select(1, self.neighbours.flatten()).view(-1, *self.table.shape)
        return (marks * self.table).sum(2)


class NeighbourConfig(ModelConfig):
    k: Annotated[
        int, Field(ge=1, description="neighbours of each item"), Search(low=10, high=1000, log=True)
    ] = 200


class NeighbourModel(ClosedFormModel):
    """Base of models in which an item's score sums the weights of those of its neighbours that are
    in the history.

    A subclass fills the buffers in ``fit``.

    Attributes:
        neighbours: [n_items, min(k, n_items)] int64, those *of the scored item*, the greatest
            weight first.
        similarities: the same shape, float32, their weights; 0 where an item has fewer neighbours.
    """

    Config: ClassVar[type[ModelConfig]] = NeighbourConfig
    reads_weights = True
    reads_repeats = False
    neighbours: Tensor
    similarities: Tensor

    def _build(self, space: Space) -> None:
        shape = (space.n_items, min(self.config.k, space.n_items))
        check_room(type(self).__name__, 12 * shape[0] * shape[1])
        self.register_buffer("neighbours", torch.zeros(shape, dtype=torch.int64))
        self.register_buffer("similarities", torch.zeros(shape))

    def score(self, query: Query) -> Tensor:
        # users as columns: the products run along the batch, 20 times faster than by pairs of
        # (history, neighbour)
        in_history = self.similarities.new_zeros(self.neighbours.shape[0], len(query))
        in_history[query.history.values, query.history.rows] = 1
        scores = F.embedding_bag(
            self.neighbours, in_history, per_sample_weights=self.similarities, mode="sum"
        )
        return scores.T

    def padded_form(self) -> PaddedForm | None:
        return PaddedForm(PaddedScores(self.similarities, self.neighbours), "scores")


class ItemKNNConfig(NeighbourConfig):
    shrink: Annotated[
        float,
        Field(ge=0, description="added to the cosine's divisor: fewer users, less trust"),
        Search(0.0, 200.0),
    ] = 50.0
    normalise: Annotated[
        bool,
        Field(description="divide the similarities of each scored item's neighbours by their sum"),
        Search(choices=(False, True)),
    ] = False


class ItemKNN(NeighbourModel):
    """Nearest items: an item's score sums its similarities to those of its k neighbours that are in
    the history.

    The similarity is the cosine of two items' users, ``C_ij / (sqrt(n_i n_j) + shrink)``, on binary
    data; of weights w, ``C_ij = sum_u sqrt(w_ui w_uj)`` and ``n_i = C_ii``, so that a user of
    weights 2 counts as two. The neighbours are those *of the scored item*. With ``normalise`` the
    score is the weighted mean of Sarwar et al. (WWW 2001), ``sum_j s_ij x_j / sum_j s_ij`` over the
    neighbours j: an item whose few similar ones are all in the history then comes before one with
    many. Source: Deshpande and Karypis, Item-Based Top-N Recommendation Algorithms (TOIS 2004);
    shrinkage as in Ferrari Dacrema et al. (RecSys 2019).
    """

    Config = ItemKNNConfig

    def fit(self, train: Part) -> Self:
        matrix = fit_matrix(self, train, self.neighbours.device)
        counts = torch.bincount(matrix.indices, matrix.weights, minlength=train.n_items)
        norms = counts.to(torch.float64).sqrt()
        k = self.neighbours.shape[1]
        index, similarities = neighbours(matrix, k, self.config.shrink, norms=norms)
        if self.config.normalise:
            similarities = F.normalize(similarities, p=1, dim=1)
        self.neighbours.copy_(index)
        self.similarities.copy_(similarities)
        return self


class RP3betaConfig(NeighbourConfig):
    alpha: Annotated[
        float, Field(ge=0, description="exponent of a step's probability"), Search(0.0, 2.0)
    ] = 1.0
    beta: Annotated[
        float, Field(ge=0, description="exponent of an item's users, a divisor"), Search(0.0, 1.0)
    ] = 0.3


class RP3beta(NeighbourModel):
    """Random walks of three steps, ``s_j = sum_i sum_v (p_iv p_vj)^alpha / n_j^beta``.

    Over the items i other than j of the history and all users v, p the weight of an interaction by
    the sum n of its item, or of its user. Source: Paudel et al., Updatable, Accurate, Diverse, and
    Scalable Recommendations for Interactive Applications (TiiS 2017). Departure: kept are ``k``
    items i of each j, not of each i its items j.
    """

    Config = RP3betaConfig

    def fit(self, train: Part) -> Self:
        alpha, beta = self.config.alpha, self.config.beta
        matrix = fit_matrix(self, train, self.neighbours.device)
        matrix = matrix.with_weights(matrix.values(torch.float64))
        items = matrix.t().row_sums()
        # neighbours() reads the roots of weights
        squares = matrix.with_weights(matrix.values() ** (2 * alpha))
        steps = squares.scale(power(matrix.row_sums(), -alpha))
        index, walks = neighbours(steps, self.neighbours.shape[1], norms=items**beta)
        self.neighbours.copy_(index)
        self.similarities.copy_(walks * power(items, beta - alpha)[index])
        return self


def check_room(name: str, n_bytes: int) -> None:
    """Refuse a table of so many bytes where this machine has not as many free.

    Raises:
        ValueError: it has not.
    """
    free = psutil.virtual_memory().available
    if torch.get_default_device().type == "cpu" and n_bytes > free:
        raise ValueError(
            f"n_items: {name} would hold {n_bytes / 2**30:,.1f} GiB, {free / 2**30:,.1f} are free; leave rare items out"
        )


def fit_matrix(model: ClosedFormModel, train: Part, device: torch.device) -> Csr:
    """:meth:`recgraph.data.part.Part.matrix`, of a part with the items that the model was built
    for.

    Raises:
        ValueError: the training part has another number of items than the model was built for.
    """
    if train.n_items != model.space.n_items:
        raise ValueError(
            f"train has n_items = {train.n_items}, but {type(model).__name__} was built for {model.space.n_items}; "
            "build a new model for this data set"
        )
    return train.matrix(device)
