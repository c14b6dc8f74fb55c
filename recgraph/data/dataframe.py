"""Frames of pandas, polars and arrow, in and out (the same kind goes out that came in), and side information."""

from __future__ import annotations

import datetime as dt
import logging
import uuid
from collections.abc import Sequence
from typing import Any, Literal, cast

import narwhals as nw
import numpy as np
import polars as pl

from recgraph.data.diagnose import collect
from recgraph.data.errors import NO_TEXT, DataError, EncodingError, MissingColumnError, MixedIdError, first_line
from recgraph.data.ids import (
    DATES,
    FOR_MISSING,
    IdMap,
    as_integers,
    family,
    is_missing,
    plain_series,
    python_types,
    same_moments,
    whole_floats,
)
from recgraph.data.readers import check_header
from recgraph.data.source import Raw, Source
from recgraph.texts import listed

__all__ = ["FrameKind", "attach", "frame_kind", "from_native", "pairs_of", "relation", "scan_frame", "to_native"]


FrameKind = Literal["pandas", "polars", "pyarrow"]
_KINDS = ("pandas", "polars", "pyarrow")
_log = logging.getLogger(__name__)


def frame_kind(frame: Any, argument: str = "frame") -> FrameKind:
    """The library of a frame.

    Args:
        frame: anything.
        argument: its name, for errors.

    Raises:
        ValueError: it is no frame of pandas, polars or pyarrow.
        DuplicateColumnError: two columns of one name.
    """
    if _is_pandas(frame) and getattr(frame, "ndim", 1) == 2:  # no other library's frame can have two of one name
        check_header(Source("frame"), [str(name) for name in frame.columns])
    try:
        kind = nw.from_native(frame).implementation.value
    except TypeError:
        kind = type(frame).__name__
    if kind not in _KINDS:
        raise ValueError(f"{argument} is a {kind}; give a frame of {', '.join(_KINDS)}")
    return cast(FrameKind, kind)


def scan_frame(frame: Any, columns: Sequence[str], ids: Sequence[str] = ()) -> Raw:
    """The named columns of a frame as a lazy polars frame.

    Args:
        frame: pandas, polars (also lazy) or pyarrow. A lazy frame is collected, once: each run of a query such as
            ``unique()`` or ``group_by()`` may give the rows in another order, and encoding reads them several times.
        columns: the names to read; other columns are not touched.
        ids: the names among them that hold ids.

    Raises:
        MissingColumnError: a name is not there.
        MixedIdError: ids of several types in one column.
        DuplicateColumnError: two columns of one name.
    """
    source = Source("frame")
    frame_kind(frame)
    names = frame.collect_schema().names() if isinstance(frame, pl.LazyFrame) else nw.from_native(frame).columns
    own = {str(name): name for name in names}  # those of pandas need not be texts
    missing = [name for name in columns if name not in own]
    if missing:
        message = f"there is no column {missing[0]!r}; the columns are {listed(own)}"
        raise source.error(MissingColumnError, message)
    if isinstance(frame, pl.LazyFrame):
        return Raw(collect(frame.select(*dict.fromkeys(columns)), source).lazy(), source)
    table = nw.from_native(frame, eager_only=True)
    uuids: set[str] = set()
    series = []
    for name in dict.fromkeys(columns):
        column = table.get_column(own[name])  # table[0] would be the first row
        series.append(_to_polars(column, name, name in ids, source, uuids))
    return Raw(pl.DataFrame(series).lazy(), source, uuids=frozenset(uuids))


def _is_pandas(frame: Any) -> bool:
    return type(frame).__module__.partition(".")[0] == "pandas"


def names_of(frame: Any) -> list[str]:
    """The names of a frame's columns; those of pandas need not be texts."""
    return [str(name) for name in nw.from_native(frame).collect_schema().names()]


def from_native(frame: Any, argument: str = "frame") -> pl.DataFrame:
    """All columns of a frame as polars.

    Raises:
        ValueError: as :func:`frame_kind`.
    """
    frame_kind(frame, argument)
    if isinstance(frame, pl.LazyFrame):
        return frame.collect()
    return scan_frame(frame, names_of(frame)).lazy.collect()


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


#: NumPy values that are converted to Python's; not its datetimes, whose nanoseconds would become integers
_UNWRAPPED = (np.ndarray, np.number, np.bool_, np.str_)


