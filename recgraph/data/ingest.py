"""From a raw log to integers: unique ids in order of first appearance, and a log of indices.

The raw log is scanned several times by polars' streaming engine and never held as a whole; what stays in
memory is the encoded log, about 20 to 30 bytes an interaction.

From a file or frame to an encoded log: each reader, then the encoding.

Filters of an encoded log. Each returns which rows to keep; none looks at ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from recgraph.data.columns import Columns, TimeUnit, candidates, check_times, to_integers
from recgraph.data.dataframe import FrameKind, frame_kind, scan_frame
from recgraph.data.diagnose import Raw, Source, collect
from recgraph.data.errors import DataError, EmptyLogError, MissingColumnError, MissingIdError, RatingError
from recgraph.data.ids import IdMap
from recgraph.data.readers import (
    atomic_files,
    read_features,
    scan_atomic,
    scan_delimited,
    scan_jsonl,
    scan_parquet,
    scan_sequences,
)

__all__ = [
    "Duplicates",
    "Encoded",
    "delimited",
    "duplicates",
    "encode",
    "frame",
    "jsonl",
    "k_core",
    "parquet",
    "recbole",
    "sequences",
]


#: of the raw log, where a column of the user's own may be named "row"
_ROW = "__row"


@dataclass(frozen=True)
class Encoded:
    """A log of indices.

    Its columns are ``row`` (of the file), ``user``, ``item`` and, where given, ``time``, ``rating``,
    ``weight``.
    """

    log: pl.DataFrame
    users: IdMap
    items: IdMap
    time_unit: TimeUnit


def encode(raw: Raw, columns: Columns) -> Encoded:
    """Encode a log.

    Raises:
        DataError: one of its subclasses, for what is wrong with the log.
    """
    check_columns(raw, columns)
    lazy = raw.lazy.select(columns.named()).with_row_index(_ROW)
    lazy = _plain_ids(lazy, columns)
    users = _unique(lazy, columns.user, "user", raw)
    if not len(users):
        raise raw.source.error(EmptyLogError, "there is no interaction, only " + _what_is_there(raw.source))
    items = _unique(lazy, columns.item, "item", raw)
    coded = _join(_join(lazy, users, columns.user, "user"), items, columns.item, "item")
    log, unit = _collect_log(coded, lazy, raw.source, columns)
    return Encoded(
        log,
        _id_map(users, raw, columns.user),
        _id_map(items, raw, columns.item),
        unit,
    )


def check_columns(raw: Raw, columns: Columns) -> None:
    """Refuse a name that is not there, listing those that are."""
    there = raw.lazy.collect_schema().names()
    missing = [name for name in columns.named() if name not in there]
    if missing:
        message = f"there is no column {missing[0]!r}; the columns are {', '.join(map(repr, there))}"
        raise raw.source.error(MissingColumnError, message)
    if columns.user == columns.item:
        raise DataError(f"user = {columns.user!r} and item = {columns.item!r} must be two columns")


def _what_is_there(source: Source) -> str:
    return "a header" if source.format == "delimited" and source.has_header else "an empty log"


def _plain_ids(lazy: pl.LazyFrame, columns: Columns) -> pl.LazyFrame:
    schema = lazy.collect_schema()
    ids = [columns.user, columns.item]
    return lazy.with_columns(
        pl.col(name).cast(pl.String) for name in ids if isinstance(schema[name], pl.Categorical | pl.Enum)
    )


def _unique(lazy: pl.LazyFrame, column: str, role: str, raw: Raw) -> pl.DataFrame:
    """The unique ids with their first rows, in the order of these."""
    first = lazy.select(column, _ROW).group_by(column).agg(pl.col(_ROW).min())
    found = collect(first, raw.source).sort(_ROW)
    values = found[column]
    missing = values.is_null()
    if values.dtype.is_float():
        missing |= values.is_nan().fill_null(False)
    if missing.any():
        row = int(found[_ROW].filter(missing)[0])
        what = "NaN" if values.dtype.is_float() else "missing"
        raise raw.source.error(MissingIdError, f"the {role} id (column {column!r}) is {what}", row=row)
    return found


def _join(lazy: pl.LazyFrame, unique: pl.DataFrame, column: str, code: str) -> pl.LazyFrame:
    table = unique.select(pl.col(column), pl.int_range(pl.len(), dtype=pl.Int32).alias(f"__{code}")).lazy()
    return lazy.join(table, on=column, how="left", maintain_order="left")


def _id_map(unique: pl.DataFrame, raw: Raw, column: str) -> IdMap:
    values = unique[column]
    if column in raw.uuids:
        return IdMap(values, as_uuid=True)
    if raw.as_text:
        numbers = values.cast(pl.Int64, strict=False)
        # only where nothing is lost: "007" and "+7" stay texts
        if numbers.null_count() == 0 and numbers.cast(pl.String).equals(values):
            return IdMap(numbers)
    return IdMap(values)


def _collect_log(
    coded: pl.LazyFrame, lazy: pl.LazyFrame, source: Source, columns: Columns
) -> tuple[pl.DataFrame, TimeUnit]:
    picked = [pl.col(_ROW).alias("row"), pl.col("__user").alias("user"), pl.col("__item").alias("item")]
    numbers = {"rating": columns.rating, "weight": columns.weight}
    picked += [
        pl.col(name).cast(pl.Float64, strict=False).alias(role) for role, name in numbers.items() if name is not None
    ]
    tried = candidates(lazy, columns.timestamp, source) if columns.timestamp is not None else [None]
    for reading in tried:
        wanted = picked if reading is None else [*picked, reading.expression.alias("time")]
        log = collect(coded.select(wanted), source)
        if reading is None or log["time"].null_count() == 0:
            break
    for role, name in numbers.items():
        if name is not None:
            _check_numbers(log, role, name, lazy, source)
    if reading is None:
        return log, "none"
    assert columns.timestamp is not None
    log, unit = to_integers(log, reading.unit)
    check_times(log, columns.timestamp, lazy, source)
    return log, unit


def _check_numbers(log: pl.DataFrame, role: str, name: str, lazy: pl.LazyFrame, source: Source) -> None:
    values = log[role]
    bad = values.is_null() | values.is_nan() | values.is_infinite()
    if role == "weight":
        bad |= values < 0
    place = bad.fill_null(True).arg_max() if bad.fill_null(True).any() else None
    if place is not None:
        row = int(log["row"][place])
        given = collect(lazy.select(name).slice(place, 1), source).item()
        wanted = "a number" if role == "rating" else "a number of at least 0"
        raise source.error(RatingError, f"the {role} {given!r} (column {name!r}) is not {wanted}", row=row)


def frame(table: Any, columns: Columns) -> tuple[Encoded, Source, FrameKind]:
    """A frame of pandas, polars or pyarrow."""
    raw = scan_frame(table, columns.named(), ids=(columns.user, columns.item))
    return encode(raw, columns), raw.source, frame_kind(table)


def delimited(
    path: str | Path, columns: Columns, separator: str, names: Sequence[str] | None
) -> tuple[Encoded, Columns, Source]:
    """CSV, TSV and the like."""
    raw = scan_delimited(path, separator=separator, columns=names, needed=columns.named())
    return encode(raw, columns), columns, raw.source


def jsonl(path: str | Path, columns: Columns) -> tuple[Encoded, Columns, Source]:
    """JSON lines."""
    raw = scan_jsonl(path, columns)
    return encode(raw, columns), columns, raw.source


def parquet(path: str | Path, columns: Columns) -> tuple[Encoded, Columns, Source]:
    """Parquet."""
    raw = scan_parquet(path)
    return encode(raw, columns), columns, raw.source


def sequences(path: str | Path, columns: Columns) -> tuple[Encoded, Columns, Source]:
    """One user a line."""
    raw = scan_sequences(path, user=columns.user, item=columns.item)
    return encode(raw, columns), columns, raw.source


def recbole(
    path: str | Path, columns: Columns
) -> tuple[Encoded, Columns, Source, pl.DataFrame | None, pl.DataFrame | None]:
    """RecBole atomic files, with the features of users and items."""
    files = atomic_files(path)
    raw, types = scan_atomic(files["inter"])
    absent = {name: None for name in ("timestamp", "rating") if getattr(columns, name) == name and name not in types}
    columns = columns.model_copy(update=absent)
    user_features = read_features(files["user"], columns.user) if "user" in files else None
    item_features = read_features(files["item"], columns.item) if "item" in files else None
    return encode(raw, columns), columns, raw.source, user_features, item_features


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
