"""Exact selection of the best columns of a score matrix: by score, and among equal scores by lower column.

``torch.topk`` breaks ties arbitrarily. Here its values are trusted and its choice among equal values is not: rows in
which equality could matter are found by comparing neighbours, and those rows alone are resolved exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from recgraph.sparse.ragged import Ragged


@dataclass(frozen=True)
class SeenColumns:
    """Seen columns of some users, each once, in ascending order.

    Attributes:
        columns: a row for each user.
        rows: [T] int64, aligned with the values.
    """

    columns: Ragged
    rows: Tensor

    @classmethod
    def of(cls, seen: Ragged, position: Tensor, width: int) -> SeenColumns:
        """Of rows of item indices; ``position`` [n_items] is the column of each item, -1 for none, below ``width``."""
        columns = position[seen.values]
        keys = torch.unique((seen.rows * width + columns)[columns >= 0])
        rows, columns = keys // width, keys % width
        lengths = torch.bincount(rows, minlength=seen.n_rows)
        return cls(Ragged.from_lengths(columns, lengths), rows)

    def tile(self, start: int, end: int) -> SeenColumns:
        """The users from ``start`` to ``end``."""
        offsets = self.columns.offsets[start : end + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        return SeenColumns(Ragged(self.columns.values[first:last], offsets - first), self.rows[first:last] - start)

    @cached_property
    def _by_column(self) -> tuple[Tensor, Tensor]:
        columns, order = self.columns.values.sort()
        return columns, order

    def within(self, starts: list[int]) -> list[Tensor]:
        """For each stretch of columns between two ``starts`` [S + 1] the entries in it, S index tensors."""
        columns, order = self._by_column
        edges = torch.searchsorted(columns, torch.tensor(starts, device=columns.device)).tolist()
        return [order[low:high] for low, high in pairwise(edges)]


#: columns that share one maximum; the best columns lie in the blocks with the best maxima
BLOCK = 64
#: columns that share a maximum inside the best blocks
STRIDED = 8
NO_SCORE = float("-inf")


def best_columns(scores: Tensor, k: int, filled: int, excluded: Tensor) -> tuple[Tensor, Tensor]:
    """The ``k`` best columns of each row.

    Args:
        scores: [R, W] contiguous, W a multiple of 64 and greater than ``k``; -inf where a column may not be chosen.
        filled: columns from here on are padding.
        excluded: [X] int64, further positions ``row * W + column`` that may not be chosen (an allowed one may hold
            -inf, too).

    Returns:
        values [R, k] and columns [R, k] int64 in rank order; where a row has fewer than ``k`` allowed
        columns the rest is -inf and -1. A NaN anywhere in a row shows as a NaN in its first value.
    """
    values, columns = _topk(scores, k + 1)
    unsure = (values[:, k - 1] == NO_SCORE) | (values[:, k - 1] == values[:, k])
    unsure &= ~values[:, 0].isnan()
    values, columns = in_column_order(values[:, :k], columns[:, :k])
    if bool(unsure.any()):
        rows = unsure.nonzero().flatten()
        allowed_mask = torch.ones_like(scores, dtype=torch.bool)
        allowed_mask[:, filled:] = False
        allowed_mask.view(-1)[excluded] = False
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
    values = scores.gather(1, columns.clamp(min=0)).masked_fill(columns < 0, NO_SCORE)
    # a missing column and an allowed -inf are equal; the missing ones are last already and the sort is stable
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
        values = torch.nn.functional.pad(values, (0, short), value=NO_SCORE)
        columns = torch.nn.functional.pad(columns, (0, short), value=-1)
    best, place = values.topk(k + 1)
    if not bool(((best[:, 1:] == best[:, :-1]) | (best[:, :-1] == NO_SCORE)).any()):
        return best[:, :k], columns.gather(1, place[:, :k])
    by_column = columns.argsort(1)
    values, columns = values.gather(1, by_column), columns.gather(1, by_column)
    values, order = values.sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order)
    last = (columns < 0).to(torch.int8).argsort(dim=1, stable=True)[:, :k]
    return values.gather(1, last), columns.gather(1, last)


#: columns that are kept for a row before they are merged, times k
_PENDING = 8


class RunningBest:
    """The ``k`` best columns of each row of a score matrix that comes block by block and is never held whole.

    Once ``k`` columns are known, a later block can only add what is above the worst of them. Few columns are: a block
    is read once, for the maxima of its runs of 64 columns, and only the runs that rise above are searched.
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self._found: tuple[Tensor, Tensor] | None = None
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._n_blocks = self._n_settled = 0
        self._cut = torch.empty(0)
        self._open = True

    def add(self, scores: Tensor, start: int, filled: int, excluded: Tensor) -> None:
        """Read the next block.

        Args:
            scores: [R, W] contiguous, W a multiple of 64 and greater than ``k``; positions that may not be chosen, the
                padding from column ``filled`` on among them, hold -inf. A NaN anywhere shows in the result.
            start: the block's first column; blocks come in ascending order.
            filled: the block's columns that are items.
            excluded: [X] int64, positions ``row * W + column`` that may not be chosen.
        """
        self._n_blocks += 1
        if self._found is not None and not self._open:
            self._search(scores, start)
        else:
            self._all(scores, start, filled, excluded)

    def result(self) -> tuple[Tensor, Tensor]:
        """Values [R, k] and columns [R, k] int64 in rank order, padded with -inf and -1."""
        self._settle()
        assert self._found is not None
        return self._found

    def _all(self, scores: Tensor, start: int, filled: int, excluded: Tensor) -> None:
        """A block while some row may still list a score of -inf."""
        values, columns = best_columns(scores, self.k, filled, excluded)
        if start:
            columns = torch.where(columns < 0, columns, columns + start)
        if self._found is not None:
            values, columns = torch.cat([self._found[0], values], 1), torch.cat([self._found[1], columns], 1)
            values, columns = merge(values, columns, self.k)
        self._keep(values, columns)

    def _search(self, scores: Tensor, start: int) -> None:
        """A block of which only what is above the cut matters: an equal score in a later column loses."""
        runs = scores.view(scores.shape[0], -1, BLOCK)
        # written as "not below" so that NaN is found, too
        rows, at = (~(runs.amax(2) <= self._cut)).nonzero(as_tuple=True)
        if rows.numel():
            searched = scores.view(-1, BLOCK).index_select(0, rows * runs.shape[1] + at)
            run, inside = (~(searched <= self._cut[rows])).nonzero(as_tuple=True)
            self._pending.append((rows[run], start + at[run] * BLOCK + inside, searched[run, inside]))
        n_pending = sum(part[0].numel() for part in self._pending)
        # the cut rises slower and slower: few columns pass while the blocks become four times as many
        if self._n_blocks >= 4 * self._n_settled or n_pending > _PENDING * self.k * scores.shape[0]:
            self._settle()

    def _settle(self) -> None:
        """Merge what is pending."""
        self._n_settled = self._n_blocks
        if self._found is None or not self._pending:
            return
        rows, columns, values = (torch.cat(parts) for parts in zip(*self._pending, strict=True))
        self._pending = []
        order = rows.argsort(stable=True)
        new = Ragged.from_lengths(columns[order], torch.bincount(rows, minlength=self._found[0].shape[0]))
        values = torch.cat([self._found[0], new.with_values(values[order]).to_padded(fill=NO_SCORE)], 1)
        columns = torch.cat([self._found[1], new.to_padded(fill=-1)], 1)
        self._keep(*merge(values, columns, self.k))

    def _keep(self, values: Tensor, columns: Tensor) -> None:
        self._found, self._n_settled = (values, columns), self._n_blocks
        cut = values[:, -1:]
        self._open = bool((cut == NO_SCORE).any())
        # a row with a NaN is an error already, whatever else is in it
        self._cut = torch.where(values[:, :1].isnan(), -NO_SCORE, cut)