def _to_polars(column: nw.Series[Any], name: str, is_id: bool, source: Source, uuids: set[str]) -> pl.Series:
    if column.dtype not in (nw.Object, nw.Unknown):
        try:
            return column.to_polars()
        # columns of pandas that are no plain arrays need pyarrow, which infers a type from the first values alone and
        # raises one of these errors for others: read them value by value
        except (ImportError, TypeError, ValueError, NotImplementedError, pl.exceptions.PolarsError):
            pass
    missing = column.is_null().to_list()
    values = [None if gone or is_missing(value) else value for gone, value in zip(missing, column, strict=True)]
    values = [value.tolist() if isinstance(value, _UNWRAPPED) else value for value in values]
    values = [value.astype("datetime64[us]").item() if isinstance(value, np.datetime64) else value for value in values]
    return _from_objects(values, name, is_id, source, uuids)


def _from_objects(values: list[Any], name: str, is_id: bool, source: Source, uuids: set[str]) -> pl.Series:
    """A column of Python objects: one type, or an error that names the first value of another."""
    types = python_types(values)
    if (
        is_id
        and types == {"int", "float"}
        and all(value is None or isinstance(value, int) or value.is_integer() for value in values)
    ):
        values, types = [None if value is None else int(value) for value in values], {"int"}
    if is_id and len(types) > 1:
        raise _mixed(values, name, source, MixedIdError, "ids")
    if types == {"int", "float"}:
        values = [None if value is None else float(value) for value in values]
    if all(value is None or isinstance(value, dt.date) for value in values) and "date" in types:
        values = [_moment(value) if len(types) > 1 else value for value in values]
    if types == {"Period"} and not is_id:  # of pandas, which stands for its beginning
        values = [None if value is None else value.start_time for value in values]
    if types == {"UUID"}:
        uuids.add(name)
        values = [str(value) if isinstance(value, uuid.UUID) else value for value in values]
    try:
        return pl.Series(name, values)
    except UnicodeEncodeError as error:
        row = next(row for row, value in enumerate(values) if value == error.object)
        raise source.error(EncodingError, f"column {name!r} holds {error.object!r}, {NO_TEXT}", row=row) from None
    except (TypeError, OverflowError, pl.exceptions.PolarsError) as error:
        if len(types) > 1:
            raise _mixed(values, name, source, DataError, "values") from None
        raise DataError(f"column {name!r} of type {', '.join(types)} cannot be read: {first_line(error)}") from None


def _mixed(values: list[Any], name: str, source: Source, kind: type[DataError], what: str) -> DataError:
    """The error about the first value of another type than the first one."""
    first = next(value for value in values if value is not None)
    row = next(i for i, value in enumerate(values) if value is not None and type(value) is not type(first))
    message = (
        f"column {name!r} holds {values[row]!r} ({type(values[row]).__name__}), but before it "
        f"{first!r} ({type(first).__name__}); bring all {what} of the column to one type"
    )
    return source.error(kind, message, row=row)


def _moment(value: dt.date | None) -> dt.datetime | None:
    """A date as the beginning of its day."""
    is_day = value is not None and not isinstance(value, dt.datetime)
    return dt.datetime.combine(value, dt.time()) if is_day else value  # type: ignore[arg-type, return-value]


def attach(frame: Any, key: str, ids: IdMap, argument: str) -> pl.DataFrame:
    """A frame of features whose key has the type of the log's ids.

    Args:
        frame: any kind; one row an id. Texts are read as integers where the log's ids are integers, as the log reads
            them (``1000.0`` is ``1000``); what is no integer, or where these are dates no date, cannot be in the log
            and is left out, and counted in the log of messages.
        key: the column of ids.
        ids: the log's.
        argument: the name of ``frame``, for errors.

    Raises:
        ValueError: it is no frame.
        DataError: the column is missing, of another type, or not unique; a column holds objects such as sets.
    """
    table = without_categories(from_native(frame, argument))
    for column in table.iter_columns():
        if column.dtype == pl.Object:
            held = next((value for value in column if value is not None), None)
            message = f"column {column.name!r} of the features holds {held!r} ({type(held).__name__}); "
            raise DataError(message + "make it one of plain values or of lists")
    if key not in table.columns:
        there = listed(table.columns)
        raise MissingColumnError(f"the features have no column {key!r} (the key); their columns are {there}")
    table = table.with_columns(plain_series(table[key]))
    have, want = family(table[key].dtype), family(ids.values.dtype)
    as_whole = have == "floats" and want == "integers" and whole_floats(table[key]) is not None
    if have != want and not as_whole and not (have == "texts" and want == "integers"):
        raise MixedIdError(f"column {key!r} of the features holds {have}, the log's ids are {want}")
    if have == "texts" and want == "integers":
        table = _with_integers(table, key, ids.values.dtype, argument)
    if have == want == DATES:
        table = _with_moments(table, key, ids.values.dtype, argument)
    table = table.with_columns(pl.col(key).cast(ids.values.dtype, strict=False)).filter(pl.col(key).is_not_null())
    repeated = table[key].is_duplicated()
    if repeated.any():
        raise DataError(f"id {table[key].filter(repeated)[0]!r} occurs several times in column {key!r} of the features")
    if len(table) and len(ids) and not table[key].is_in(ids.values.implode()).any():
        _log.warning(
            "%s: none of the %s rows is of an id of the log: column %r holds %r, where the log has ids such as %r",
            *(argument, f"{len(table):,}", key, table[key][0], ids.values[0]),
        )
    return table


