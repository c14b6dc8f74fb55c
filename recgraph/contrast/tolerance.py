"""Tolerance: how alike a contrast leaves rows that belong together."""

from __future__ import annotations

import torch
from torch import Tensor

from recgraph.blocks import work_type
from recgraph.unit_length import unit_length

__all__ = ["tolerance"]


@torch.no_grad()
def tolerance(x: Tensor, classes: Tensor) -> float:
    """The mean cosine of two different rows of one class, a diagnostic; NaN where no class has two rows.

    A low temperature makes rows uniform over the sphere and tolerates no likeness, a high one keeps classes together
    (see :class:`recgraph.contrast.schedule.ScheduledSimilarity`). In one pass over rows: the pairs of a class sum to
    ``|sum_i z_i|^2 - n``.

    Source: Wang and Liu, "Understanding the Behaviour of Contrastive Loss" (CVPR 2021). Departure: a row
    with itself, of cosine 1, is no pair.

    Args:
        x: [N, D], embeddings.
        classes: [N] int64, the class or category of each row; rows below 0 have none.

    Raises:
        ValueError: another number of classes than of rows.
    """
    if classes.shape != x.shape[:1]:
        raise ValueError(f"classes {list(classes.shape)} must be [{len(x)}], one for each row of x")
    known_mask = classes >= 0
    units = unit_length(x[known_mask].to(torch.promote_types(work_type(x, x), torch.float64)))
    _, of_row = torch.unique(classes[known_mask], return_inverse=True)
    counts = torch.bincount(of_row).to(units.dtype)
    sums = units.new_zeros(len(counts), x.shape[1]).index_add_(0, of_row, units)
    n_pairs = (counts * (counts - 1)).sum()
    return float((sums.square().sum() - counts.sum()) / n_pairs) if float(n_pairs) else float("nan")
