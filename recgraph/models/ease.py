"""EASE."""

from __future__ import annotations

from typing import Annotated, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from recgraph.config import Search
from recgraph.data.batch import Query
from recgraph.data.part import Part
from recgraph.models._fit_rows import fit_rows
from recgraph.models.base import ClosedFormModel, ModelConfig, Space
from recgraph.sparse.co_occurrence import co_occurrence, distinct


class EASEConfig(ModelConfig):
    l2: Annotated[
        float, Field(gt=0, description="lambda, the ridge penalty"), Search(low=1.0, high=5000.0, log=True)
    ] = 100.0


class EASE(ClosedFormModel):
    """Linear autoencoder with a zero diagonal: ``min |X - X B|^2 + l2 |B|^2, diag(B) = 0``, solved exactly.

    ``P = (X'X + l2 I)^-1; B_ij = -P_ij / P_jj`` off the diagonal; the scores of a history x are ``x B``. X
    is binary. Solved in float64, kept in float32. B is n_items x n_items: 4 bytes a cell, and three times 8
    during the fit.

    Source: Steck, Embarrassingly Shallow Autoencoders for Sparse Data (WWW 2019), equation 8.
    """

    Config = EASEConfig
    weights: Tensor

    def _build(self, space: Space) -> None:
        self.register_buffer("weights", torch.zeros(space.n_items, space.n_items))

    def fit(self, train: Part) -> Self:
        n_items = train.n_items
        rows = fit_rows(self, train, self.weights.device)
        gram = torch.empty(n_items, n_items, dtype=torch.float64, device=rows.device)
        for first, block in co_occurrence(rows, n_items):
            gram[first : first + block.shape[0]] = block
        gram.diagonal().add_(self.config.l2)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
        weights = inverse.div_(-inverse.diagonal().clone())
        weights.fill_diagonal_(0)
        self.weights.copy_(weights)
        return self

    def score(self, query: Query) -> Tensor:
        history = distinct(query.history, self.weights.shape[0])
        return F.embedding_bag(history.values, self.weights, history.offsets, mode="sum", include_last_offset=True)
