"""MCLRec's margin regulariser: learned views should be neither too alike nor too far apart."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from recgraph.blocks import row_blocks
from recgraph.config import Search
from recgraph.contrast.regularisers.base import Regulariser, RegulariserConfig


class MarginConfig(RegulariserConfig):
    temperature: Annotated[
        float, Field(gt=0, description="what similarities are divided by"), Search(low=0.05, high=5, log=True)
    ] = 1.0
    scope: Annotated[
        Literal["row", "batch"],
        Field(description="least positive and greatest negative of each row (code) or of the batch (paper)"),
    ] = "row"


class Margin(Regulariser):
    """``R = mean_i max(p_i - lo_i, 0) + mean_ij max(hi_i - n_ij, 0)`` over the 2B stacked rows.

    ``p_i`` is the inner product of row i with its partner, ``n_ij`` those with the 2B - 2 other rows, over the
    temperature. ``scope="row"``, as in the published code: ``lo_i = min(p_i, max_j n_ij)``,
    ``hi_i = max(p_i, max_j n_ij)``. ``scope="batch"``, as in the paper: one ``lo`` and ``hi`` from ``min_i p_i`` and
    ``max_ij n_ij``. A single pair has no negatives: R is 0.

    Source: Qin et al., SIGIR 2023 (MCLRec). Computed without the negatives' matrix: no term of the two
    ``max(., 0)`` is ever below 0, so of the negatives only their means, which are products with a sum of rows, and
    the greatest count.
    """

    Config = MarginConfig

    def _value(self, a: Tensor, b: Tensor) -> Tensor:
        z, partner = torch.cat([a, b]), torch.cat([b, a])
        others = len(z) - 2
        if others == 0:
            return (z * 0).sum()
        scaled = z / self.config.temperature
        positive = (scaled * partner).sum(1)
        nearest = _nearest_negative(z.detach())
        greatest = (scaled * z.index_select(0, nearest)).sum(1)
        own = (scaled * z).sum(1)
        mean = ((scaled * z.sum(0)).sum(1) - own - positive) / others
        if self.config.scope == "row":
            gap = torch.relu(positive - greatest)
            value: Tensor = (2 * gap + greatest - mean).mean()
            return value
        least, top = positive.min(), greatest.max()
        value = positive.mean() - torch.minimum(least, top) + torch.maximum(least, top) - mean.mean()
        return value


def _nearest_negative(z: Tensor) -> Tensor:
    """[2B], for each row the other row, not its partner, with the greatest inner product."""
    own = torch.arange(len(z), device=z.device)
    barred = torch.stack([own, own.roll(len(z) // 2)], 1)
    blocks = row_blocks(len(z), len(z), z)
    return torch.cat([(z[rows] @ z.T).scatter_(1, barred[rows], -math.inf).argmax(1) for rows in blocks])
