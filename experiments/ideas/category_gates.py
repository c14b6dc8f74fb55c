"""After Hydra: the dimensions in which rows of two categories are compared.

``recgraph train gated_cl4srec --import experiments/ideas/category_gates.py --set
'items.features=["genres"]'``
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

import recgraph as rg
from recgraph.config import Search
from recgraph.contrast.objectives import Views
from recgraph.contrast.parts import Transform, TransformConfig
from recgraph.contrast.term import Contrast
from recgraph.data.item_features import ItemFeatures
from recgraph.models.base import FeatureSpace, Space
from recgraph.models.sequence.contrastive import CL4SRec, CL4SRecConfig
from recgraph.sparse.blocks import unit_length
from recgraph.sparse.device import full_precision


class CategoryGateConfig(TransformConfig):
    dim: Annotated[int, Field(ge=1, description="width D of the embeddings; models give it")] = 64
    n_categories: Annotated[
        int, Field(ge=1, description="the most categories that there may be")
    ] = 256
    inner_dim: Annotated[
        int,
        Field(ge=1, description="width of the categories' vectors and of the layer between"),
        Search(8, 128),
    ] = 32


@rg.register("transform")
class CategoryGate(Transform):
    """``s_ij = sum_d g_d(y_i) g_d(y_j) z_id z_jd``: rows of two categories are compared in a
    subspace of these two.

    ``g(y) = sigmoid(W2 relu(W1 E_y))`` in (0, 1)^D is learned with the loss; the gate of a pair of
    categories is the product of theirs, so that it splits into the two sides, and no N x M x D
    tensor is made. z are directions. Gates begin nearly open (.95). Rows without a category have a
    gate of their own.

    Source: after Wu et al., Rethinking Positive Pairs in Contrastive Learning (Hydra; in the second
    version SimLAP), 2024, and its code (the gate as product of two, ``fuse=False``), where any two
    samples are positives of one another: here the positives are those of the contrast. A negative
    is gated by its own pair of categories (published: by that of the anchor and its positive,
    twice); the network has no batch normalisation; the penalty that makes gates binary is 0 in the
    published settings and left out.

    Attributes:
        categories: [n_ids] int64, -1 for none; a model sets them.
    """

    Config = CategoryGateConfig
    categories: Tensor

    def __init__(self, config: CategoryGateConfig | None = None, /, **settings: Any) -> None:
        super().__init__(config, **settings)
        width, inner = self.config.dim, self.config.inner_dim
        # row 0: no category
        self.category_embedding = nn.Embedding(self.config.n_categories + 1, inner)
        self.inner, self.out = nn.Linear(inner, inner), nn.Linear(inner, width)
        nn.init.constant_(self.out.bias, 3.0)

    def gates(self, ids: Tensor) -> Tensor:
        """[n] int64 ids -> [n, D]."""
        every = torch.sigmoid(self.out(F.relu(self.inner(self.category_embedding.weight))))
        return every.index_select(0, 1 + self.categories.to(ids.device).index_select(0, ids))

    def forward(self, views: Views) -> list[tuple[Tensor, Tensor]]:
        with full_precision(views.a):
            sides = ((views.a, views.ids_a), (views.b, views.ids_b))
            a, b = (unit_length(x) * self.gates(ids).to(x.dtype) for x, ids in sides)
        return [(a, b)]


class GatedCL4SRecConfig(CL4SRecConfig):
    contrast: Contrast = Contrast(transform="category_gate")


@rg.register("model", "gated_cl4srec")
class GatedCL4SRec(CL4SRec):
    """CL4SRec with gates by the category of the item that follows a row: the first column of
    ``items.features``.
    """

    Config = GatedCL4SRecConfig

    def _build(self, space: Space) -> None:
        super()._build(space)
        assert isinstance(space, FeatureSpace), "items.features must name a column of categories"
        assert self.contrast.transform is not None
        self.contrast.transform.categories = F.pad(
            first_categories(space.features), (1, 0), value=-1
        )


def first_categories(features: ItemFeatures) -> Tensor:
    """[n_items] int64: the value of the first column of categories, of several the first in its
    vocabulary, else -1.
    """
    first = 0
    for column in features.schema.columns:
        if column.kind == "category":
            values = features.entries.indices - first - 1
            held_mask = (values >= 0) & (values < len(column.values))
            none = torch.full((features.n_items,), len(column.values), device=values.device)
            found = none.scatter_reduce(
                0, features.entries.rows[held_mask], values[held_mask], "amin"
            )
            return torch.where(found == len(column.values), -1, found)
        first += column.n_entries
    raise ValueError("items.features: no column holds categories")
