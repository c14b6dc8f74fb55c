"""The best columns of a score matrix that is seen block by block and never held whole.

Once ``k`` columns are known, a later block can only add what is above the worst of them. Few columns are: a block is
read once, for the maxima of its runs of 64 columns, and only the runs that rise above are searched.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recgraph.evaluate.select import BLOCK, NOTHING, best_columns, merge
from recgraph.sparse.ragged import Ragged

#: columns that are kept for a row before they are merged, times k
_PENDING = 8


class RunningBest:
    """The ``k`` best columns of each row so far: by score, and among equal scores by lower column.

    Args:
        k: how many.
        exact: False where the choice among scores equal to the last one is free (for scores of low precision, which
            are many times equal).
    """

    def __init__(self, k: int, exact: bool = True) -> None:
        self.k, self._exact = k, exact
        self._found: tuple[Tensor, Tensor] | None = None
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._n_blocks = self._n_settled = 0
        self._cut = torch.empty(0)
        self._open = True

    def add(self, scores: Tensor, start: int, filled: int, barred: Tensor) -> None:
        """Read the next block.

        Args:
            scores: [R, W] contiguous, W a multiple of 64 and greater than ``k``; places that may not be chosen, the
                padding from column ``filled`` on among them, hold -inf. A NaN anywhere shows in the result.
            start: the block's first column; blocks come in ascending order.
            filled: the block's columns that are items.
            barred: [X] int64, places ``row * W + column`` that may not be chosen.
        """
        self._n_blocks += 1
        if self._found is not None and not self._open:
            self._search(scores, start)
        else:
            self._all(scores, start, filled, barred)

    def result(self) -> tuple[Tensor, Tensor]:
        """Values [R, k] and columns [R, k] int64 in rank order, padded with -inf and -1."""
        self._settle()
        assert self._found is not None
        return self._found

    def _all(self, scores: Tensor, start: int, filled: int, barred: Tensor) -> None:
        """A block while some row may still list a score of -inf."""
        values, columns = best_columns(scores, self.k, filled, barred, exact=self._exact)
        if self._found is not None:
            columns = torch.where(columns < 0, columns, columns + start)
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
        values = torch.cat([self._found[0], new.with_values(values[order]).to_padded(fill=NOTHING)], 1)
        columns = torch.cat([self._found[1], new.to_padded(fill=-1)], 1)
        self._keep(*merge(values, columns, self.k))

    def _keep(self, values: Tensor, columns: Tensor) -> None:
        self._found, self._n_settled = (values, columns), self._n_blocks
        cut = values[:, -1:]
        self._open = bool((cut == NOTHING).any())
        # a row with a NaN is an error already, whatever else is in it
        self._cut = torch.where(values[:, :1].isnan(), -NOTHING, cut)
