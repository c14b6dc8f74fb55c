"""What the entries of a sparse matrix must be."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["as_floating", "check_entries"]


def as_floating(weights: Tensor) -> Tensor:
    """The weights, or numbers of the default floating type where they are integers or truth values."""
    return weights if weights.is_floating_point() else weights.to(torch.get_default_dtype())


def check_entries(rows: Tensor, cols: Tensor, weights: Tensor | None, shape: tuple[int, int]) -> None:
    """Lengths and ranges of entries in any order.

    Raises:
        ValueError: lengths differ, or an index is out of range (names the first).
    """
    if rows.shape != cols.shape or rows.dim() != 1:
        raise ValueError(f"rows {tuple(rows.shape)} and cols {tuple(cols.shape)} must have one and the same length")
    n = rows.numel()
    if weights is not None and weights.shape != (n,):
        raise ValueError(f"weights have shape {tuple(weights.shape)}; {n} entries need ({n},)")
    for name, index, size in (("rows", rows, shape[0]), ("cols", cols, shape[1])):
        outside = (index < 0) | (index >= size)
        if bool(outside.any()):
            at = int(torch.nonzero(outside)[0])
            raise ValueError(f"{name}[{at}] = {int(index[at])} is out of range: it must lie in [0, {size})")
