"""Encoding: from a raw log to a log of indices and the maps of its ids.

Polars' streaming engine scans the raw log several times and never holds it as a whole. What stays in memory is the
encoded log, about 20 to 30 bytes an interaction.
"""

from __future__ import annotations

import polars as pl

from recgraph.data.columns import Columns, TimeUnit, check_times, time_readings, to_integers
from recgraph.data.diagnose import Raw, Source, collect
from recgraph.data.errors import DataError, EmptyLogError, MissingColumnError, MissingIdError, RatingError
from recgraph.data.ids import IdMap

__all__ = ["encode"]

#: the row number in the raw log, which may have a column "row" of its own
_ROW = "__row"


def encode(raw: Raw, columns: Columns) -> tuple[pl.DataFrame, IdMap, IdMap, TimeUnit]:
    """Encode a log.

    Returns:
        the log, with the columns ``row`` (of the file), ``user``, ``item`` (indices in the order of first appearance)
        and, where given, ``time``, ``rating``, ``weight``; the ids of users; those of items; the unit of ``time``.

    Raises:
        DataError: one of its subclasses, for what is wrong with the log.
    """
    _check_columns(raw, columns)
    lazy = raw.lazy.select(columns.named()).with_row_index(_ROW)
    lazy = _categories_as_texts(lazy, columns)
    users = _unique(lazy, columns.user, "user", raw)
    if not len(users):
        has_header = raw.source.format == "delimited" and raw.source.has_header
        what = "a header" if has_header else "an empty log"
        raise raw.source.error(EmptyLogError, f"there is no interaction, only {what}")
    items = _unique(lazy, columns.item, "item", raw)
    coded = _join(_join(lazy, users, columns.user, "user"), items, columns.item, "item")
    log, unit = _collect_log(coded, lazy, raw.source, columns)
    return log, _id_map(users, raw, columns.user), _id_map(items, raw, columns.item), unit


def _check_columns(raw: Raw, columns: Columns) -> None:
    """Refuse a column that does not exist, listing those that do."""
    there = raw.lazy.collect_schema().names()
    missing = [name for name in columns.named() if name not in there]
    if missing:
        message = f"there is no column {missing[0]!r}; the columns are {', '.join(map(repr, there))}"
        raise raw.source.error(MissingColumnError, message)
    if columns.user == columns.item:
        raise DataError(f"user = {columns.user!r} and item = {columns.item!r} must be two columns")


def _categories_as_texts(lazy: pl.LazyFrame, columns: Columns) -> pl.LazyFrame:
    schema = lazy.collect_schema()
    ids = [columns.user, columns.item]
    return lazy.with_columns(
        pl.col(name).cast(pl.String) for name in ids if isinstance(schema[name], pl.Categorical | pl.Enum)
    )


def _unique(lazy: pl.LazyFrame, column: str, role: str, raw: Raw) -> pl.DataFrame:
    """The unique ids with the row of their first appearance, in that order."""
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
    tried = time_readings(lazy, columns.timestamp, source) if columns.timestamp is not None else [None]
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
