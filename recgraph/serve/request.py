"""Requests for recommendations: users of the training data, or histories of new users, in the
model's indices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
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
        is_named: the caller named the users; else all are meant of whom enough is known.
    """

    labels: pl.Series
    query: Query
    kind: FrameKind
    n_unknown_items: int = 0
    n_unknown_users: int = 0
    is_named: bool = True

    def take(self, rows: Tensor) -> Request:
        """Some of the rows; what is unknown counts for the whole."""
        return replace(
            self,
            labels=take(self.labels, rows),
            query=self.query.take(rows),
            n_unknown_items=0,
            n_unknown_users=0,
        )

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
        names = ", ".join(map(repr, take(request.labels, rows[:3])))
        more = ""
        if len(rows) > 3:
            more = f" and {len(rows) - 3} more"
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
    if times is not None:
        times = times.take(rows).first(lengths)
    return Query(index, seen.take(rows).first(lengths), times)


def query_of_histories(items: Tensor, lengths: Tensor, times: Tensor | None = None) -> Query:
    """New users with histories of ``lengths`` [B], one after the other [T]; items -1 are not known
    and left out.
    """
    rows = Ragged.from_lengths(items, lengths)
    known_mask = items >= 0
    known_times = None
    if times is not None:
        known_times = rows.with_values(times).filter(known_mask)
    return Query(torch.full((len(lengths),), -1), rows.filter(known_mask), known_times)


def in_order(histories: list[list[int]], times: list[int]) -> tuple[list[list[int]], list[int]]:
    """Histories [B], each by time and then by place, and their times [T], one after the other."""
    rest = iter(times)
    items = []
    ordered_times: list[int] = []
    for row in histories:
        events = sorted(zip(row, rest, strict=False), key=itemgetter(1))
        items.append([item for item, _ in events])
        ordered_times += [time for _, time in events]
    return items, ordered_times


def of_users(
    user_ids: Any, users: IdMap, seen: Ragged, kind: FrameKind, times: Ragged | None
) -> Request:
    """The request for users of the training data, by a list, array or series of ids, or one id."""
    values, kind = given_ids(user_ids, kind, "users")
    index = torch.from_numpy(users.index(values, "users"))
    query = query_of_users(index, seen, times)
    return Request(values, query, kind, n_unknown_users=int((index < 0).sum()))


def of_histories(
    histories: Any,
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
    if isinstance(histories, Mapping):
        return _of_mapping(histories, items, kind)
    if not isinstance(histories, Interactions):
        histories = read_like(histories, columns, time_format)
    return _of_log(histories, items, time_unit)


def _of_mapping(histories: Mapping[Any, Any], items: IdMap, kind: FrameKind) -> Request:
    rows = []
    for user, row in histories.items():
        if not is_list(row) or isinstance(row, set | frozenset):
            raise ValueError(f"histories[{user!r}] must be a list of items, oldest first")
        if hasattr(row, "to_pylist"):  # an array of arrow gives values of its own
            row = row.to_pylist()
        rows.append(list(row))
    labels, kind = given_ids(list(histories), kind, "users")
    index = items.index(list(chain.from_iterable(rows)), "items of histories")
    lengths = torch.tensor(list(map(len, rows)))
    query = query_of_histories(torch.from_numpy(index), lengths)
    return Request(labels, query, kind, n_unknown_items=int((index < 0).sum()))


def _of_log(log: Interactions, items: IdMap, time_unit: TimeUnit | None) -> Request:
    times = None
    if time_unit is not None and log.ordered.times is not None:
        times = in_unit(log.ordered.times, log.time_unit, time_unit)
        if times is None:
            raise ValueError(
                f"histories have times in {log.time_unit!r}, the training data's are in {time_unit!r}"
            )
    index_of_item = torch.from_numpy(items.index(log.items.values, "items of histories"))
    index = index_of_item[log.ordered.items.values]
    query = query_of_histories(index, log.ordered.items.lengths, times)
    labels = log.users.ids(np.arange(len(log.users)))
    return Request(labels, query, log.kind, n_unknown_items=int((index < 0).sum()))


def read_like(frame: Any, columns: Columns, time_format: TimeFormat) -> Interactions:
    """A log in a frame with columns named like the training data's, or ``user``, ``item`` and,
    optionally, ``timestamp``. Times are written like those of the training data, or are dates."""
    there = names_of(frame)
    names: dict[str, Any] = {}
    for role in ("user", "item", "timestamp"):
        own_name = getattr(columns, role)
        names[role] = own_name if own_name in there else role
    if names["timestamp"] not in there:
        names["timestamp"] = None
    return Interactions.from_frame(frame, **names, time_format=time_format)


def given_ids(values: Any, kind: FrameKind, argument: str) -> tuple[pl.Series, FrameKind]:
    """Ids of a list, array or series, or one id, and the kind of frame that is returned for
    them.
    """
    series = nw.from_native(values, series_only=True, pass_through=True)
    if isinstance(series, nw.Series):
        library = series.implementation.value
        if library in ("pandas", "polars", "pyarrow"):
            kind = library
        if series.dtype in (nw.Object, nw.Unknown):
            values = series.to_list()
        else:
            values = series.to_polars()
    elif hasattr(values, "to_pylist"):  # an array of arrow, which is no series
        kind = "pyarrow"
    elif isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
        values = [values]
    return as_series(values, argument), kind


def plain(values: pl.Series) -> list[Any]:
    """The values of a column as JSON can hold them; what it has no form for becomes a text, NaN
    becomes null.
    """
    if values.dtype.is_integer() or values.dtype in (pl.String, pl.Boolean):
        return values.to_list()
    readable: list[Any] = to_jsonable_python(values.to_list(), inf_nan_mode="null", fallback=str)
    return readable
