"""Requests for recommendations: users of the training data, or histories of new users, in the
model's indices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, Self

import narwhals as nw
import numpy as np
import polars as pl
import torch
from pydantic_core import to_jsonable_python
from torch import Tensor

from recgraph.config import is_list
from recgraph.data.batches import Query
from recgraph.data.columns import Columns, TimeFormat, TimeUnit, in_unit
from recgraph.data.dataframe import FrameKind, names_of
from recgraph.data.ids import IdMap, as_series
from recgraph.data.split import Interactions
from recgraph.sparse.ragged import Ragged


@dataclass(frozen=True)
class Request:
    """A request, in the model's indices.

    Attributes:
        labels: [B] the ids of the users as the caller gave them.
        query: users (-1 for those not in the training data) and what is known of them.
        n_unknown_items, n_unknown_users: of the given histories, skipped; ids that are no users of
            the training data.
    """

    labels: pl.Series
    query: Query
    kind: FrameKind
    n_unknown_items: int = 0
    n_unknown_users: int = 0

    def take(self, rows: Tensor) -> Request:
        """Some of the rows; what is unknown counts for the whole."""
        return Request(take(self.labels, rows), self.query.take(rows), self.kind)

    def without(self, rows: Tensor) -> Request:
        """The request without some of its rows."""
        if not len(rows):
            return self
        keep_mask = torch.ones(len(self.labels), dtype=torch.bool)
        keep_mask[rows] = False
        rest = self.take(keep_mask.nonzero().flatten())
        return replace(
            rest, n_unknown_items=self.n_unknown_items, n_unknown_users=self.n_unknown_users
        )


class NoHistoryError(ValueError):
    """Too little is known of a user to recommend items."""

    @classmethod
    def of(cls, request: Request, rows: Tensor) -> Self:
        """The error that names the users of some rows."""
        names = ", ".join(repr(label) for label in take(request.labels, rows[:3]).to_list())
        more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
        return cls(
            f"nothing is known of user {names}{more}; give histories with known items, or fallback='popularity'"
        )


def is_all(users: Any) -> bool:
    """Whether all users, or items, are meant; a list with the id "all" names that one."""
    return isinstance(users, str) and users == "all"


def take(values: pl.Series, rows: Tensor) -> pl.Series:
    """``values[rows]``."""
    return values.gather(pl.Series(rows.numpy(), dtype=pl.Int64))


def query_of_users(index: Tensor, seen: Ragged, times: Ragged | None) -> Query:
    """Users [B] int64, -1 for one that is not known, with what they have seen."""
    rows = index.clamp(min=0)
    lengths = torch.where(index >= 0, seen.lengths[rows], 0)
    return Query(
        index,
        seen.take(rows).first(lengths),
        None if times is None else times.take(rows).first(lengths),
    )


def query_of_histories(items: Tensor, lengths: Tensor, times: Tensor | None = None) -> Query:
    """New users with histories of ``lengths`` [B], one after the other [T]; items -1 are not known
    and left out.
    """
    every = Ragged.from_lengths(items, lengths)
    when = None if times is None else every.with_values(times).filter(items >= 0)
    return Query(torch.full((len(lengths),), -1), every.filter(items >= 0), when)


def in_order(histories: list[list[int]], times: list[int]) -> tuple[list[list[int]], list[int]]:
    """Histories [B], each by time and then by place, and their times [T], one after the other."""
    rest = iter(times)
    items: list[list[int]] = []
    ordered: list[int] = []
    for row in histories:
        events = sorted(zip(row, rest, strict=False), key=itemgetter(1))
        items.append([item for item, _ in events])
        ordered += [time for _, time in events]
    return items, ordered


def of_users(
    given: Any, users: IdMap, seen: Ragged, kind: FrameKind, times: Ragged | None
) -> Request:
    """The request for users of the training data, by a list, array or series of ids, or one id."""
    values, kind = given_ids(given, kind, "users")
    index = torch.from_numpy(users.index(values, "users"))
    query = query_of_users(index, seen, times)
    return Request(values, query, kind, n_unknown_users=int((index < 0).sum()))


def of_histories(
    given: Any,
    items: IdMap,
    columns: Columns,
    kind: FrameKind,
    time_unit: TimeUnit | None,
    time_format: TimeFormat,
) -> Request:
    """The request for new users with the given histories: a frame with a row for each interaction,
    named like the training data's or ``user``, ``item`` and, optionally, ``timestamp``; a mapping
    user -> list of items, oldest first; or a log. ``time_unit`` is that of the training data, for a
    model that reads times."""
    times = None
    if isinstance(given, Mapping):
        for user, row in given.items():
            if not is_list(row) or isinstance(row, set | frozenset):
                raise ValueError(f"histories[{user!r}] must be a list of items, oldest first")
        # an array of arrow gives values of its own
        rows = [
            row.to_pylist() if hasattr(row, "to_pylist") else list(row) for row in given.values()
        ]
        labels = given_ids(list(given), kind, "users")[0]
        index = items.index([item for row in rows for item in row], "items of histories")
        lengths = torch.tensor([len(row) for row in rows])
    else:
        log = given if isinstance(given, Interactions) else read_like(given, columns, time_format)
        if time_unit is not None and log.ordered.times is not None:
            times = in_unit(log.ordered.times, log.time_unit, time_unit)
            if times is None:
                raise ValueError(
                    f"histories have times in {log.time_unit!r}, the training data's are in {time_unit!r}"
                )
        index = items.index(log.items.values, "items of histories")[
            log.ordered.items.values.numpy()
        ]
        labels, lengths, kind = (
            log.users.ids(np.arange(len(log.users))),
            log.ordered.items.lengths,
            log.kind,
        )
    query = query_of_histories(torch.from_numpy(index), lengths, times)
    return Request(labels, query, kind, n_unknown_items=int((index < 0).sum()))


def read_like(frame: Any, columns: Columns, time_format: TimeFormat) -> Interactions:
    """A log in a frame with columns named like the training data's, or ``user``, ``item`` and,
    optionally, ``timestamp``. Times are written like those of the training data, or are dates."""
    there = names_of(frame)
    user, item = (
        own if own in there else role
        for own, role in ((columns.user, "user"), (columns.item, "item"))
    )
    time = next((name for name in (columns.timestamp, "timestamp") if name in there), None)
    dtype = None if time is None else nw.from_native(frame).collect_schema()[time]
    is_written = dtype is not None and (
        dtype.is_numeric() or dtype in (nw.String, nw.Categorical, nw.Enum)
    )
    times = time_format if is_written else None
    return Interactions.from_frame(frame, user=user, item=item, timestamp=time, time_format=times)


def given_ids(given: Any, kind: FrameKind, argument: str) -> tuple[pl.Series, FrameKind]:
    """Ids of a list, array or series, or one id, and the kind of frame that is returned for
    them.
    """
    series = nw.from_native(given, series_only=True, pass_through=True)
    if isinstance(series, nw.Series):
        found = series.implementation.value
        kind = found if found in ("pandas", "polars", "pyarrow") else kind
        given = series.to_list() if series.dtype in (nw.Object, nw.Unknown) else series.to_polars()
    elif hasattr(given, "to_pylist"):  # an array of arrow, which is no series
        given, kind = given.to_pylist(), "pyarrow"
    elif isinstance(given, str | bytes) or not hasattr(given, "__iter__"):
        given = [given]
    return as_series(given, argument), kind


def plain(values: pl.Series) -> list[Any]:
    """The values of a column as JSON can hold them; what it has no form for becomes a text, NaN
    becomes null.
    """
    if values.dtype.is_integer() or values.dtype in (pl.String, pl.Boolean):
        return values.to_list()
    found: list[Any] = to_jsonable_python(values.to_list(), inf_nan_mode="null", fallback=str)
    return found
