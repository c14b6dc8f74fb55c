"""Interactions grouped by user, as indices: the parts of a split, evaluation cases, and a whole log in order."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
import torch
from torch import Tensor

from recgraph.data.masks import kept, kept_rows
from recgraph.data.ordering import in_order
from recgraph.sparse.ragged import Ragged

__all__ = ["Cases", "OrderedLog", "Part", "order"]


@dataclass(frozen=True)
class Part:
    """A part of a split: interactions of all users, one row a user (rows may be empty), oldest first.

    Attributes:
        items: n_users rows of item indices (0-based).
        n_items: the size of the catalogue.
        weights: [T] float, aligned with ``items.values``, or None where every interaction counts the same.
        times: [T] int64, aligned (unix microseconds, or the user's own unit), or None.
        ratings: [T] float, aligned, or None.
    """

    items: Ragged
    n_items: int
    weights: Tensor | None = None
    times: Tensor | None = None
    ratings: Tensor | None = None

    @property
    def n_users(self) -> int:
        return self.items.n_rows

    @property
    def n_interactions(self) -> int:
        return self.items.values.numel()

    def filter(self, keep_mask: Tensor) -> Part:
        """Only the interactions where ``keep_mask`` [T] is True, for the same users."""
        weights, times, ratings = (
            None if values is None else kept(values, keep_mask) for values in (self.weights, self.times, self.ratings)
        )
        return Part(kept_rows(self.items, keep_mask), self.n_items, weights, times, ratings)

    def item_counts(self) -> Tensor:
        """[n_items] int64: interactions of each item."""
        return torch.bincount(self.items.values, minlength=self.n_items)


@dataclass(frozen=True)
class Cases:
    """The cases of an evaluation: for each user a history that the model may read, and the items that it must find.

    Attributes:
        users: [U] int64 user indices.
        history: U rows of item indices, oldest first: what is known at test time (and the seen items).
        truth: U rows of item indices: the relevant items; never empty.
        grades: [T] float, the relevance of ``truth.values``, or None.
        n_items: the size of the catalogue.
        times: the times of ``history``, row by row, or None.
    """

    users: Tensor
    history: Ragged
    truth: Ragged
    n_items: int
    grades: Tensor | None = None
    times: Ragged | None = None

    def __len__(self) -> int:
        return self.users.numel()

    def take(self, rows: Tensor) -> Cases:
        """Some of the cases ([K] int64)."""
        grades = None if self.grades is None else self.truth.with_values(self.grades).take(rows).values
        times = None if self.times is None else self.times.take(rows)
        return Cases(self.users[rows], self.history.take(rows), self.truth.take(rows), self.n_items, grades, times)


def order(log: pl.DataFrame) -> pl.DataFrame:
    """The rows by user, then time (where there is one), then row.

    Args:
        log: columns ``row``, ``user`` and perhaps ``time``.
    """
    keys = ["user", "time", "row"] if "time" in log.columns else ["user", "row"]
    return in_order(log, keys)


@dataclass(frozen=True)
class OrderedLog:
    """A log grouped by user, each user's interactions by time and then by row: the order in which splits label them.

    Attributes:
        items: n_users rows of item indices, oldest first.
        n_items: the size of the catalogue.
        rows: [T] int64, the source row of each interaction.
        times: [T] int64 or None.
        weights, ratings: [T] float64 or None.
    """

    items: Ragged
    n_items: int
    rows: Tensor
    times: Tensor | None = None
    weights: Tensor | None = None
    ratings: Tensor | None = None

    @classmethod
    def of(cls, log: pl.DataFrame, n_users: int, n_items: int) -> OrderedLog:
        """From an encoded log in any order."""
        log = order(log)
        lengths = torch.bincount(
            torch.from_numpy(log["user"].cast(pl.Int32).to_numpy(writable=True)), minlength=n_users
        )
        extra = {
            name: _tensor(log[column], dtype) if column in log.columns else None
            for name, column, dtype in (
                ("times", "time", torch.int64),
                ("weights", "weight", torch.float64),
                ("ratings", "rating", torch.float64),
            )
        }
        items = Ragged.from_lengths(_tensor(log["item"], torch.int64), lengths)
        return cls(items, n_items, _tensor(log["row"], torch.int64), **extra)

    @property
    def n_users(self) -> int:
        return self.items.n_rows

    @property
    def n_interactions(self) -> int:
        return self.items.values.numel()

    @property
    def part(self) -> Part:
        """All of it, without the source rows."""
        return Part(self.items, self.n_items, self.weights, self.times, self.ratings)

    def filter(self, keep_mask: Tensor) -> OrderedLog:
        """Only the interactions where ``keep_mask`` [T] is True, for the same users."""
        left = self.part.filter(keep_mask)
        rows = kept(self.rows, keep_mask)
        return OrderedLog(left.items, self.n_items, rows, left.times, left.weights, left.ratings)


def _tensor(series: pl.Series, dtype: torch.dtype) -> Tensor:
    # numpy has no unsigned types that torch can sum, so the cast is made before
    wanted = pl.Int64 if dtype == torch.int64 else pl.Float64
    return torch.from_numpy(series.cast(wanted).to_numpy(writable=True))
