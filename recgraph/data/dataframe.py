"""Frames of pandas, polars and arrow, in and out (the same kind goes out that came in), and side information."""

from __future__ import annotations

import datetime as dt
import logging
from typing import Any, Literal, cast

import narwhals as nw
import numpy as np
import polars as pl

from recgraph.data.columns import Columns
from recgraph.data.errors import DataError, DuplicateColumnError, MissingColumnError, MixedIdError, listed
from recgraph.data.ids import DATES, IdMap, family, integers_of, is_missing, plain_series, python_types, same_moments
from recgraph.data.log_file import Source, Table

FrameKind = Literal["pandas", "polars", "pyarrow"]
_KINDS = ("pandas", "polars", "pyarrow")
_log = logging.getLogger(__name__)


def frame_kind(frame: Any, argument: str = "frame") -> FrameKind:
    """The library of a frame."""
    try:
        kind = nw.from_native(frame).implementation.value
    except nw.exceptions.DuplicateError:
        names = [str(name) for name in frame.columns]
        twice = next(name for name in names if names.count(name) > 1)
        raise DuplicateColumnError(f"{argument} has the column {twice!r} twice; rename one") from None
    except TypeError:
        kind = type(frame).__name__
    if kind not in _KINDS:
        raise ValueError(f"{argument} is a {kind}; give a frame of {', '.join(_KINDS)}")
    return cast(FrameKind, kind)


def names_of(frame: Any) -> list[str]:
    """The names of a frame's columns; those of pandas need not be texts."""
    return [str(name) for name in nw.from_native(frame).collect_schema().names()]


def table_of(frame: Any, columns: Columns) -> Table:
    """The named columns of a frame of pandas, polars (a lazy one is collected) or pyarrow."""
    uuids: set[str] = set()
    read = _read(frame, columns.named(), (columns.user, columns.item), uuids)
    return Table(read, columns, Source(), uuids=frozenset(uuids))


def from_native(frame: Any, argument: str = "frame") -> pl.DataFrame:
    """All columns of a frame as polars."""
    frame_kind(frame, argument)
    return _read(frame, names_of(frame))


def _read(frame: Any, names: list[str], ids: tuple[str, ...] = (), uuids: set[str] | None = None) -> pl.DataFrame:
    frame_kind(frame)
    own = {str(name): name for name in nw.from_native(frame).collect_schema().names()}
    if missing := [name for name in names if name not in own]:
        raise MissingColumnError(f"there is no column {missing[0]!r}; the columns are {listed(own)}")
    if isinstance(frame, pl.LazyFrame):
        return frame.select(names).collect()
    table = nw.from_native(frame, eager_only=True)
    columns = [_to_polars(table.get_column(own[name]), name, name in ids, uuids) for name in dict.fromkeys(names)]
    return pl.DataFrame(columns)


def _to_polars(column: nw.Series[Any], name: str, is_id: bool, uuids: set[str] | None) -> pl.Series:
    if column.dtype not in (nw.Object, nw.Unknown):
        try:
            return column.to_polars().alias(name)
        # columns of pandas that are no plain arrays need pyarrow, which infers a type from the first values alone and
        # raises one of these errors for others: read them value by value
        except (ImportError, TypeError, ValueError, NotImplementedError, pl.exceptions.PolarsError):
            pass
    missing = column.is_null().to_list()
    values = [None if gone or is_missing(value) else value for gone, value in zip(missing, column, strict=True)]
    values = [value.tolist() if isinstance(value, _UNWRAPPED) else value for value in values]
    values = [value.astype("datetime64[us]").item() if isinstance(value, np.datetime64) else value for value in values]
    return _from_objects(values, name, is_id, uuids)


#: NumPy values that are converted to Python's; not its datetimes, whose nanoseconds would become integers
_UNWRAPPED = (np.ndarray, np.number, np.bool_, np.str_)


def _from_objects(values: list[Any], name: str, is_id: bool, uuids: set[str] | None) -> pl.Series:
    """A column of Python objects: one type, or an error that names the first value of another."""
    types = python_types(values)
    if types == {"int", "float"}:
        is_whole = all(value is None or isinstance(value, int) or value.is_integer() for value in values)
        make = int if is_id and is_whole else float
        values, types = [None if value is None else make(value) for value in values], {make.__name__}
    if types == {"date", "datetime"} or types == {"date", "Timestamp"}:
        values = [_moment(value) for value in values]
        types = {"datetime"}
    if types == {"UUID"}:
        if uuids is not None:
            uuids.add(name)
        values = [None if value is None else str(value) for value in values]
    if is_id and len(types) > 1:
        first = next(value for value in values if value is not None)
        row = next(i for i, value in enumerate(values) if value is not None and type(value) is not type(first))
        message = f"column {name!r} holds {values[row]!r} and {first!r}; bring all ids to one type"
        raise MixedIdError(message, row=row)
    try:
        return pl.Series(name, values)
    except (TypeError, OverflowError, UnicodeEncodeError, pl.exceptions.PolarsError) as error:
        raise DataError(f"column {name!r} of {', '.join(sorted(types))} cannot be read: {error}") from None


