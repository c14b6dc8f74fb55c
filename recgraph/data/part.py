"""Interactions grouped by user, as indices: the parts of a split, evaluation cases, and a whole log
in order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recgraph.sparse.csr import Csr
from recgraph.sparse.products import distinct, presence
from recgraph.sparse.ragged import Ragged

#: by whom repeats are told
_FIRST_USERS = 10_000


@dataclass(frozen=True)
class Part:
    """A part of a split: interactions of all users, one row a user (rows may be empty), oldest
    first.

    Attributes:
        items: n_users rows of item indices (0-based).
        n_items: the size of the catalogue.
        weights: [T] float, aligned with ``items.values``, at least 0; None where every interaction
            counts the same.
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

    def filter(self, keep_mask: Tensor) -> Self:
        """Only the interactions where ``keep_mask`` [T] is True, for the same users."""
        mask = keep_mask.numpy()
        before = np.zeros(len(mask) + 1, dtype=np.int64)
        np.cumsum(mask, out=before[1:])
        offsets = torch.from_numpy(before[self.items.offsets.numpy()])
        kept: dict[str, Any] = {}
        for name in ("weights", "times", "ratings", "rows"):
            if (values := getattr(self, name, None)) is not None:
                kept[name] = torch.from_numpy(values.numpy()[mask])
        return replace(
            self, items=Ragged(torch.from_numpy(self.items.values.numpy()[mask]), offsets), **kept
        )

    @cached_property
    def repeats(self) -> float:
        """The share of interactions with an item that the user had at another time before, among
        the first users.
        """
        rows = self.items.part(0, min(self.n_users, _FIRST_USERS))
        when = (
            range(len(rows.values))
            if self.times is None
            else self.times[: len(rows.values)].numpy()
        )
        frame = pl.DataFrame(
            {"user": rows.rows.numpy(), "item": rows.values.numpy(), "time": when}
        ).unique()
        return 1 - frame.select("user", "item").n_unique() / max(len(frame), 1)

    def item_counts(self) -> Tensor:
        """[n_items] int64: interactions of each item."""
        return torch.bincount(self.items.values, minlength=self.n_items)

    def matrix(self, device: torch.device | None = None) -> Csr:
        """[n_users, n_items] on a device: the distinct items of each user. With weights each has
        the sum of those of its interactions, float64, and is left out where that is 0; without, it
        has none, and repeats do not add."""
        items, weights = self.items.to(device or self.items.device), self.weights
        if weights is None:
            return presence(distinct(items, self.n_items), self.n_items)
        shape = (self.n_users, self.n_items)
        summed = Csr.from_coo(
            items.rows, items.values, weights.to(items.device), shape=shape, duplicates="sum"
        )
        return summed.select(summed.values() > 0)

    def sample_weights(self) -> Tensor | None:
        """[T] float32: the weights over their mean, so that a mean of loss times these is the
        weighted mean of the loss over all interactions. None without weights."""
        if self.weights is None:
            return None
        if not bool((self.weights > 0).any()):
            raise ValueError("weight: all weights are 0; nothing to learn")
        return (self.weights / self.weights.mean()).float()


@dataclass(frozen=True)
class Cases:
    """The cases of an evaluation: for each user a history that the model may read, and the items
    that it must find.

    Attributes:
        users: [U] int64 user indices.
        history, times: U rows of item indices, oldest first: what is known at test time (and the
            seen items); their times, or None.
        truth, grades: U rows of item indices, the relevant items, never empty; [T] float, their
            relevance, or None.
        n_items: the size of the catalogue.
        at: [U] int64, when the item that is asked for was chosen, of several the first; None where
            ``times`` is.
    """

    users: Tensor
    history: Ragged
    truth: Ragged
    n_items: int
    grades: Tensor | None = None
    times: Ragged | None = None
    at: Tensor | None = None

    def __len__(self) -> int:
        return self.users.numel()

    def take(self, rows: Tensor) -> Cases:
        """Some of the cases ([K] int64)."""
        grades = (
            None if self.grades is None else self.truth.with_values(self.grades).take(rows).values
        )
        times = None if self.times is None else self.times.take(rows)
        at = None if self.at is None else self.at[rows]
        return Cases(
            self.users[rows],
            self.history.take(rows),
            self.truth.take(rows),
            self.n_items,
            grades,
            times,
            at,
        )


def order(log: pl.DataFrame) -> pl.DataFrame:
    """The rows by user, then time (where there is one), then row."""
    keys = ["user", "time", "row"] if "time" in log.columns else ["user", "row"]
    return log.sort(keys)


@dataclass(frozen=True, kw_only=True)
class OrderedLog(Part):
    """A log grouped by user, each user's interactions by time and then by row: the order in which
    splits label them.

    Attributes:
        rows: [T] int64, the source row of each interaction.
    """

    rows: Tensor

    @classmethod
    def of(cls, log: pl.DataFrame, n_users: int, n_items: int) -> OrderedLog:
        """From an encoded log in any order."""
        log = order(log)
        types: dict[str, type[pl.DataType]] = {"user": pl.Int32, "item": pl.Int64, "row": pl.Int64}
        types |= {"time": pl.Int64, "weight": pl.Float64, "rating": pl.Float64}
        held = {
            name: torch.from_numpy(log[name].cast(dtype).to_numpy(writable=True))
            for name, dtype in types.items()
            if name in log.columns
        }
        items = Ragged.from_lengths(held["item"], torch.bincount(held["user"], minlength=n_users))
        extra = (held.get(name) for name in ("weight", "time", "rating"))
        return cls(items, n_items, *extra, rows=held["row"])

    @property
    def part(self) -> Part:
        """All of it, without the source rows."""
        return Part(self.items, self.n_items, self.weights, self.times, self.ratings)
