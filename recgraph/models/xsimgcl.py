"""XSimGCL."""

from __future__ import annotations

from functools import cache
from typing import Annotated

from pydantic import Field, model_validator
from torch import Tensor

from recgraph.config import Search
from recgraph.data.batch import PairBatch
from recgraph.encoders.lightgcn import mean
from recgraph.models.base_collaborative import Terms
from recgraph.models.simgcl import SimGCL, SimGCLConfig


class XSimGCLConfig(SimGCLConfig):
    contrast_layer: Annotated[
        int, Field(ge=1, description="l*, the layer that is contrasted with the mean of all; at most n_layers")
    ] = 1
    noise: Annotated[
        float,
        Field(ge=0, description="epsilon, the length of the noise added in each layer"),
        Search(0.01, 0.5, log=True),
    ] = 0.2
    contrast_weight: Annotated[
        float, Field(ge=0, description="lambda, weight of the contrastive term"), Search(1e-2, 1.0, log=True)
    ] = 0.2
    temperature: Annotated[
        float, Field(gt=0, description="of the contrastive similarities"), Search(0.05, 1.0, log=True)
    ] = 0.15

    @model_validator(mode="after")
    def _layer_exists(self) -> XSimGCLConfig:
        if self.contrast_layer > self.n_layers:
            raise ValueError(f"contrast_layer = {self.contrast_layer} must be at most n_layers = {self.n_layers}")
        return self


class XSimGCL(SimGCL):
    """SimGCL in a single propagation: its noisy output is what recommends, and is contrasted with one of its layers.

    Source: Yu et al., XSimGCL: Towards Extremely Simple Graph Contrastive Learning for Recommendation (TKDE 2023).
    Defaults are the authors', but for three layers. Ranking has no noise. Departure: as in SimGCL.
    """

    Config = XSimGCLConfig

    def _terms(self, batch: PairBatch) -> Terms:
        # one propagation for both terms
        layers = cache(lambda: self._noisy_layers(batch)[1:])
        whole = cache(lambda: mean(layers()))

        def contrast() -> Tensor:
            return self._contrast(batch, whole(), layers()[self.config.contrast_layer - 1])

        return {**super()._terms(batch), "rec": lambda: self._rec(batch, whole()), "cl": contrast}
