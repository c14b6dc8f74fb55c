"""Many small ridge regressions at once: half a step of alternating least squares."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph.sparse.ragged import Ragged

__all__ = ["ridge_rows", "ridge_rows_cg"]


# The most cells of gathered vectors, and of matrices, that are held at a time (16 MB of float32 each).
_MAX_CELLS = 1 << 22


def ridge_rows(rows: Ragged, table: Tensor, weight: float, ridge: Tensor) -> Tensor:
    """For each row r with the table's vectors ``y_i, i in r``, by Cholesky, the solution x of

    ``(Y'Y + weight sum_{i in r} y_i y_i' + ridge_r I) x = (1 + weight) sum_{i in r} y_i``,

    which minimises ``sum_{i in r} (1 + weight) (1 - x y_i)^2 + sum_{i not in r} (x y_i)^2 + ridge_r |x|^2``.

    Costs a [D, D] matrix for each row; memory is bounded by blocks of rows (and by the longest row).

    Args:
        rows: R rows of distinct indices of the table.
        table: [C, D] floating point.
        weight: of what a row names, beyond 1; at least 0.
        ridge: [R], above 0.

    Returns:
        [R, D]; zeros where a row is empty.
    """
    width = table.shape[1]
    gram, padded, solution = table.T @ table, F.pad(table, (0, 0, 0, 1)), table.new_zeros(len(rows), width)
    eye = torch.eye(width, dtype=table.dtype, device=table.device)
    for block, index in _blocks(rows, len(table), width * width, width):
        vectors = F.embedding(index, padded)
        normal = torch.baddbmm(gram + ridge[block, None, None] * eye, vectors.mT, vectors, alpha=weight)
        wanted = (1 + weight) * vectors.sum(1)
        factors = torch.linalg.cholesky(normal)
        solution[block] = torch.cholesky_solve(wanted[:, :, None], factors)[:, :, 0]
    return solution


def ridge_rows_cg(rows: Ragged, table: Tensor, weight: float, ridge: Tensor, start: Tensor, steps: int) -> Tensor:
    """As :func:`ridge_rows`, by ``steps`` steps of conjugate gradients from ``start`` [R, D]; no [D, D] matrix a row.

    Exact after D steps, but for rounding. Source: Takacs, Pilaszy and Tikk, Applications of the Conjugate Gradient
    Method for Implicit Feedback Collaborative Filtering (RecSys 2011).
    """
    gram, padded, solution = table.T @ table, F.pad(table, (0, 0, 0, 1)), torch.zeros_like(start)
    for block, index in _blocks(rows, len(table), table.shape[1], table.shape[1]):
        vectors, of_block = F.embedding(index, padded), ridge[block, None]

        def product(x: Tensor, vectors: Tensor = vectors, of_block: Tensor = of_block) -> Tensor:
            named = torch.bmm(vectors, x[:, :, None])
            return x @ gram + of_block * x + weight * torch.bmm(vectors.mT, named)[:, :, 0]

        wanted = (1 + weight) * vectors.sum(1)
        solution[block] = _conjugate_gradients(product, wanted, start[block], steps)
    return solution


def _conjugate_gradients(product: Callable[[Tensor], Tensor], wanted: Tensor, x: Tensor, steps: int) -> Tensor:
    left = wanted - product(x)
    direction, square = left, (left * left).sum(1, keepdim=True)
    for _ in range(steps):
        of_direction = product(direction)
        # a row that is solved has nothing left and stays
        length = square / (direction * of_direction).sum(1, keepdim=True).clamp_(min=torch.finfo(x.dtype).tiny)
        x, left = x + length * direction, left - length * of_direction
        before, square = square, (left * left).sum(1, keepdim=True)
        direction = left + square / before.clamp(min=torch.finfo(x.dtype).tiny) * direction
    return x


def _blocks(rows: Ragged, fill: int, cells_of_row: int, cells_of_value: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows that are not empty, of similar length, within the limit: their numbers [b] and indices [b, longest]."""
    order = torch.argsort(rows.lengths, stable=True)
    order = order[rows.lengths[order] > 0]
    lengths = rows.lengths[order].tolist()
    first = 0
    for end in range(1, len(lengths) + 1):
        # of ascending lengths: the next row would be the longest
        longest = lengths[end] if end < len(lengths) else 0
        if end < len(lengths) and (end + 1 - first) * max(longest * cells_of_value, cells_of_row) <= _MAX_CELLS:
            continue
        block = order[first:end]
        yield block, rows.take(block).to_padded(fill)
        first = end
