"""ItemKNN."""

from __future__ import annotations

from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor

from recgraph.config import Search
from recgraph.data.batch import Query
from recgraph.data.part import Part
from recgraph.models._fit_rows import fit_rows
from recgraph.models.base import ClosedFormModel, ModelConfig, Space
from recgraph.sparse.co_occurrence import distinct, neighbours
from recgraph.sparse.ragged import Ragged

# The most contributions that are held at a time while scoring (some 50 MB).
_MAX_SPREAD = 1 << 20


class ItemKNNConfig(ModelConfig):
    k: Annotated[int, Field(ge=1, description="neighbours of each item"), Search(low=10, high=1000, log=True)] = 200
    shrink: Annotated[
        float, Field(ge=0, description="added to the cosine's divisor: fewer users, less trust"), Search(0.0, 200.0)
    ] = 50.0


class ItemKNN(ClosedFormModel):
    """Nearest items: an item's score is the sum of its similarities to those of its k neighbours in the
    history.

    The similarity is the cosine of two items' users, ``C_ij / (sqrt(n_i n_j) + shrink)``, on binary data. The
    neighbours are those *of the scored item*. Source: Deshpande and Karypis, Item-Based Top-N Recommendation
    Algorithms (TOIS 2004); shrinkage as in Ferrari Dacrema et al. (RecSys 2019).

    The buffers hold the table by neighbour, which is how a history reads it: item j is a neighbour of
    ``candidates[starts[j] : starts[j + 1]]`` with ``similarities`` in the same places. Their sizes depend on
    n_items and k alone; places past ``starts[-1]`` are unused.
    """

    Config = ItemKNNConfig
    candidates: Tensor
    similarities: Tensor
    starts: Tensor

    def _build(self, space: Space) -> None:
        size = space.n_items * min(self.config.k, space.n_items)
        self.register_buffer("candidates", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("similarities", torch.zeros(size))
        self.register_buffer("starts", torch.zeros(space.n_items + 1, dtype=torch.int64))

    def fit(self, train: Part) -> Self:
        n_items = train.n_items
        rows = fit_rows(self, train, self.starts.device)
        index, similarity = neighbours(rows, n_items, min(self.config.k, n_items), self.config.shrink)
        used_mask = similarity > 0
        of_item = torch.arange(n_items, device=index.device)[:, None].expand_as(index)
        order = torch.argsort(index[used_mask], stable=True)
        n_used = order.numel()
        self.candidates.zero_()[:n_used] = of_item[used_mask][order]
        self.similarities.zero_()[:n_used] = similarity[used_mask][order]
        self.starts[1:] = torch.bincount(index[used_mask], minlength=n_items).cumsum(0)
        return self

    def score(self, query: Query) -> Tensor:
        n_items = self.starts.numel() - 1
        history = distinct(query.history, n_items)
        scores = self.similarities.new_zeros(len(query) * n_items)
        places = Ragged(torch.arange(self.candidates.numel(), device=scores.device), self.starts)
        # in chunks of the history's items, so that a long history of popular items does not fill the memory
        chunk = torch.div(places.lengths[history.values].cumsum(0), _MAX_SPREAD, rounding_mode="floor")
        sizes = torch.unique_consecutive(chunk, return_counts=True)[1].tolist()
        for items, rows in zip(torch.split(history.values, sizes), torch.split(history.rows, sizes), strict=True):
            spread = places.take(items)
            cells = rows[spread.rows] * n_items + self.candidates[spread.values]
            scores.index_add_(0, cells, self.similarities[spread.values])
        return scores.view(len(query), n_items)
