"""Many small ridge regressions at once: half a step of alternating least squares."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph.sparse.ragged import Ragged

# The most cells of gathered vectors, and of matrices, that are held at a time (16 MB of float32 each).
_MAX_CELLS = 1 << 22


def ridge_rows(rows: Ragged, table: Tensor, weight: float, ridge: Tensor) -> Tensor:
    """For each row r with the table's vectors ``y_i, i in r``, by Cholesky, the solution x of

    ``(Y'Y + weight sum_{i in r} y_i y_i' + ridge_r I) x = (1 + weight) sum_{i in r} y_i``,

    which minimises ``sum_{i in r} (1 + weight) (1 - x y_i)^2 + sum_{i not in r} (x y_i)^2 + ridge_r |x|^2``.

    Costs a [D, D] matrix for each row; memory is bounded by blocks of rows (and by the longest row). A block whose
    equations cannot be factored in the table's type, as ridge is small beside the vectors, is solved in float64.

    Args:
        rows: R rows of distinct indices of the table.
        table: [C, D] floating point.
        weight: of what a row names, beyond 1; at least 0.
        ridge: [R], above 0.

    Returns:
        [R, D]; zeros where a row is empty.

    Raises:
        torch.linalg.LinAlgError: ridge is too small even for float64.
    """
    width = table.shape[1]
    gram, padded, solution = table.T @ table, F.pad(table, (0, 0, 0, 1)), table.new_zeros(len(rows), width)
    for block, index in _blocks(rows, len(table), width * width, width):
        vectors = F.embedding(index, padded)
        try:
            solution[block] = _solved(gram, vectors, weight, ridge[block])
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # rounding makes one's equations indefinite
            wide = table.double()
            solved = _solved(wide.T @ wide, vectors.double(), weight, ridge[block].double())
            solution[block] = solved.to(table.dtype)
    return solution


def _solved(gram: Tensor, vectors: Tensor, weight: float, ridge: Tensor) -> Tensor:
    """[b, D]: the solutions of rows with vectors [b, L, D]."""
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    normal = torch.baddbmm(gram + ridge[:, None, None] * eye, vectors.mT, vectors, alpha=weight)
    wanted = (1 + weight) * vectors.sum(1)
    return torch.cholesky_solve(wanted[:, :, None], torch.linalg.cholesky(normal))[:, :, 0]


def ridge_rows_cg(rows: Ragged, table: Tensor, weight: float, ridge: Tensor, start: Tensor, steps: int) -> Tensor:
    """As :func:`ridge_rows`, by ``steps`` steps of conjugate gradients from ``start`` [R, D]; no [D, D] matrix a row.

    Exact after D steps, but for rounding. Source: Takacs, Pilaszy and Tikk, Applications of the Conjugate Gradient
    Method for Implicit Feedback Collaborative Filtering (RecSys 2011).
    """
    gram, padded, solution = table.T @ table, F.pad(table, (0, 0, 0, 1)), torch.zeros_like(start)
    tiny = torch.finfo(table.dtype).tiny
    for block, index in _blocks(rows, len(table), table.shape[1], table.shape[1]):
        vectors, of_block = F.embedding(index, padded), ridge[block, None]

        def product(x: Tensor, vectors: Tensor = vectors, of_block: Tensor = of_block) -> Tensor:
            named = torch.bmm(vectors, x[:, :, None])
            return x @ gram + of_block * x + weight * torch.bmm(vectors.mT, named)[:, :, 0]

        x = start[block]
        left = (1 + weight) * vectors.sum(1) - product(x)
        direction, square = left, (left * left).sum(1, keepdim=True)
        for _ in range(steps):
            of_direction = product(direction)
            # a row that is solved has nothing left and stays
            length = square / (direction * of_direction).sum(1, keepdim=True).clamp_(min=tiny)
            x, left = x + length * direction, left - length * of_direction
            before, square = square, (left * left).sum(1, keepdim=True)
            direction = left + square / before.clamp(min=tiny) * direction
        solution[block] = x
    return solution


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
