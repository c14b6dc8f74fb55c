"""How alike items are: the cosine of vectors, common values of item features, users in common.

A re-ranker compares the candidates of a list with the items that were picked, one at a time. The similarities of one
kind are a matrix without negative eigenvalues, 1 of an item with itself, so that a determinant of them is a volume.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from recgraph.finite import first_bad_row
from recgraph.sparse.products import co_occurrence, distinct, holders_of
from recgraph.sparse.ragged import Ragged

__all__ = ["CoOccurrence", "Compare", "Cosine", "Jaccard", "SimilarBy", "Similarity", "shared_values"]

#: by the model's item vectors, or by the users who had both
SimilarBy = Literal["vectors", "co_occurrence"]

#: other items [R] -> their similarities [R, P] with the candidates of each row
Compare = Callable[[Tensor], Tensor]

#: unit vectors are rounded to multiples of 2^-24 (which float32 holds): products of two then add up without rounding in
#: float64, so that equal vectors are equally similar, in every order of the sum, in blocks and on every machine
_GRID = float(1 << 24)
#: vectors that are rounded at a time
_ROWS = 4096


class Similarity:
    """Base of all similarities. A subclass fills :meth:`of`, :meth:`row_bytes` and :meth:`work`."""

    def of(self, items: Tensor) -> Compare:
        """Prepare candidates.

        Args:
            items: [R, P] int64 item indices.

        Returns:
            A function of one item for each row, [R] int64, that gives its similarities [R, P] float64 with the row's
            candidates. What it gives for an item and itself is not read.
        """
        raise TypeError(f"{type(self).__name__} must define of(items)")

    def row_bytes(self, width: int) -> int:
        """The memory that a row of ``width`` candidates takes."""
        raise TypeError(f"{type(self).__name__} must define row_bytes(width)")

    def work(self, width: int) -> int:
        """About how many multiplications or counts it takes to compare an item with ``width`` candidates, at most."""
        raise TypeError(f"{type(self).__name__} must define work(width)")


class Cosine(Similarity):
    """The cosine of item vectors; 0 where a vector is all zeros. Directions are rounded to multiples of 2^-24.

    Args:
        vectors: [n_items, D].

    Attributes:
        unit: [n_items, D] float32, the rounded directions.

    Raises:
        ValueError: a vector holds NaN or an infinite number.
    """

    def __init__(self, vectors: Tensor) -> None:
        vectors = vectors.detach()
        self.unit = torch.empty_like(vectors, dtype=torch.float32)
        for start in range(0, len(vectors), _ROWS):
            part = vectors[start : start + _ROWS]
            if (item := first_bad_row(part)) is not None:
                raise ValueError(f"vectors: that of item index {start + item} is not finite; train or check the model")
            unit = torch.nn.functional.normalize(part.double())
            self.unit[start : start + _ROWS] = unit.mul_(_GRID).round_().div_(_GRID)

    def of(self, items: Tensor) -> Compare:
        rows = self.unit[items].double()
        return lambda other: (rows @ self.unit[other].double()[:, :, None]).squeeze(2)

    def row_bytes(self, width: int) -> int:
        return 12 * width * self.unit.shape[1]

    def work(self, width: int) -> int:
        return width * self.unit.shape[1]


class Jaccard(Similarity):
    """The common values of two items over all their values; 0 where neither has one.

    Args:
        columns: codes [n_items, m] int64 of each item feature, -1 behind the last value of an item.
    """

    def __init__(self, columns: Sequence[Tensor]) -> None:
        self._columns = tuple(columns)

    def of(self, items: Tensor) -> Compare:
        held = [codes[items] for codes in self._columns]
        sizes = torch.stack([(codes >= 0).sum(2) for codes in held]).sum(0)

        def compare(other: Tensor) -> Tensor:
            both = torch.zeros(items.shape, dtype=torch.float64, device=items.device)
            n_values = torch.zeros_like(other)
            for codes, every in zip(held, self._columns, strict=True):
                own = every[other]
                n_values += (own >= 0).sum(1)
                both += shared_values(codes, own[:, None]).any(3).sum(2)
            return both / (sizes + n_values[:, None] - both).clamp(min=1)

        return compare

    def row_bytes(self, width: int) -> int:
        return width * sum(8 * codes.shape[1] + codes.shape[1] ** 2 for codes in self._columns)

    def work(self, width: int) -> int:
        return width * sum(codes.shape[1] ** 2 for codes in self._columns)


class CoOccurrence(Similarity):
    """The cosine of the sets of users who have two items, ``|U_i and U_j| / sqrt(|U_i| |U_j|)``; 0 where one has none.

    What it needs to know of the log is counted when it is first compared by, and kept.

    Args:
        rows: the items of each user, repeats allowed.
        n_items: the size of the catalogue.
    """

    def __init__(self, rows: Ragged, n_items: int) -> None:
        self._rows, self.n_items = rows, n_items

    @cached_property
    def _users(self) -> Ragged:
        return distinct(self._rows, self.n_items)

    @cached_property
    def _holders(self) -> Ragged:
        return holders_of(self._users, self.n_items)

    @cached_property
    def _most(self) -> int:
        """The greatest sum, over the users of one item, of how many items each of them has."""
        users = self._users
        had = torch.bincount(users.values, users.lengths[users.rows].double(), self.n_items)
        return int(had.max()) if self.n_items else 0

    def of(self, items: Tensor) -> Compare:
        counts = self._holders.lengths.double()
        sizes = counts[items]

        def compare(other: Tensor) -> Tensor:
            # lists that are picked at the same time often hold the same items: each is counted once
            wanted, which = torch.unique(other, return_inverse=True)
            order = which.argsort(stable=True)
            ends = torch.bincount(which, minlength=len(wanted)).cumsum(0).tolist()
            both = torch.empty(items.shape, dtype=torch.float64, device=items.device)
            holders = self._holders.take(wanted)
            for first, block in co_occurrence(self._users, self.n_items, holders=holders):
                rows = order[ends[first - 1] if first else 0 : ends[first + len(block) - 1]]
                both[rows] = block[which[rows] - first].gather(1, items[rows])
            return both / (sizes * counts[other][:, None]).sqrt().clamp(min=1)

        return compare

    def rows(self, items: Tensor) -> Tensor:
        """[R, n_items] float64: the similarities of items [R] with all."""
        counts = self._holders.lengths.double()
        found = torch.empty(len(items), self.n_items, dtype=torch.float64)
        for first, block in co_occurrence(self._users, self.n_items, holders=self._holders.take(items)):
            rows = slice(first, first + len(block))
            torch.div(block, (counts[items[rows], None] * counts).sqrt_().clamp_(min=1), out=found[rows])
        return found

    def n_pairs(self, items: Tensor) -> int:
        """How many pairs of a user and an item :meth:`rows` counts."""
        return int(self._users.lengths[self._holders.take(items).values].sum())

    def row_bytes(self, width: int) -> int:
        return 8 * (self.n_items + 3 * width)

    def work(self, width: int) -> int:
        return self.n_items + self._most


def shared_values(rows: Tensor, one: Tensor) -> Tensor:
    """[R, P, m, m]: which values of the items [R, P, m] are values of the items [R, 1, m]."""
    return (rows[..., :, None] == one[..., None, :]) & (rows >= 0)[..., :, None]
