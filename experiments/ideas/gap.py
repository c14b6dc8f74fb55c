"""The gap between two sides that are encoded apart, and tolerance: what a contrast does to
embeddings, measured.

``--set 'contrast.regularisers=[{name="mean_gap", coefficient=0.1}]'``
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import recgraph as rg
from recgraph.contrast.regularisers import Regulariser
from recgraph.sparse.blocks import unit_length


@rg.register("regulariser")
class MeanGap(Regulariser):
    """``||mean_i a_i - mean_i b_i||^2`` of directions: the squared distance of the centres of the
    two cones; 0 is best.

    Users and items, a coarse and a fine view, or a sequence and a graph come from encoders of their
    own, and a contrast leaves them in two cones of the sphere. Source: Liang et al., Mind the Gap
    (NeurIPS 2022), definition of the gap; there it is measured, here it can be a term besides.
    """

    def _value(self, a: Tensor, b: Tensor) -> Tensor:
        return (unit_length(a).mean(0) - unit_length(b).mean(0)).square().sum()


@dataclass(frozen=True)
class Gap:
    """How far apart two sides are; all numbers are of directions.

    Attributes:
        distance: of the means of the sides, between 0 and 2.
        separability: the share of rows whose side a linear classifier names, fitted on every other
            row and asked about the rest: 0.5 where the sides lie alike (some way off where rows are
            few), 1 where a plane divides them.
        cosines: the mean cosine within a, within b and across: of narrow cones that lie apart the
            first two are near 1 and the last is below.
    """

    distance: float
    separability: float
    cosines: tuple[float, float, float]


@torch.no_grad()
def gap(a: Tensor, b: Tensor) -> Gap:
    """Measure the gap between two sides [N, D] and [M, D], as vectors of users and of items.

    Source: Fahim et al., It's Not a Modality Gap: Characterizing and Addressing the Contrastive Gap
    (2024). Departure: the classifier is Fisher's discriminant with a ridge, in closed form, where
    they train a linear one.
    """
    a, b = unit_length(a), unit_length(b)
    means = a.mean(0), b.mean(0)
    cosines = [float(x @ y) for x, y in ((means[0], means[0]), (means[1], means[1]), means)]
    return Gap(
        float((means[0] - means[1]).norm()),
        _separability(a, b),
        (cosines[0], cosines[1], cosines[2]),
    )


def _separability(a: Tensor, b: Tensor) -> float:
    """The mean over sides of the share of rows with odd numbers that the discriminant of the others
    puts there.
    """
    centres = a[::2].mean(0), b[::2].mean(0)
    within = [x[::2] - centre for x, centre in zip((a, b), centres, strict=True)]
    spread = (
        sum((x.t() @ x / len(x) for x in within), torch.zeros_like(within[0].t() @ within[0])) / 2
    )
    ridge = 1e-3 * spread.diagonal().mean() + torch.finfo(a.dtype).tiny
    spread = spread + ridge * torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
    direction = torch.linalg.solve(spread, centres[0] - centres[1])
    threshold = direction @ (centres[0] + centres[1]) / 2
    # a row in the middle counts half for each side
    scores = [direction @ x[1::2].t() - threshold for x in (a, b)]
    shares = [
        (sign * s).sign().add(1).div(2).mean() for sign, s in zip((1, -1), scores, strict=True)
    ]
    return float((shares[0] + shares[1]) / 2)


@torch.no_grad()
def tolerance(x: Tensor, classes: Tensor) -> float:
    """The mean cosine of two different rows of one class: how alike a contrast leaves rows that
    belong together.

    A low temperature makes rows uniform over the sphere and tolerates no likeness, a high one keeps
    classes together. In one pass over rows: the pairs of a class sum to ``|sum_i z_i|^2 - n``.
    Source: Wang and Liu, "Understanding the Behaviour of Contrastive Loss" (CVPR 2021). Departure:
    a row with itself, of cosine 1, is no pair.

    Args:
        x: [N, D], embeddings.
        classes: [N] int64; rows below 0 have none.
    """
    known_mask = classes >= 0
    units = unit_length(x[known_mask].double())
    _, of_row = torch.unique(classes[known_mask], return_inverse=True)
    counts = torch.bincount(of_row).to(units.dtype)
    sums = units.new_zeros(len(counts), x.shape[1]).index_add_(0, of_row, units)
    return float((sums.square().sum() - counts.sum()) / (counts * (counts - 1)).sum())
