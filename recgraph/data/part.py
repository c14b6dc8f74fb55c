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
        aligned: dict[str, Any] = {}
        for name in ("weights", "times", "ratings", "rows"):
            values = getattr(self, name, None)
            if values is not None:
                aligned[name] = torch.from_numpy(values.numpy()[mask])
        items = Ragged(torch.from_numpy(self.items.values.numpy()[mask]), offsets)
        return replace(self, items=items, **aligned)

    @cached_property
    def repeats(self) -> float:
        """The share of interactions with an item that the user had at another time before, among
        the first users.
        """
        rows = self.items.part(0, min(self.n_users, _FIRST_USERS))
        pairs = pl.DataFrame({"user": rows.rows.numpy(), "item": rows.values.numpy()})
        times = pl.Series(range(len(pairs)))
        if self.times is not None:
            times = pl.Series(self.times[: len(pairs)].numpy())
        frame = pairs.with_columns(time=times).unique()
        return 1 - frame.select("user", "item").n_unique() / max(len(frame), 1)

    def item_counts(self) -> Tensor:
        """[n_items] int64: interactions of each item."""
        return torch.bincount(self.items.values, minlength=self.n_items)

    def matrix(self, device: torch.device | None = None) -> Csr:
        """[n_users, n_items] on a device: the distinct items of each user. With weights each has
        the sum of those of its interactions, float64, and is left out where that is 0; without, it
        has none, and repeats do not add."""
        items = self.items.to(device or self.items.device)
        if self.weights is None:
            return presence(distinct(items, self.n_items), self.n_items)
        weights = self.weights.to(items.device)
        shape = (self.n_users, self.n_items)
        summed = Csr.from_coo(items.rows, items.values, weights, shape=shape, duplicates="sum")
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
        taken: dict[str, Any] = {}
        if self.grades is not None:
            taken["grades"] = self.truth.with_values(self.grades).take(rows).values
        if self.times is not None:
            taken["times"] = self.times.take(rows)
        if self.at is not None:
            taken["at"] = self.at[rows]
        return Cases(
            self.users[rows],
            self.history.take(rows),
            self.truth.take(rows),
            self.n_items,
            **taken,
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
        columns = {}
        for name, dtype in types.items():
            if name in log.columns:
                values = log[name].cast(dtype).to_numpy(writable=True)
                columns[name] = torch.from_numpy(values)
        lengths = torch.bincount(columns["user"], minlength=n_users)
        return cls(
            items=Ragged.from_lengths(columns["item"], lengths),
            n_items=n_items,
            weights=columns.get("weight"),
            times=columns.get("time"),
            ratings=columns.get("rating"),
            rows=columns["row"],
        )

    @property
    def part(self) -> Part:
        """All of it, without the source rows."""
        return Part(self.items, self.n_items, self.weights, self.times, self.ratings)
