"""Nearest neighbours by the cosine of vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["nearest"]

#: cosines that are held at a time
_CELLS = 1 << 22


def nearest(vectors: Tensor, rows: Tensor, k: int, among: Tensor | None = None) -> list[list[tuple[int, float]]]:
    """The k nearest others of some rows, best first; equals by index.

    A vector of zeros (an item that was never trained) is nobody's neighbour and has none.

    Args:
        vectors: [N, D].
        rows: [R] int64.
        k: at most so many each.
        among: [M] int64, ascending, who may be a neighbour; None: all.

    Returns:
        For each row pairs of index and cosine.
    """
    units = F.normalize(vectors.to(torch.float64), dim=1)
    candidates = torch.arange(len(vectors)) if among is None else among
    candidates = candidates[units[candidates].any(1)]
    found: list[list[tuple[int, float]]] = []
    for block in rows.split(max(_CELLS // max(len(candidates), 1), 1)):  # type: ignore[no-untyped-call]
        cosines = units[block] @ units[candidates].T
        for row, values in zip(block.tolist(), cosines, strict=True):
            values[candidates == row] = -torch.inf
            order = torch.argsort(values, descending=True, stable=True)[:k]
            best = [] if not bool(units[row].any()) else order[values[order] > -torch.inf].tolist()
            found.append([(int(candidates[place]), float(values[place])) for place in best])
    return found
