"""ItemKNN."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field

from recgraph.config import Search
from recgraph.data.part import Part
from recgraph.models._fit_rows import fit_rows
from recgraph.models.base_neighbours import NeighbourConfig, NeighbourModel
from recgraph.sparse.co_occurrence import neighbours


class ItemKNNConfig(NeighbourConfig):
    shrink: Annotated[
        float, Field(ge=0, description="added to the cosine's divisor: fewer users, less trust"), Search(0.0, 200.0)
    ] = 50.0


class ItemKNN(NeighbourModel):
    """Nearest items: an item's score sums its similarities to those of its k neighbours that are in the history.

    The similarity is the cosine of two items' users, ``C_ij / (sqrt(n_i n_j) + shrink)``, on binary data. The
    neighbours are those *of the scored item*. Source: Deshpande and Karypis, Item-Based Top-N Recommendation
    Algorithms (TOIS 2004); shrinkage as in Ferrari Dacrema et al. (RecSys 2019).
    """

    Config = ItemKNNConfig

    def fit(self, train: Part) -> Self:
        rows = fit_rows(self, train, self.neighbours.device)
        index, similarity = neighbours(rows, train.n_items, self.neighbours.shape[1], self.config.shrink)
        self.neighbours.copy_(index)
        self.similarities.copy_(similarity)
        return self
