"""From a raw log to integers: unique ids in order of first appearance, and a log of indices.

The raw log is scanned several times by polars' streaming engine and never held as a whole; what stays in
memory is the encoded log, about 20 to 30 bytes an interaction.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from recgraph.data.columns import Columns
from recgraph.data.errors import (
    DataError,
    EmptyLogError,
    MissingColumnError,
    MissingIdError,
    RatingError,
)
from recgraph.data.ids import IdMap
from recgraph.data.readers.diagnose import collect
from recgraph.data.source import Raw, Source
from recgraph.data.timestamps import TimeUnit, candidates, check_times, to_integers

__all__ = ["Encoded", "encode"]

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
