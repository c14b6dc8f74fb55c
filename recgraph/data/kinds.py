"""Columns whose files have different types: integers and floats, Int64 and UInt64, categories and texts, zones of time.

polars would join numbers as Float64, which merges integers above 2^53, or as Int128, which ids cannot have; and dates
beside integers as the integers that it holds them as.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import polars as pl

from recgraph.data.columns import Columns
from recgraph.data.diagnose import collect
from recgraph.data.errors import MixedIdError, RatingError, TimestampError
from recgraph.data.ids import first_ambiguous, plain_type
from recgraph.data.source import Raw, Source

__all__ = ["check_ids", "check_numbers", "ids_of_one_kind", "plain_columns", "times_of_one_kind"]


def plain_columns(lazy: pl.LazyFrame, columns: Columns) -> pl.LazyFrame:
    """Columns of plain types (categories are of a file's own, and become texts); of times with fractions and of
    numbers, decimals become floats."""
    schema = lazy.collect_schema()
    casts = {}
    for name in columns.named():
        dtype, wanted = schema[name], plain_type(schema[name])
        if isinstance(dtype, pl.Decimal) and name not in (columns.user, columns.item):
            wanted = pl.Int64() if name == columns.timestamp and dtype.scale == 0 else pl.Float64()
        if wanted != dtype:
            casts[name] = pl.col(name).cast(wanted)
    return lazy.with_columns(casts.values())


def check_ids(raw: Raw, columns: Columns) -> None:
    """Refuse ids that would be read as others: decimals that are no integers, and floats that may stand for several.

    Raises:
        MixedIdError: names the column, the id and its row.
    """
    schema = raw.lazy.collect_schema()
    for name in (columns.user, columns.item):
        dtype, value = schema[name], pl.col(name)
        if isinstance(dtype, pl.Decimal):
            whole = value.cast(pl.Int64, strict=False)
            is_other = whole.is_null() | (whole.cast(dtype, strict=False) != value)
            _refuse(raw, name, is_other & value.is_not_null(), "no integer of 64 bits; make the ids integers or texts")
        elif dtype.is_float():
            given = value.fill_nan(None).drop_nulls()
            is_whole = ((given.round() == given) & given.is_finite()).all()
            if collect(raw.lazy.select(is_whole), raw.source).item():
                what = "a float that may stand for several integers; read the column as integers of 64 bits or as texts"
                _refuse(raw, name, value.fill_nan(None).abs() >= first_ambiguous(dtype), what)


def _refuse(raw: Raw, name: str, is_wrong: pl.Expr, what: str) -> None:
    found = collect(raw.lazy.select(name).with_row_index("__row").filter(is_wrong).head(1), raw.source)
    for row, value in found.iter_rows():
        raise raw.source.error(MixedIdError, f"column {name!r} holds {value!r}, which is {what}", row=row)


def check_numbers(lazy: pl.LazyFrame, numbers: Mapping[str, str | None], source: Source) -> None:
    """Refuse ratings and weights of a type that holds no numbers; texts are read, and categories as texts.

    Args:
        numbers: role -> column, or None.

    Raises:
        RatingError: names the column, its role and type.
    """
    schema = lazy.collect_schema()
    for role, name in numbers.items():
        if name is None:
            continue
        dtype = plain_type(schema[name])
        if not (dtype.is_numeric() or dtype in (pl.Boolean, pl.String, pl.Null)):
            raise source.error(RatingError, f"column {name!r} (the {role}) of type {dtype} holds no numbers")


def ids_of_one_kind(raws: Sequence[Raw], name: str) -> list[Raw]:
    """The column ``name`` of ids as Int64, where the files have different types of numbers.

    Raises:
        MixedIdError: an id does not fit Int64; names the file.
    """
    dtypes = [raw.lazy.collect_schema()[name] for raw in raws]
    if not _are_mixed(dtypes):
        return list(raws)
    for raw, dtype in zip(raws, dtypes, strict=True):
        lost = collect(raw.lazy.select(name).filter(_lost(name, dtype)).head(1), raw.source)
        if len(lost):
            message = f"column {name!r} holds {lost.item()!r}, in other files integers; write one type in all files: "
            raise raw.source.error(MixedIdError, message + "integers of 64 bits, or texts")
    return [_as_integers(raw, name) for raw in raws]


def times_of_one_kind(raws: Sequence[Raw], name: str) -> list[Raw]:
    """The column ``name`` of times as Int64, where some files have integers and all others whole floats.

    Where zones differ, all are in UTC.

    Raises:
        TimestampError: one file has dates and another numbers; names the latter.
    """
    dtypes = [raw.lazy.collect_schema()[name] for raw in raws]
    has_dates = any(dtype.is_temporal() for dtype in dtypes)
    for raw, dtype in zip(raws, dtypes, strict=True):
        if has_dates and dtype.is_numeric():
            message = f"the timestamps (column {name!r}) are of type {dtype}, those of others dates; write one kind"
            raise raw.source.error(TimestampError, message)
    if len({dtype.time_zone for dtype in dtypes if isinstance(dtype, pl.Datetime)}) > 1:
        return [_in_utc(raw, name, dtype) for raw, dtype in zip(raws, dtypes, strict=True)]
    floats = [raw for raw, dtype in zip(raws, dtypes, strict=True) if dtype.is_float()]
    if not _are_mixed(dtypes):
        return list(raws)
    value = pl.col(name).fill_nan(None)
    fractions = (raw.lazy.select((value.round() != value).any()) for raw in floats)
    if any(collect(lazy, raw.source).item() for lazy, raw in zip(fractions, floats, strict=True)):
        return list(raws)  # seconds, which become microseconds
    return [_as_integers(raw, name) for raw in raws]


def _are_mixed(dtypes: Sequence[pl.DataType]) -> bool:
    integers = [dtype for dtype in dtypes if dtype.is_integer()]
    has_signed = any(dtype.is_signed_integer() for dtype in integers)
    has_floats = any(dtype.is_float() for dtype in dtypes)
    return bool(integers) and (has_floats or (has_signed and pl.UInt64 in integers))


def _lost(name: str, dtype: pl.DataType) -> pl.Expr:
    """Whether an id does not fit Int64, or is a float so large that it may stand for several integers."""
    value = pl.col(name)
    if dtype.is_float():
        value = value.fill_nan(None)
        return (value.round() != value) | (value.abs() >= first_ambiguous(dtype))
    return value.cast(pl.Int64, strict=False).is_null() & value.is_not_null()


def _as_integers(raw: Raw, name: str) -> Raw:
    return replace(raw, lazy=raw.lazy.with_columns(pl.col(name).cast(pl.Int64, strict=False)))


def _in_utc(raw: Raw, name: str, dtype: pl.DataType) -> Raw:
    """The column without its zone, in UTC; one without a zone is taken for UTC."""
    if not isinstance(dtype, pl.Datetime) or dtype.time_zone is None:
        return raw
    moments = pl.col(name).dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return replace(raw, lazy=raw.lazy.with_columns(moments))
