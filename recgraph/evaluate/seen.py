"""Seen items as columns of a ranking."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from recgraph.sparse.ragged import Ragged


@dataclass(frozen=True)
class Seen:
    """Seen columns of some users, each once, in ascending order.

    Attributes:
        columns: a row for each user.
        rows: [T] int64, aligned with the values.
    """

    columns: Ragged
    rows: Tensor

    @classmethod
    def of(cls, seen: Ragged, position: Tensor, width: int) -> Seen:
        """Look rows of item indices up.

        Args:
            position: [n_items] int64, the column of each item, -1 for none.
            width: more than any column.
        """
        columns = position[seen.values]
        keys = torch.unique((seen.rows * width + columns)[columns >= 0])
        rows, columns = keys // width, keys % width
        lengths = torch.bincount(rows, minlength=seen.n_rows)
        return cls(Ragged.from_lengths(columns, lengths), rows)

    def tile(self, start: int, end: int) -> Seen:
        """The users from ``start`` to ``end``."""
        offsets = self.columns.offsets[start : end + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        return Seen(Ragged(self.columns.values[first:last], offsets - first), self.rows[first:last] - start)

    def take(self, index: Tensor) -> Seen:
        """The given users."""
        columns = self.columns.take(index)
        return Seen(columns, columns.rows)

    @cached_property
    def _by_column(self) -> tuple[Tensor, Tensor]:
        columns, order = self.columns.values.sort()
        return columns, order

    def within(self, starts: list[int]) -> list[Tensor]:
        """For each stretch of columns between two ``starts`` [S + 1] the entries in it, S index tensors."""
        columns, order = self._by_column
        edges = torch.searchsorted(columns, torch.tensor(starts, device=columns.device)).tolist()
        return [order[low:high] for low, high in pairwise(edges)]
