"""SimGCL."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from recgraph.config import Search
from recgraph.data.batch import PairBatch
from recgraph.encoders.lightgcn import mean
from recgraph.models.base_graph_contrastive import GraphContrastiveConfig, GraphContrastiveModel


class SimGCLConfig(GraphContrastiveConfig):
    noise: Annotated[
        float,
        Field(ge=0, description="epsilon, the length of the noise added in each layer"),
        Search(0.01, 0.5, log=True),
    ] = 0.1
    contrast_weight: Annotated[
        float, Field(ge=0, description="lambda, weight of the contrastive term"), Search(1e-2, 2.0, log=True)
    ] = 0.5


class SimGCL(GraphContrastiveModel):
    """LightGCN with the contrast of two propagations that differ by noise alone.

    Source: Yu et al., Are Graph Augmentations Necessary? Simple Graph Contrastive Learning for Recommendation (SIGIR
    2022). Each layer's output is moved by a random vector of length epsilon in its own orthant; vectors are the mean of
    the layers' outputs, without the input. Defaults are the authors'. Loss: ``rec + l2 + lambda cl``. Departure: ``l2``
    is of the vectors before propagation, where the authors' code has those after it.
    """

    Config = SimGCLConfig

    def nodes(self) -> Tensor:
        return mean(self.encoder.layers(self.embedding.weight)[1:])

    def _views(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        first, second = (mean(self._noisy_layers(batch)[1:]) for _ in range(2))
        return first, second

    def _noisy_layers(self, batch: PairBatch) -> list[Tensor]:
        generator = batch.generators["views"]

        def perturb(x: Tensor) -> Tensor:
            direction = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            return F.normalize(direction).mul_(x.sign()).mul_(self.config.noise)

        return self.encoder.layers(self.embedding.weight, perturb=perturb)
