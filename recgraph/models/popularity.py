"""Popularity."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from recgraph.data.batch import Query
from recgraph.data.part import Part
from recgraph.models._fit_rows import fit_rows
from recgraph.models.base import ClosedFormModel, Space


class Popularity(ClosedFormModel):
    """Scores an item by the number of users who chose it: the same ranking for everyone."""

    counts: Tensor

    def _build(self, space: Space) -> None:
        self.register_buffer("counts", torch.zeros(space.n_items))

    def fit(self, train: Part) -> Self:
        rows = fit_rows(self, train, self.counts.device)
        self.counts.copy_(torch.bincount(rows.values, minlength=train.n_items))
        return self

    def score(self, query: Query) -> Tensor:
        return self.counts.expand(len(query), -1)
