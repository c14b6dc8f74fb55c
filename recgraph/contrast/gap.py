"""The gap between two sides that are encoded apart: how large it is, and terms that close it.

Users and items, a coarse and a fine view, or a sequence and a graph come from encoders of their own, and a contrast
leaves them in two cones of the sphere. ``transform="centre"`` and the regulariser ``mean_gap`` close the gap; after
Fahim et al. a higher ``temperature``, and the regularisers ``alignment`` and ``cross_uniformity`` together, do so too.

Source: Fahim et al., It's Not a Modality Gap: Characterizing and Addressing the Contrastive Gap (2024); Liang et al.,
Mind the Gap (NeurIPS 2022).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recgraph.blocks import work_type
from recgraph.contrast.log_sums import log_sums
from recgraph.contrast.regularisers import Regulariser, UniformityConfig
from recgraph.unit_length import unit_length

__all__ = ["CrossUniformity", "Gap", "MeanGap", "gap"]


class CrossUniformity(Regulariser):
    """``log mean_{i != j} exp(-t ||a_i - b_j||^2)`` of directions: each row keeps away from other rows' partners.

    Lower is better; a single row has no pair: the value is 0.

    Source: Fahim et al., 2024 (the uniformity across sides, t = 2), after Wang and Isola (ICML 2020).
    Evaluated over blocks of rows: no B x B tensor is resident.
    """

    Config = UniformityConfig

    def _value(self, a: Tensor, b: Tensor) -> Tensor:
        n, t = len(a), self.config.t
        if n == 1:
            return (a * 0).sum() + (b * 0).sum()
        x, y = (unit_length(side) for side in (a, b))
        own = torch.arange(n, device=a.device)[:, None]
        # ||x - y||^2 = 2 - 2 x.y
        value: Tensor = log_sums(2 * t * x, y, own).logsumexp(0) - 2 * t - math.log(n * (n - 1))
        return value


class MeanGap(Regulariser):
    """``||mean_i a_i - mean_i b_i||^2`` of directions: the squared distance of the centres of the two cones; 0 is best.

    Source: Liang et al., Mind the Gap (NeurIPS 2022), definition of the gap; there it is measured, here it can be a
    term besides.
    """

    def _value(self, a: Tensor, b: Tensor) -> Tensor:
        difference = unit_length(a).mean(0) - unit_length(b).mean(0)
        return difference.square().sum()


@dataclass(frozen=True)
class Gap:
    """How far apart two sides are; all numbers are of directions.

    Attributes:
        distance: of the means of the sides, between 0 and 2.
        separability: the share of rows whose side a linear classifier names, fitted on every other row and asked about
            the rest: 0.5 where the sides lie alike (some way off where rows are few), 1 where a plane divides them.
        cosines: the mean cosine within a, within b and across: of narrow cones that lie apart the first two are near 1
            and the last is below.
    """

    distance: float
    separability: float
    cosines: tuple[float, float, float]


@torch.no_grad()
def gap(a: Tensor, b: Tensor) -> Gap:
    """Measure the gap between two sides, as vectors of users and of items; rows need not be in pairs.

    Args:
        a, b: [N, D] and [M, D].

    The classifier is Fisher's discriminant with a ridge, in closed form (departure: Fahim et al. train a linear one).

    Raises:
        ValueError: the widths differ, or a side has fewer than four rows.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 4:
        raise ValueError(
            f"a {list(a.shape)} and b {list(b.shape)} must be [N, D] and [M, D] with four rows or more each"
        )
    work = work_type(a, b)
    a, b = (unit_length(x.to(work)) for x in (a, b))
    means = a.mean(0), b.mean(0)
    cosines = [float(x @ y) for x, y in ((means[0], means[0]), (means[1], means[1]), means)]
    return Gap(float((means[0] - means[1]).norm()), _separability(a, b), (cosines[0], cosines[1], cosines[2]))


def _separability(a: Tensor, b: Tensor) -> float:
    """The mean over sides of the share of rows with odd numbers that the discriminant of the others puts there."""
    centres = a[::2].mean(0), b[::2].mean(0)
    spread = sum((x[::2] - c).t() @ (x[::2] - c) / len(x[::2]) for x, c in zip((a, b), centres, strict=True)) / 2
    ridge = 1e-3 * spread.diagonal().mean() + torch.finfo(a.dtype).tiny  # type: ignore[union-attr]
    spread = spread + ridge * torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
    direction = torch.linalg.solve(spread, centres[0] - centres[1])
    threshold = direction @ (centres[0] + centres[1]) / 2
    # a row in the middle counts half for each side
    scores = [direction @ x[1::2].t() - threshold for x in (a, b)]
    shares = [(sign * s).sign().add(1).div(2).mean() for sign, s in zip((1, -1), scores, strict=True)]
    return float((shares[0] + shares[1]) / 2)
