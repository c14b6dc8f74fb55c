"""Alignment: how close the two views of a row are."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from recgraph.contrast.regularisers.base import Regulariser, RegulariserConfig


class AlignmentConfig(RegulariserConfig):
    alpha: Annotated[float, Field(ge=1, le=8, description="power of the distance")] = 2.0


class Alignment(Regulariser):
    """``mean_i ||a_i - b_i||^alpha`` of the directions of the embeddings; 0 is best.

    Source: Wang and Isola, ICML 2020, section 4.1.
    """

    Config = AlignmentConfig

    def _value(self, a: Tensor, b: Tensor) -> Tensor:
        squared = (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1)
        if self.config.alpha == 2:
            return squared.mean()
        # the root of 0 has no gradient
        return squared.clamp(min=1e-24).pow(self.config.alpha / 2).mean()
