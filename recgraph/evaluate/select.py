"""Exact selection of the best columns of a score matrix: by score, and among equal scores by lower column.

``torch.topk`` breaks ties arbitrarily. Here its values are trusted and its choice among equal values is not:
rows in which equality could matter are found by comparing neighbours, and those rows alone are resolved
exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recgraph.sparse.ragged import Ragged

#: columns that share one maximum; the best columns lie in the blocks with the best maxima
BLOCK = 64
#: columns that share a maximum inside the best blocks
STRIDED = 8
NOTHING = float("-inf")


def best_columns(scores: Tensor, k: int, filled: int, barred: Tensor, *, exact: bool = True) -> tuple[Tensor, Tensor]:
    """The ``k`` best columns of each row.

    Args:
        scores: [R, W] contiguous, W a multiple of 64 and greater than ``k``; places that may not be chosen hold -inf.
        filled: columns from here on are padding.
        barred: [X] int64, further places ``row * W + column`` that may not be chosen (an allowed one may be -inf, too).
        exact: False where the choice among columns that equal the last one is free.

    Returns:
        values [R, k] and columns [R, k] int64 in rank order; where a row has fewer than ``k`` allowed
        columns the rest is -inf and -1. A NaN anywhere in a row shows as a NaN in its first value.
    """
    values, columns = _topk(scores, k + 1)
    unsure = values[:, k - 1] == NOTHING
    if exact:
        unsure = unsure | (values[:, k - 1] == values[:, k])
    unsure &= ~values[:, 0].isnan()
    values, columns = in_column_order(values[:, :k], columns[:, :k])
    if bool(unsure.any()):
        rows = unsure.nonzero().flatten()
        allowed_mask = torch.ones_like(scores, dtype=torch.bool)
        allowed_mask[:, filled:] = False
        allowed_mask.view(-1)[barred] = False
        values[rows], columns[rows] = _resolve(scores[rows], values[rows, -1:], allowed_mask[rows], k)
    return values, columns


def _topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``scores.topk(k)``, several times as fast.

    The maxima of blocks of 64 columns are one pass over the scores; the best k columns lie in the k blocks with the
    highest maxima, so only those are searched, by maxima again.
    """
    n_rows, width = scores.shape
    n_blocks = width // BLOCK
    if 2 * k >= n_blocks:
        values, columns = scores.topk(k)
        return values, columns
    blocks = scores.view(n_rows, n_blocks, BLOCK)
    best = blocks.amax(2).topk(k, sorted=False).indices
    row_of = torch.arange(n_rows, device=scores.device)[:, None] * n_blocks
    found = scores.view(-1, BLOCK).index_select(0, (row_of + best).flatten())
    strided = found.view(n_rows, STRIDED, -1)
    inside = strided.amax(1).topk(k, sorted=False).indices
    values, place = strided.gather(2, inside[:, None].expand(-1, STRIDED, -1)).flatten(1).topk(k)
    place = place // k * strided.shape[2] + inside.gather(1, place % k)
    return values, best.gather(1, place // BLOCK) * BLOCK + place % BLOCK


def in_column_order(values: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Put columns of equal value in ascending order; ``values`` [R, k] descend already."""
    if not bool((values[:, 1:] == values[:, :-1]).any()):
        return values, columns
    by_column = columns.argsort(1)
    values, order = values.gather(1, by_column).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, by_column).gather(1, order)


def _resolve(scores: Tensor, cut: Tensor, allowed_mask: Tensor, k: int) -> tuple[Tensor, Tensor]:
    above = scores > cut
    equal = (scores == cut) & allowed_mask
    wanted = k - above.sum(1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(1) <= wanted))
    found = Ragged.from_lengths(chosen.nonzero()[:, 1], chosen.sum(1))
    columns = found.to_padded(fill=-1, width=k)
    values = scores.gather(1, columns.clamp(min=0)).masked_fill(columns < 0, NOTHING)
    # a missing place and an allowed -inf are equal; the missing ones are last already and the sort is stable
    values, order = values.sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


def merge(values: Tensor, columns: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The best ``k`` of candidates from several lists.

    Args:
        values, columns: [R, M]; a column is named once in its row, or is -1 (missing, its value -inf).

    Returns:
        values and columns [R, k], with the same order and padding as :func:`best_columns`.
    """
    if values.shape[1] <= k:
        short = k + 1 - values.shape[1]
        values = torch.nn.functional.pad(values, (0, short), value=NOTHING)
        columns = torch.nn.functional.pad(columns, (0, short), value=-1)
    best, place = values.topk(k + 1)
    if not bool(((best[:, 1:] == best[:, :-1]) | (best[:, :-1] == NOTHING)).any()):
        return best[:, :k], columns.gather(1, place[:, :k])
    by_column = columns.argsort(1)
    values, columns = values.gather(1, by_column), columns.gather(1, by_column)
    values, order = values.sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order)
    last = (columns < 0).to(torch.int8).argsort(dim=1, stable=True)[:, :k]
    return values.gather(1, last), columns.gather(1, last)
