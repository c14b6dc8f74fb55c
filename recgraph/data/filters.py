"""Filters of an encoded log. Each returns which rows to keep; none looks at ids."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

__all__ = ["Duplicates", "duplicates", "k_core"]

Duplicates = Literal["all", "first", "last"]
Indices = npt.NDArray[np.integer]


def k_core(user: Indices, item: Indices, users: int, items: int) -> npt.NDArray[np.int64]:
    """The rows in which every user has at least ``users`` and every item at least ``items`` interactions.

    Dropping items makes users too short and the other way round, so the two are dropped in turn until nothing
    changes; the fixed point is unique (the largest such set of rows) whatever the order.

    Args:
        user, item: [T] indices.
        users, items: the smallest counts, each at least 0.

    Returns:
        [R] row numbers, increasing.
    """
    rows = np.arange(len(user), dtype=np.int64)
    while True:
        keep = np.bincount(item)[item] >= items if len(item) else np.ones(0, dtype=bool)
        if users > 1 and len(user):
            keep &= np.bincount(user)[user] >= users
        if keep.all():
            return rows
        rows, user, item = rows[keep], user[keep], item[keep]


def duplicates(log: pl.DataFrame, policy: Duplicates) -> pl.DataFrame:
    """One row for each pair of user and item: its first or last by time, then by row.

    Args:
        log: columns ``row``, ``user``, ``item`` and perhaps ``time``, in the order of ``row``.
        policy: ``"all"`` keeps every row.

    Raises:
        ValueError: another policy.
    """
    if policy == "all":
        return log
    if policy not in ("first", "last"):
        raise ValueError(f"policy = {policy!r} must be 'all', 'first' or 'last'")
    ordered = log.sort("time", maintain_order=True) if "time" in log.columns else log
    return ordered.unique(["user", "item"], keep=policy, maintain_order=True).sort("row")
