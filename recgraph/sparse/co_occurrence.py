"""How often two columns stand in one row, block by block, and the most similar columns of each."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from recgraph.sparse.ragged import Ragged

__all__ = ["co_occurrence", "distinct", "neighbours"]

# The most pairs, and the most cells of a block, that are held at a time (some 100 MB).
_MAX_PAIRS = 1 << 21
_MAX_CELLS = 1 << 21


def distinct(rows: Ragged, n_columns: int) -> Ragged:
    """Each row with every value once, ascending.

    Args:
        rows: R rows of integers in ``0 ... n_columns - 1``.
    """
    keys = torch.unique(rows.rows * n_columns + rows.values)
    counts = torch.bincount(torch.div(keys, n_columns, rounding_mode="floor"), minlength=rows.n_rows)
    return Ragged.from_lengths(keys % n_columns, counts)


def co_occurrence(rows: Ragged, n_columns: int, row_weights: Tensor | None = None) -> Iterator[tuple[int, Tensor]]:
    """The matrix ``C[i, j] = sum of w_r over the rows r that hold both i and j``, in blocks of its rows.

    Costs the sum of squared row lengths, whatever the number of columns; memory is bounded by the blocks.

    Args:
        rows: R rows of distinct columns (see :func:`distinct`).
        row_weights: [R] float64, or None for 1 each.

    Yields:
        (first, block): ``block`` [b, n_columns] float64 holds the rows ``first ... first + b - 1`` of ``C``.
    """
    order = torch.argsort(rows.values, stable=True)
    holders = Ragged.from_lengths(rows.rows[order], torch.bincount(rows.values, minlength=n_columns))
    pairs = torch.cumsum(rows.lengths[holders.values], 0)
    before = torch.cat([pairs.new_zeros(1), pairs])[holders.offsets]
    for first, last in _blocks(before.tolist(), n_columns):
        entries = slice(int(holders.offsets[first]), int(holders.offsets[last]))
        partners = rows.take(holders.values[entries])
        cells = (holders.rows[entries] - first)[partners.rows] * n_columns + partners.values
        weights = None if row_weights is None else row_weights[holders.values[entries]][partners.rows]
        block = torch.bincount(cells, weights, minlength=(last - first) * n_columns)
        yield first, block.view(last - first, n_columns).to(torch.float64)


def _blocks(pairs_before: list[int], n_columns: int) -> Iterator[tuple[int, int]]:
    """Ranges of columns within the limits; a column that alone exceeds them is a range of its own."""
    first, widest = 0, max(_MAX_CELLS // n_columns, 1)
    for column in range(1, n_columns + 1):
        full = column - first == widest
        if column == n_columns or full or pairs_before[column + 1] - pairs_before[first] > _MAX_PAIRS:
            yield first, column
            first = column


def neighbours(
    rows: Ragged, n_columns: int, k: int, shrink: float = 0.0, row_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The k most similar columns of each, by ``C[i, j] / (sqrt(n_i n_j) + shrink)`` with ``n_i`` the rows
    that hold i.

    With weights of 1 and no shrinkage this is the cosine of two columns. A column is not its own neighbour.

    Args:
        rows: R rows of distinct columns.
        k: how many; fewer where fewer are above 0.
        shrink: lowers the similarity of columns that few rows hold.
        row_weights: [R] float64, or None for 1 each.

    Returns:
        index [n_columns, k] int64 and similarity [n_columns, k] float32, most similar first; unused places
        hold 0 and 0.
    """
    norms = torch.bincount(rows.values, minlength=n_columns).to(torch.float64).sqrt()
    index = torch.zeros(n_columns, k, dtype=torch.int64, device=rows.device)
    similarity = torch.zeros(n_columns, k, dtype=torch.float32, device=rows.device)
    width = min(k, n_columns)
    for first, block in co_occurrence(rows, n_columns, row_weights):
        here = slice(first, first + block.shape[0])
        block.diagonal(first).zero_()
        # a column that no row holds has C = 0: any positive divisor will do
        block /= (norms[here, None] * norms + shrink).clamp_(min=1e-12)
        top, where = block.topk(width)
        index[here, :width] = where * (top > 0)
        similarity[here, :width] = top.to(torch.float32)
    return index, similarity
