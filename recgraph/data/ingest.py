"""Encoding: from a raw log to a log of indices and the maps of its ids.

Polars' streaming engine scans the raw log several times and never holds it as a whole: first for the keys of ids, by
which they are numbered (:mod:`recgraph.data.numbering`), then for the ids, then for all else. What stays in memory is
the encoded log, about 20 to 30 bytes an interaction. (A frame is in memory already, or is brought there first.)
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from recgraph.data.columns import Columns, TimeUnit, check_times, time_readings, to_integers
from recgraph.data.diagnose import collect
from recgraph.data.errors import OR_DROP, DataError, EmptyLogError, MissingIdError, MixedIdError, RatingError
from recgraph.data.ids import FOR_MISSING, IdMap, as_integers, owned, whole_floats
from recgraph.data.kinds import check_numbers, plain_columns
from recgraph.data.numbering import Numbers, number_integers, number_keys
from recgraph.data.readers import check_columns
from recgraph.data.source import Raw, Source
from recgraph.texts import listed

__all__ = ["MissingIds", "encode", "with_parts"]

Codes = npt.NDArray[np.int32]
MissingIds = Literal["error", "drop"]
_log = logging.getLogger(__name__)

#: the row number in the raw log, which may have a column "row" of its own
_ROW = "__row"
#: not known to all that ids are handed to
_NO_IDS = (pl.Object, pl.Int128, pl.UInt128, pl.Duration, pl.Unknown)
#: days of the years 1 to 9999 since 1970, those that Python has
_FIRST_DAY, _LAST_DAY = -719_162, 2_932_896
_OF_A_DAY = {"ms": 86_400 * 10**3, "us": 86_400 * 10**6, "ns": 86_400 * 10**9}


def encode(
    raw: Raw, columns: Columns, time_format: str | None = None, missing_ids: MissingIds = "error"
) -> tuple[pl.DataFrame, IdMap, IdMap, TimeUnit]:
    """Encode a log.

    Args:
        raw: the log.
        columns: the names of its columns.
        time_format: of timestamps that are texts, in the letters of ``strftime``; None: see
            :func:`recgraph.data.columns.time_readings`.
        missing_ids: ``"drop"`` leaves out rows without a user or an item, and logs how many; else they are an error.

    Returns:
        the log, with the columns ``row`` (of the file), ``user``, ``item`` (indices in the order of first appearance)
        and, where given, ``time``, ``rating``, ``weight``, ``part``; the ids of users; those of items; the unit of
        ``time``.

    Raises:
        DataError: one of its subclasses, for what is wrong with the log.
    """
    check_columns(raw, columns)
    if columns.user == columns.item:
        raise DataError(f"user = {columns.user!r} and item = {columns.item!r} must be two columns")
    lazy = raw.lazy.select(columns.named()).with_row_index(_ROW)
    lazy = _plain_columns(lazy, columns, raw.source)
    if missing_ids == "drop":
        lazy = _without_missing(lazy, columns, raw)
    elif missing_ids != "error":
        raise ValueError(f"missing_ids = {missing_ids!r} must be 'error' or 'drop'")
    numbered = _numbered(lazy, columns, raw.source)
    users, user = _ids(lazy, columns.user, "user", raw, *numbered[0])
    if not len(users):
        has_header = raw.source.format == "delimited" and raw.source.has_header
        what = "a header" if has_header else "an empty log"
        raise raw.source.error(EmptyLogError, f"there is no interaction, only {what}")
    items, item = _ids(lazy, columns.item, "item", raw, *numbered[1])
    log, unit = _collect_log(lazy, {"user": user, "item": item}, raw.source, columns, time_format)
    if raw.ends:
        log = with_parts(log, raw.ends)
    return log, _id_map(users, raw, columns.user), _id_map(items, raw, columns.item), unit


def with_parts(log: pl.DataFrame, ends: Sequence[int]) -> pl.DataFrame:
    """The log with the column ``part``: how many of the parts (train, valid, test) end before a row."""
    parts = np.searchsorted(ends, log["row"].to_numpy(), side="right")
    return log.with_columns(pl.Series("part", parts.astype(np.uint8)))


def _plain_columns(lazy: pl.LazyFrame, columns: Columns, source: Source) -> pl.LazyFrame:
    """Ids and times of plain types, see :func:`plain_columns`.

    Raises:
        MixedIdError: a column of ids holds values of a type that stands for no id.
    """
    lazy = plain_columns(lazy, columns)
    schema = lazy.collect_schema()
    for role, name in (("user", columns.user), ("item", columns.item)):
        dtype = schema[name]
        if dtype.is_nested() or dtype.is_decimal() or dtype in _NO_IDS:
            message = f"the {role} ids (column {name!r}) are of type {dtype}; make them integers or texts"
            raise source.error(MixedIdError, message)
    return lazy


def _is_missing(column: str, dtype: pl.DataType, as_text: bool) -> pl.Expr:
    """Whether a row has no id; in a text file an empty field is none, in quotes (which polars keeps) or not."""
    value = pl.col(column)
    if as_text and dtype == pl.String:
        return value.is_null() | (value == "").fill_null(False)
    return value.is_null() | value.is_nan().fill_null(False) if dtype.is_float() else value.is_null()


def _without_missing(lazy: pl.LazyFrame, columns: Columns, raw: Raw) -> pl.LazyFrame:
    """The rows that have a user and an item; how many have not is logged."""
    schema = lazy.collect_schema()
    missing = pl.any_horizontal(
        _is_missing(name, schema[name], raw.as_text).alias(role)
        for role, name in (("user", columns.user), ("item", columns.item))
    )
    found = collect(lazy.filter(missing).select(_ROW), raw.source)[_ROW]
    if not len(found):
        return lazy
    first = raw.source.place(int(found[0]))
    _log.warning("%s: %s rows without a user or an item are left out, the first of them here", first, f"{len(found):,}")
    return lazy.filter(~missing)


def _numbered(lazy: pl.LazyFrame, columns: Columns, source: Source) -> list[tuple[pl.DataFrame, Codes]]:
    """For users and items: the unique ids with the row of their first appearance, in that order; each row's number.

    Integers are their own keys; all else is told apart by 96 bits of two hashes, so that of a million ids two are taken
    for one with a probability of 6e-18. The seeds are secret and drawn anew for each column, so that a file cannot be
    made for them; numbers go by first appearance and do not depend on them.
    """
    names, schema = (columns.user, columns.item), lazy.collect_schema()
    keys = collect(lazy.select(*(_key(name, schema[name]) for name in names)), source)
    # a column is given up as soon as it is numbered
    numbers = [_number(keys.drop_in_place(name)) for name in names]
    firsts = [
        pl.Series(f"__first_{role}", _mask(len(number.codes), number.first))
        for role, number in zip(("user", "item"), numbers, strict=True)
    ]
    both = pl.concat([lazy.select(_ROW, *names), pl.LazyFrame(firsts)], how="horizontal")
    found = collect(both.filter(pl.any_horizontal(series.name for series in firsts)), source)
    return [
        (found.filter(series.name).select(name, _ROW), number.codes)
        for name, series, number in zip(names, firsts, numbers, strict=True)
    ]


def _mask(rows: int, places: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    mask = np.zeros(rows, dtype=np.bool_)
    mask[places] = True
    return mask


def _key(column: str, dtype: pl.DataType) -> pl.Expr:
    """What tells the values of a column apart: integers themselves, or two hashes."""
    value = pl.col(column)
    if dtype.is_integer():
        return value
    if dtype == pl.Binary:  # the hash of bytes that hold certain constants is the same whatever the seed; no text does
        value = value.bin.encode("hex")
    key, check = (value.hash(secrets.randbits(64)) for _ in range(2))
    return pl.struct(key=key, check=check.cast(pl.UInt32, wrap_numerical=True)).alias(column)


def _number(keys: pl.Series) -> Numbers:
    """The numbers of keys of :func:`_key`."""
    if keys.null_count():  # an integer that is missing has no number of its own
        keys = keys.to_frame().select(_key(keys.name, pl.String())).to_series()
    if keys.dtype == pl.Struct:
        return number_keys(keys.struct.field("key").to_numpy(), keys.struct.field("check").to_numpy())
    return number_integers(keys.to_numpy())


def _ids(
    lazy: pl.LazyFrame, column: str, role: str, raw: Raw, found: pl.DataFrame, codes: Codes
) -> tuple[pl.DataFrame, Codes]:
    """Check the unique ids of a column; where they are whole floats, make them integers.

    Raises:
        MissingIdError: an id is missing.
    """
    dtype = found[column].dtype
    missing = found.filter(_is_missing(column, dtype, raw.as_text))
    if len(missing):
        is_nan = dtype.is_float() and missing[column].null_count() == 0
        raise _missing_id(lazy, column, role, raw, "NaN" if is_nan else "missing")
    _check_calendar(found, column, role, raw.source)
    _warn_of_words(found, codes, column, role, raw.source)
    _warn_of_blanks(found, column, role, raw.source)
    whole = None if _stays_text(raw, column, dtype) else whole_floats(found[column])
    if whole is None:
        return found, codes
    _log.info(
        "%s: the %s ids (column %r) are whole floats, such as %s; they are read as integers",
        _named(raw.source),
        role,
        column,
        found[column].filter(whole)[0],
    )
    integers = found.with_columns(as_integers(pl.col(column), dtype))
    # of texts, "1000" and "1000.0" are one id
    again = _number(integers.select(_key(column, integers[column].dtype)).to_series())
    return integers[again.first], again.codes[codes]


def _stays_text(raw: Raw, column: str, dtype: pl.DataType) -> bool:
    """Whether ids stay texts as written: those of text files alone may stand for integers."""
    return dtype == pl.String and (column in raw.texts or not raw.as_text)


def _warn_of_words(found: pl.DataFrame, codes: Codes, column: str, role: str, source: Source) -> None:
    """Log that an id is a word for a missing one: all rows without an id would be those of one user, or item."""
    if found[column].dtype != pl.String:
        return
    is_word = found[column].is_in(FOR_MISSING)
    if not is_word.any():
        return
    words = found.filter(is_word)
    rows = int(np.isin(codes, np.flatnonzero(is_word.to_numpy())).sum())
    _log.warning(
        "%s: the %s id %r (column %r) is a word for a missing one; it is taken for an id, in %s rows%s; leave them out "
        "of the log where it is none",
        source.place(int(words[_ROW][0])),
        role,
        words[column][0],
        column,
        f"{rows:,}",
        "" if len(words) == 1 else f" with {listed(words[column][1:])}",
    )


def _warn_of_blanks(found: pl.DataFrame, column: str, role: str, source: Source) -> None:
    """Log that an id has blanks around it: `` 12`` is another user, or item, than ``12``."""
    if found[column].dtype != pl.String:
        return
    padded = found.filter(pl.col(column).str.strip_chars() != pl.col(column))
    if not len(padded):
        return
    fix = "take them out of the log where they mean nothing"
    if source.format == "delimited" and len(source.separator) == 1:
        fix += f"; where each separator has one, separator={source.separator + ' '!r} reads it with it (--separator)"
    _log.warning(
        "%s: the %s id %r (column %r) has blanks around it, as %s of %s ids have; they belong to the id, which is "
        "another one than %r; %s",
        source.place(int(padded[_ROW][0])),
        role,
        padded[column][0],
        column,
        f"{len(padded):,}",
        f"{len(found):,}",
        padded[column][0].strip(),
        fix,
    )


def _check_calendar(found: pl.DataFrame, column: str, role: str, source: Source) -> None:
    """Refuse ids that are dates of no year that Python has: they could not be handed out."""
    dtype = found[column].dtype
    if not isinstance(dtype, pl.Date | pl.Datetime):
        return
    size = _OF_A_DAY[dtype.time_unit] if isinstance(dtype, pl.Datetime) else 1
    days = pl.col(column).to_physical().cast(pl.Int64) // size
    outside = found.filter((days < _FIRST_DAY) | (days > _LAST_DAY))
    if len(outside):
        message = f"the {role} id (column {column!r}) is a date beyond the years 1 to 9999; make the ids texts"
        raise source.error(MixedIdError, message, row=int(outside[_ROW][0]))


def _missing_id(lazy: pl.LazyFrame, column: str, role: str, raw: Raw, what: str) -> MissingIdError:
    source, is_missing = raw.source, _is_missing(column, lazy.collect_schema()[column], raw.as_text)
    rows = collect(lazy.filter(is_missing).select(_ROW), source)[_ROW]
    others = f" ({len(rows):,} rows have none; {_also(rows, source)})" if len(rows) > 1 else ""
    return source.error(
        MissingIdError, f"the {role} id (column {column!r}) is {what}{others}; fill them in{OR_DROP}", row=int(rows[0])
    )


def _also(rows: pl.Series, source: Source) -> str:
    """The places of the rows that follow the first, in words."""
    shown = ", ".join(source.place(int(row)).rpartition(", ")[2] for row in rows[1:4])
    return f"further ones: {shown}{', ...' if len(rows) > 4 else ''}"


def _named(source: Source) -> str:
    return "frame" if source.path is None else str(source.path)


def _id_map(unique: pl.DataFrame, raw: Raw, column: str) -> IdMap:
    values = unique[column]
    if column in raw.uuids:
        return IdMap(values, as_uuid=True)
    if raw.as_text and not _stays_text(raw, column, values.dtype):
        numbers = values.cast(pl.Int64, strict=False)
        # only where nothing is lost: "007" and "+7" stay texts
        plain = numbers.cast(pl.String).eq(values).fill_null(False)
        if plain.all():
            return IdMap(numbers)
        _warn_of_stray_texts(unique, plain, column, raw.source)
    return IdMap(values)


def _warn_of_stray_texts(unique: pl.DataFrame, plain: pl.Series, column: str, source: Source) -> None:
    """Log the first id that keeps a column of integers a column of texts."""
    others = unique.filter(~plain)
    if int(plain.sum()) <= len(others):
        return
    _log.warning(
        "%s: the id %r (column %r) is no plain integer, as %s of %s ids are; all ids of the column stay texts, "
        "so that 1000 is '1000'",
        source.place(int(others[_ROW][0])),
        others[column][0],
        column,
        f"{int(plain.sum()):,}",
        f"{len(unique):,}",
    )


def _collect_log(
    lazy: pl.LazyFrame, codes: Mapping[str, Codes], source: Source, columns: Columns, time_format: str | None
) -> tuple[pl.DataFrame, TimeUnit]:
    picked = [pl.col(_ROW).alias("row")]
    numbers = {"rating": columns.rating, "weight": columns.weight}
    check_numbers(lazy, numbers, source)
    schema = lazy.collect_schema()
    picked += [_number_of(name, schema[name]).alias(role) for role, name in numbers.items() if name is not None]
    tried = [None] if columns.timestamp is None else time_readings(lazy, columns.timestamp, source, time_format)
    for reading in tried:
        wanted = picked if reading is None else [*picked, reading.expression.alias("time")]
        log = collect(lazy.select(wanted), source)
        if reading is None or log["time"].null_count() == 0:
            break
    log = log.select("row", *(pl.Series(role, own) for role, own in codes.items()), pl.exclude("row"))
    for role, name in numbers.items():
        if name is not None:
            _check_numbers(log, role, name, lazy, source)
    unit: TimeUnit = "none"
    if reading is not None:
        assert columns.timestamp is not None
        log, unit = to_integers(log, reading.unit)
        check_times(log, columns.timestamp, lazy, source, unit)
    return (_with_own_values(log) if source.format == "frame" else log), unit


def _number_of(name: str, dtype: pl.DataType) -> pl.Expr:
    value = pl.col(name).str.strip_chars() if dtype == pl.String else pl.col(name)
    return value.cast(pl.Float64, strict=False)


def _with_own_values(log: pl.DataFrame) -> pl.DataFrame:
    """The log with copies of the columns that may lie in a frame's own memory, into which its owner may write."""
    own = [name for name in ("time", "rating", "weight") if name in log.columns]
    return log.with_columns(owned(log[name]) for name in own)


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
        without = "; a log is also read without: rating='none' (--rating none)" if role == "rating" else ""
        raise source.error(RatingError, f"the {role} {given!r} (column {name!r}) is not {wanted}{without}", row=row)