def _with_integers(table: pl.DataFrame, key: str, dtype: pl.DataType, argument: str) -> pl.DataFrame:
    """The rows whose keys are integers written plainly: "007" is another id than 7."""
    given = table.filter(pl.col(key).is_not_null())
    table = given.with_columns(as_integers(pl.col(key), pl.String()))
    plain = table[key].cast(dtype, strict=False).cast(pl.String).eq_missing(table[key])
    _tell_left_out(given[key], plain, argument, "integers")
    return table.filter(plain)


def _with_moments(table: pl.DataFrame, key: str, dtype: pl.DataType, argument: str) -> pl.DataFrame:
    """The rows whose keys are dates, or times, of the log's type: noon of a day is another id than the day."""
    given = table.filter(pl.col(key).is_not_null())
    table = given.with_columns(same_moments(given[key], dtype))
    _tell_left_out(given[key], table[key].is_not_null(), argument, f"of type {dtype}")
    return table.filter(pl.col(key).is_not_null())


def _tell_left_out(given: pl.Series, kept: pl.Series, argument: str, what: str) -> None:
    if not kept.all():
        _log.warning(
            "%s: %s of %s rows are left out: the log's ids are %s, and in column %r %r is none",
            argument,
            f"{int((~kept).sum()):,}",
            f"{len(given):,}",
            what,
            given.name,
            given.filter(~kept)[0],
        )


def relation(features: pl.DataFrame | None, key: str, column: str, separator: str, role: str) -> pl.DataFrame:
    """A column as pairs ``(id, value)``; null, NaN and empty values give no pair.

    A text that is a word for a missing value, such as ``nan``, is a value, which is logged.

    Raises:
        MissingColumnError: there are no features, or not this column.
        DataError: its values are no plain ones, such as lists within lists.
    """
    if features is None:
        raise MissingColumnError(f"the log has no {role} features; give {role}_features when reading")
    if column not in features.columns or column == key:
        there = listed(name for name in features.columns if name != key)
        raise MissingColumnError(f"the {role} features have no column {column!r}; they have {there}")
    dtype = features[column].dtype
    of = dtype.inner if isinstance(dtype, pl.List) else dtype
    if of.is_nested():
        raise DataError(f"column {column!r} of the {role} features holds {of}; make it one of plain values or of lists")
    pairs = pairs_of(features, key, column, separator)
    if of == pl.String:  # as it stands, not what it is split into: a title may have the word "None"
        _warn_of_words(features[column] if dtype == pl.String else pairs[column], role)
    return pairs


def pairs_of(features: pl.DataFrame, key: str, column: str, separator: str) -> pl.DataFrame:
    """:func:`relation` of a column that is there, of plain values or lists of them, without a word about them."""
    pairs = features.select(key, column)
    if pairs[column].dtype == pl.String:
        pairs = pairs.with_columns(pl.col(column).str.split(separator))
    if isinstance(pairs[column].dtype, pl.List):
        pairs = pairs.explode(column)
    value = pl.col(column)
    if pairs[column].dtype == pl.String:
        return pairs.filter(value != "")  # nor is it null
    return pairs.filter(value.is_not_nan() if pairs[column].dtype.is_float() else value.is_not_null())


def _warn_of_words(values: pl.Series, role: str) -> None:
    """Log that values are a word for a missing one: all that have it would have it in common."""
    found = values.filter(values.is_in(FOR_MISSING) & (values != ""))
    if len(found):
        _log.warning(
            "column %r of the %s features: %r is a word for a missing value; it is taken for a value, in %s rows; "
            "leave the values empty where they are none",
            *(values.name, role, found[0], f"{len(found):,}"),
        )
