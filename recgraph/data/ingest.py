"""Encoding: from a table of a user's ids to a log of indices and the maps of its ids."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
import polars as pl

from recgraph.data.columns import TimeUnit, times_of
from recgraph.data.errors import DataError, EmptyLogError, MissingIdError, MixedIdError, RatingError, TimestampError
from recgraph.data.ids import IdMap, integers_of, numbered, owned, plain_series
from recgraph.data.log_file import Table
from recgraph.data.reading import MissingIds

#: types that are none of ids
_NO_IDS = (pl.Object, pl.Int128, pl.UInt128, pl.Duration, pl.Unknown)
_log = logging.getLogger(__name__)


def encode(
    table: Table, time_format: str | None = None, missing_ids: MissingIds = "error"
) -> tuple[pl.DataFrame, IdMap, IdMap, TimeUnit]:
    """Encode a log.

    Args:
        table: the log.
        time_format: of timestamps that are texts, in the letters of ``strftime``.
        missing_ids: ``"drop"`` leaves out rows without a user or an item, and logs how many; else they are an error.

    Returns:
        the log, with the columns ``row`` (of the table), ``user``, ``item`` (indices in the order of first appearance)
        and, where given, ``time``, ``rating``, ``weight``, ``part``; the ids of users; those of items; the unit of
        ``time``.

    Raises:
        DataError: one of its subclasses, for what is wrong with the log.
    """
    columns, source = table.columns, table.source
    if columns.user == columns.item:
        raise DataError(f"user = {columns.user!r} and item = {columns.item!r} must be two columns")
    frame = table.frame.with_row_index("__row")
    ids = [_plain_ids(frame[name], table) for name in (columns.user, columns.item)]
    missing = [_missing(each, table.as_text) for each in ids]
    if missing_ids == "drop" and (n_missing := int((missing[0] | missing[1]).sum())):
        _log.warning("%s: %s rows without a user or an item are left out", source.path or "frame", f"{n_missing:,}")
        kept = ~(missing[0] | missing[1])
        frame, ids = frame.filter(kept), [each.filter(kept) for each in ids]
    elif missing_ids != "drop":
        for each, mask in zip(ids, missing, strict=True):
            if mask.any():
                raise source.error(
                    MissingIdError,
                    f"column {each.name!r} has no id, as have {int(mask.sum()):,} rows; fill them in, or leave such "
                    "rows out with missing_ids='drop' (--drop-missing-ids)",
                    row=int(mask.arg_max() or 0),
                )
    if not len(frame):
        raise source.error(EmptyLogError, "there is no interaction")
    rows = frame["__row"].cast(pl.UInt32)
    user, users = _encoded(ids[0], table, rows)
    item, items = _encoded(ids[1], table, rows)
    log = pl.DataFrame([rows.alias("row"), pl.Series("user", user), pl.Series("item", item)])
    for role, name in (("rating", columns.rating), ("weight", columns.weight)):
        if name is not None:
            log = log.with_columns(_numbers(frame[name], role, table, rows).alias(role))
    unit: TimeUnit = "none"
    if columns.timestamp is not None:
        times, unit = _times(frame[columns.timestamp], time_format, table, rows)
        log = log.with_columns(times.alias("time"))
    return (with_parts(log, table.ends) if table.ends else log), users, items, unit


def with_parts(log: pl.DataFrame, ends: tuple[int, ...] | list[int]) -> pl.DataFrame:
    """The log with the column ``part``: how many of the parts (train, valid, test) end before a row."""
    parts = np.searchsorted(ends, log["row"].to_numpy(), side="right")
    return log.with_columns(pl.Series("part", parts.astype(np.uint8)))


def _plain_ids(ids: pl.Series, table: Table) -> pl.Series:
    plain = plain_series(ids)
    if plain.dtype.is_nested() or plain.dtype in _NO_IDS:
        raise table.source.error(MixedIdError, f"the ids in column {ids.name!r} are of type {ids.dtype}")
    if plain.null_count() > ids.null_count():
        row = int((plain.is_null() & ids.is_not_null()).arg_max() or 0)
        raise table.source.error(MixedIdError, f"column {ids.name!r} holds {ids[row]!r}, no integer id", row=row)
    return plain


def _missing(ids: pl.Series, as_text: bool) -> pl.Series:
    """[T] bool: whether a row has no id; in a text file an empty field is none, in quotes or not."""
    if as_text and ids.dtype == pl.String:
        return ids.is_null() | (ids == "").fill_null(False)
    return ids.is_null() | ids.is_nan().fill_null(False) if ids.dtype.is_float() else ids.is_null()


def _encoded(ids: pl.Series, table: Table, rows: pl.Series) -> tuple[npt.NDArray[np.int32], IdMap]:
    """The number of each row's id, and the ids; whole floats, and plain integers of a text file, become integers."""
    if ids.dtype.is_float() or (ids.dtype == pl.String and table.as_text):
        integers = integers_of(ids)
        if integers is None and ids.dtype.is_float() and bool(((ids.round() == ids) & ids.is_finite()).all()):
            row = int(ids.abs().arg_max() or 0)
            message = f"column {ids.name!r} holds {ids[row]!r}, a float that may stand for several integers"
            raise table.source.error(MixedIdError, f"{message}; read it as integers or texts", row=int(rows[row]))
        ids = ids if integers is None else integers
    codes, unique = numbered(ids)
    return codes, IdMap(unique, as_uuid=ids.name in table.uuids)


def _numbers(given: pl.Series, role: str, table: Table, rows: pl.Series) -> pl.Series:
    """Ratings, or weights of at least 0."""
    texts = given.cast(pl.String) if isinstance(given.dtype, pl.Categorical | pl.Enum) else given
    if not (texts.dtype.is_numeric() or texts.dtype in (pl.Boolean, pl.String, pl.Null)):
        raise table.source.error(RatingError, f"column {given.name!r} (the {role}) of type {given.dtype}: no numbers")
    values = (texts.str.strip_chars() if texts.dtype == pl.String else texts).cast(pl.Float64, strict=False)
    wrong = ~values.is_finite().fill_null(False)
    if role == "weight":
        wrong |= (values < 0).fill_null(False)
    if wrong.any():
        row = int(wrong.arg_max() or 0)
        wanted = "a number" if role == "rating" else "a number of at least 0"
        message = f"the {role} {given[row]!r} (column {given.name!r}) is not {wanted}"
        raise table.source.error(RatingError, message, row=int(rows[row]))
    return owned(values)


def _times(given: pl.Series, time_format: str | None, table: Table, rows: pl.Series) -> tuple[pl.Series, TimeUnit]:
    texts = given.cast(pl.String) if isinstance(given.dtype, pl.Categorical | pl.Enum) else given
    try:
        times, unit = times_of(texts, time_format)
    except ValueError as error:
        raise table.source.error(TimestampError, f"column {given.name!r} holds no timestamps: {error}") from None
    if times.null_count():
        row = int(times.is_null().arg_max() or 0)
        how = f"by time_format={time_format!r}" if time_format else "as a number or ISO 8601; see time_format="
        message = f"the timestamp {given[row]!r} (column {given.name!r}) cannot be read {how}"
        raise table.source.error(TimestampError, message, row=int(rows[row]))
    return owned(times), unit