def _moment(value: dt.date | None) -> dt.datetime | None:
    """A date as the beginning of its day."""
    is_day = value is not None and not isinstance(value, dt.datetime)
    return dt.datetime.combine(value, dt.time()) if is_day else value  # type: ignore[arg-type, return-value]


def without_categories(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with columns of categories, also in lists, as columns of texts."""
    wanted = {name: _of_texts(dtype) for name, dtype in frame.schema.items()}
    return frame.cast({name: dtype for name, dtype in wanted.items() if dtype != frame.schema[name]})


def _of_texts(dtype: Any) -> Any:
    if isinstance(dtype, pl.List):
        return pl.List(_of_texts(dtype.inner))
    if isinstance(dtype, pl.Array):
        return pl.Array(_of_texts(dtype.inner), dtype.shape[0]) if len(dtype.shape) == 1 else dtype
    return pl.String() if isinstance(dtype, pl.Categorical | pl.Enum) else dtype


def to_native(frame: pl.DataFrame, kind: FrameKind) -> Any:
    """A polars frame as one of the wanted kind."""
    if kind == "polars":
        return frame
    if kind == "pyarrow":
        return frame.to_arrow()
    values = {name: _for_pandas(frame[name]) for name in frame.columns}
    return nw.from_dict(values, backend="pandas").to_native()


def _for_pandas(series: pl.Series) -> Any:
    """Arrays where pandas has the type, so that widths are kept; else Python values."""
    plain = series.dtype.is_numeric() or series.dtype == pl.Boolean or series.dtype == pl.Datetime
    zoned = isinstance(series.dtype, pl.Datetime) and series.dtype.time_zone is not None
    return series.to_numpy() if plain and not zoned and series.null_count() == 0 else series.to_list()


def attach(frame: Any, key: str, ids: IdMap, argument: str) -> pl.DataFrame:
    """A frame of features, one row an id, whose key has the type of the log's ids.

    Texts are read as integers where the log's ids are integers, as the log reads them (``1000.0`` is ``1000``); what is
    no such id cannot be in the log and is left out.
    """
    table = without_categories(from_native(frame, argument))
    if held := [column.name for column in table.iter_columns() if column.dtype == pl.Object]:
        raise DataError(f"column {held[0]!r} of the features holds objects; make it one of plain values or of lists")
    if key not in table.columns:
        raise MissingColumnError(f"the features have no column {key!r} (the key); they have {listed(table.columns)}")
    given, dtype = plain_series(table[key]), ids.values.dtype
    have, want = family(given.dtype), family(dtype)
    if have == "texts" and want == "integers":
        texts = given.str.replace(r"^(-?\d+)\.0+$", "${1}")
        own = texts.cast(dtype, strict=False)
        own = own.set(own.cast(pl.String).ne_missing(texts), None)  # "007" is another id than 7
    elif have == want == DATES:
        own = same_moments(given, dtype)
    elif have == want or (have == "floats" and want == "integers" and integers_of(given) is not None):
        own = given.cast(dtype, strict=False)
    else:
        raise MixedIdError(f"column {key!r} of the features holds {have}, the log's ids are {want}")
    n_lost = own.null_count() - given.null_count()
    table = table.with_columns(own.alias(key)).filter(pl.col(key).is_not_null())
    repeated = table[key].is_duplicated()
    if repeated.any():
        raise DataError(f"id {table[key].filter(repeated)[0]!r} occurs several times in column {key!r} of the features")
    if n_lost or (len(table) and not table[key].is_in(ids.values.implode()).any()):
        _log.warning(
            "%s: %s of its ids (column %r) are of the type of the log's ids, which are such as %r",
            *(argument, f"{len(table):,}", key, ids.values[0] if len(ids) else None),
        )
    return table


def relation(features: pl.DataFrame | None, key: str, column: str, separator: str, role: str) -> pl.DataFrame:
    """A column as pairs ``(id, value)``; null, NaN and empty values give no pair."""
    if features is None:
        raise MissingColumnError(f"the log has no {role} features; give {role}_features when reading")
    if column not in features.columns or column == key:
        there = listed(name for name in features.columns if name != key)
        raise MissingColumnError(f"the {role} features have no column {column!r}; they have {there}")
    dtype = features[column].dtype
    of = dtype.inner if isinstance(dtype, pl.List) else dtype
    if of.is_nested():
        raise DataError(f"column {column!r} of the {role} features holds {of}; make it one of plain values or of lists")
    return pairs_of(features, key, column, separator)


def pairs_of(features: pl.DataFrame, key: str, column: str, separator: str) -> pl.DataFrame:
    """:func:`relation` of a column that is there, of plain values or lists of them."""
    pairs = features.select(key, column)
    if pairs[column].dtype == pl.String:
        pairs = pairs.with_columns(pl.col(column).str.split(separator))
    if isinstance(pairs[column].dtype, pl.List):
        pairs = pairs.explode(column)
    value = pl.col(column)
    if pairs[column].dtype == pl.String:
        return pairs.filter(value != "")  # nor is it null
    return pairs.filter(value.is_not_nan() if pairs[column].dtype.is_float() else value.is_not_null())
