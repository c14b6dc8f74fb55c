"""Feature mask: random features of nodes become 0."""

from __future__ import annotations

from typing import Annotated, overload

import torch
from pydantic import Field
from torch import Tensor

from recgraph.config import Search
from recgraph.sparse.csr import Csr
from recgraph.views.base_graph import GraphView, GraphViewConfig, keep_some

__all__ = ["FeatureMask", "FeatureMaskConfig"]


class FeatureMaskConfig(GraphViewConfig):
    ratio: Annotated[
        float,
        Field(ge=0, lt=1, description="the share of the features that are not 0 which becomes 0"),
        Search(low=0.0, high=0.8),
    ] = 0.3


class FeatureMask(GraphView):
    """Set ``floor(ratio * n)`` of the n features that are not 0 to 0, uniform over all nodes without replacement.

    Source: MEOW (SDM 2023). What is left is not scaled.
    """

    Config = FeatureMaskConfig

    @overload
    def __call__(self, features: Tensor, generator: torch.Generator) -> Tensor: ...
    @overload
    def __call__(self, features: Csr, generator: torch.Generator) -> Csr: ...
    def __call__(self, features: Tensor | Csr, generator: torch.Generator) -> Tensor | Csr:
        """A view of features, on their device.

        Args:
            features: [N, F], dense or sparse; not changed.
            generator: see :meth:`GraphView.stream`.
        """
        if isinstance(features, Csr):
            return features.select(keep_some(features.nnz, self.config.ratio, generator, features.device))
        places = torch.nonzero(features.reshape(-1)).squeeze(1)
        keep_mask = keep_some(places.numel(), self.config.ratio, generator, features.device)
        masked = features.reshape(-1).index_fill(0, places[~keep_mask], 0)
        return masked.view(features.shape)
