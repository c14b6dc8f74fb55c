"""A log grouped by user, each user's interactions by time and then by their place in the file."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
import torch
from torch import Tensor

from recgraph.sparse.ragged import Ragged

__all__ = ["OrderedLog", "order"]


def order(log: pl.DataFrame) -> pl.DataFrame:
    """The rows by user, then time (where there is one), then row.

    Args:
        log: columns ``row``, ``user`` and perhaps ``time``.
    """
    keys = ["user", "time", "row"] if "time" in log.columns else ["user", "row"]
    return log.sort(keys)


@dataclass(frozen=True)
class OrderedLog:
    """The arrays that splits label.

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
        lengths = torch.bincount(_tensor(log["user"], torch.int64), minlength=n_users)
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

    def filter(self, keep_mask: Tensor) -> OrderedLog:
        """Only the interactions where ``keep_mask`` [T] is True, for the same users."""
        extra = {
            name: None if values is None else values[keep_mask]
            for name, values in (("times", self.times), ("weights", self.weights), ("ratings", self.ratings))
        }
        return OrderedLog(self.items.filter(keep_mask), self.n_items, self.rows[keep_mask], **extra)


def _tensor(series: pl.Series, dtype: torch.dtype) -> Tensor:
    # numpy has no unsigned types that torch can sum, so the cast is made before
    wanted = pl.Int64 if dtype == torch.int64 else pl.Float64
    return torch.from_numpy(series.cast(wanted).to_numpy(writable=True))
