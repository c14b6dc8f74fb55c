"""What models of nearest items share: each item's neighbours with their weights, and the scores that these give."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from recgraph.config import Search
from recgraph.data.batch import Query
from recgraph.models.base import ClosedFormModel, ModelConfig, Space


class NeighbourConfig(ModelConfig):
    k: Annotated[int, Field(ge=1, description="neighbours of each item"), Search(low=10, high=1000, log=True)] = 200


class NeighbourModel(ClosedFormModel):
    """Base of models in which an item's score sums the weights of those of its neighbours that are in the history.

    A subclass fills the buffers in ``fit``.

    Attributes:
        neighbours: [n_items, min(k, n_items)] int64, those *of the scored item*, the greatest weight first.
        similarities: the same shape, float32, their weights; 0 where an item has fewer neighbours.
    """

    Config: ClassVar[type[ModelConfig]] = NeighbourConfig
    neighbours: Tensor
    similarities: Tensor

    def _build(self, space: Space) -> None:
        shape = (space.n_items, min(self.config.k, space.n_items))
        self.register_buffer("neighbours", torch.zeros(shape, dtype=torch.int64))
        self.register_buffer("similarities", torch.zeros(shape))

    def score(self, query: Query) -> Tensor:
        # users as columns: the products run along the batch, 20 times faster than by pairs of (history, neighbour)
        in_history = self.similarities.new_zeros(self.neighbours.shape[0], len(query))
        in_history[query.history.values, query.history.rows] = 1
        scores = F.embedding_bag(self.neighbours, in_history, per_sample_weights=self.similarities, mode="sum")
        return scores.T
