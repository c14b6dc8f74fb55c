"""Gates: the dimensions in which rows of two categories are compared."""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from recgraph.accelerated import full_precision
from recgraph.blocks import work_type
from recgraph.config import Search
from recgraph.contrast.transforms import Transform, TransformConfig
from recgraph.contrast.views import About, Views
from recgraph.unit_length import unit_length

__all__ = ["Gate"]

#: sigmoid(3) = .95
_OPEN = 3.0


class GateConfig(TransformConfig):
    dim: Annotated[int, Field(ge=1, description="width D of the embeddings; models give it")] = 64
    n_categories: Annotated[int, Field(ge=1, description="the most categories that there may be")] = 256
    inner_dim: Annotated[
        int,
        Field(ge=1, description="width of the categories' vectors and of the layer between"),
        Search(8, 128, log=True),
    ] = 32
    unit: Annotated[
        bool, Field(description="rows are brought to unit length before the gate"), Search(choices=(True, False))
    ] = True


class Gate(Transform):
    """``s_ij = sum_d g_d(y_i) g_d(y_j) z_id z_jd``: rows of two categories are compared in a subspace of these two.

    ``g(y) = sigmoid(W2 relu(W1 E_y))`` in (0, 1)^D is learned with the loss; the gate of a pair of categories is the
    product of theirs, so that it splits into the two sides, and no N x M x D tensor is made. Gates begin nearly open
    (.95). Rows without a category have a gate of their own.

    Source: Wu et al., Rethinking Positive Pairs in Contrastive Learning (Hydra; in the second version SimLAP), 2024,
    and its code (the gate as product of two, ``fuse=False``). Departures: a negative is gated by its own pair of
    categories (published: by that of the anchor and its positive, twice), so that either side may be the anchor; the
    network has no batch normalisation; the positives are those of the contrast, where the paper takes any two samples
    for positives. The penalty that makes gates binary is 0 in the published settings and left out.

    Raises:
        ValueError: nothing is known of categories, or there are more than ``n_categories``.
    """

    Config = GateConfig

    def __init__(self, config: GateConfig | None = None, /, **settings: Any) -> None:
        super().__init__(config, **settings)
        width, inner = self.config.dim, self.config.inner_dim
        # row 0: no category
        self.category_embedding = nn.Embedding(self.config.n_categories + 1, inner)
        self.inner, self.out = nn.Linear(inner, inner), nn.Linear(inner, width)
        nn.init.constant_(self.out.bias, _OPEN)
        self._categories: Tensor | None = None

    def setup(self, about: About) -> None:
        if about.categories is None:
            raise ValueError(
                "transform = 'gate' needs categories: a sequence model has them of item_features with a column of that "
                "kind, SGL and SimGCL of category_features, a meta-path model of paths through another type of nodes; "
                "where there are none, use another part"
            )
        n_categories = int(about.categories.max()) + 1
        if n_categories > self.config.n_categories:
            raise ValueError(
                f"n_categories = {self.config.n_categories} is less than the {n_categories} categories that there are; "
                f"set transform_options={{'n_categories': {n_categories}}}"
            )
        self._categories = about.categories + 1

    def gates(self, ids: Tensor) -> Tensor:
        """[n] int64 ids -> [n, D].

        Raises:
            ValueError: :meth:`setup` has not been called.
        """
        if self._categories is None:
            raise ValueError("Gate does not know the categories yet; call setup(about) before")
        self._categories = self._categories.to(ids.device)
        every = torch.sigmoid(self.out(F.relu(self.inner(self.category_embedding.weight))))
        gates: Tensor = every.index_select(0, self._categories.index_select(0, ids))
        return gates

    def forward(self, views: Views) -> list[tuple[Tensor, Tensor]]:
        work = work_type(views.a, views.b)
        a, b = views.a.to(work), views.b.to(work)
        # autocast would round gates to half precision
        with full_precision(a):
            if self.config.unit:
                a, b = unit_length(a), unit_length(b)
            of_a = self.gates(views.ids_a)
            of_b = of_a if views.ids_b is views.ids_a else self.gates(views.ids_b)
            return [(a * of_a, b * of_b)]
