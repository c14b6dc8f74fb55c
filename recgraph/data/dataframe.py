"""Frames of pandas, polars and arrow, in and out (the same kind goes out that came in), and side
information.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import narwhals as nw
import polars as pl
import polars.selectors as cs

from recgraph.data.ids import (
    IdMap,
    family,
    fit_ids,
    listed,
    plain_series,
    series_of,
)
from recgraph.files import DataError

FrameKind = Literal["pandas", "polars", "pyarrow"]
_KINDS = ("pandas", "polars", "pyarrow")
#: the one separator of values that is none of ordinary texts
BAR = "|"


def frame_kind(frame: Any, argument: str = "frame") -> FrameKind:
    """The library of a frame."""
    try:
        kind = nw.from_native(frame).implementation.value
    except TypeError:
        kind = type(frame).__name__
    if kind not in _KINDS:
        raise ValueError(f"{argument} is a {kind}; give a frame of {', '.join(_KINDS)}")
    return cast(FrameKind, kind)


def names_of(frame: Any) -> list[str]:
    """The names of a frame's columns; those of pandas need not be texts."""
    return [str(name) for name in nw.from_native(frame).collect_schema().names()]


def head_of(frame: Any, n_rows: int) -> pl.DataFrame:
    """The first rows of a frame; a column whose values polars cannot hold is one of nulls."""
    head = nw.from_native(frame).head(n_rows)
    head = head.collect() if isinstance(head, nw.LazyFrame) else head
    columns = {}
    for name in head.columns:
        try:
            columns[str(name)] = _column(head.get_column(name), str(name), is_id=False)
        except DataError:
            columns[str(name)] = pl.Series([None] * len(head))
    return pl.DataFrame(columns)


def from_native(frame: Any, argument: str = "frame") -> pl.DataFrame:
    """All columns of a frame as polars."""
    frame_kind(frame, argument)
    return columns_of(frame, names_of(frame))


def columns_of(frame: Any, names: list[str], ids: tuple[str, ...] = ()) -> pl.DataFrame:
    """Named columns of a frame as polars, in memory of their own; of a lazy frame they are
    collected.
    """
    table = nw.from_native(frame)
    own_names = {str(name): name for name in table.collect_schema().names()}
    for name in names:
        if name not in own_names:
            raise DataError(f"there is no column {name!r}; the columns are {listed(own_names)}")
    if isinstance(frame, pl.LazyFrame):
        return frame.select(names).collect()
    columns = {}
    for name in names:
        columns[name] = _column(table.get_column(own_names[name]), name, name in ids)
    return pl.DataFrame(columns)


def _column(column: nw.Series[Any], name: str, is_id: bool) -> pl.Series:
    if column.dtype not in (nw.Object, nw.Unknown):
        try:
            series = column.to_polars().alias(name)
            if series.dtype.is_numeric():
                # it shares the memory of the array that it is made of, which its owner may change
                series = series.gather(pl.int_range(len(series), eager=True))
            return series
        # columns of pandas that are no plain arrays need pyarrow, which infers a type from the
        # first values alone and raises one of these errors for others: read them value by value
        except (ImportError, TypeError, ValueError, NotImplementedError, pl.exceptions.PolarsError):
            pass
    missing = column.is_null().to_list()
    values = [None if gone else value for gone, value in zip(missing, column, strict=True)]
    return series_of(values, name, is_id)


def without_categories(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with columns of categories, also in lists, as columns of texts."""
    categories = cs.categorical() | cs.enum()
    return frame.cast({categories: pl.String, cs.list(categories): pl.List(pl.String)})


def to_native(frame: pl.DataFrame, kind: FrameKind) -> Any:
    """A polars frame as one of the wanted kind."""
    if kind == "polars":
        return frame
    if kind == "pyarrow":
        return frame.to_arrow()
    values: dict[str, Any] = {}
    # arrays where pandas has the type, so that widths are kept; else Python values
    arrays = frame.select(cs.numeric() | cs.boolean() | cs.datetime(time_zone=None)).columns
    for series in frame:
        is_array = series.name in arrays and not series.null_count()
        values[series.name] = series.to_numpy() if is_array else series.to_list()
    return nw.from_dict(values, backend="pandas").to_native()


def attach(frame: Any, key: str, ids: IdMap, argument: str) -> pl.DataFrame:
    """A frame of features, one row an id, whose key has the type of the log's ids; ``argument`` is
    named in errors.

    Texts are read as integers where the log's ids are integers, as the log reads them (``1000.0``
    is ``1000``); what is no such id cannot be in the log and is left out.
    """
    table = without_categories(from_native(frame, argument))
    if key not in table.columns:
        raise DataError(
            f"{argument}: there is no column {key!r} (the key), but {listed(table.columns)}"
        )
    keys, dtype = plain_series(table[key]), ids.values.dtype
    if keys.dtype == pl.String and dtype.is_integer():
        texts = keys.str.replace(r"^(-?\d+)\.0+$", "${1}")
        keys = texts.cast(dtype, strict=False)
        keys = keys.set(keys.cast(pl.String).ne_missing(texts), None)  # "007" is another id than 7
    elif fit_ids(keys, dtype):
        keys = keys.cast(dtype, strict=False)
    else:
        raise DataError(
            f"{argument}: column {key!r} holds {family(keys.dtype)}, the log's ids are {family(dtype)}"
        )
    table = table.with_columns(keys.alias(key)).filter(pl.col(key).is_not_null())
    repeated = table[key].is_duplicated()
    if repeated.any():
        twice = table[key].filter(repeated)[0]
        raise DataError(
            f"{argument}: id {twice!r} occurs several times in column {key!r}; keep one row of each id"
        )
    return table


def pairs_of(features: pl.DataFrame, key: str, column: str, separator: str | None) -> pl.DataFrame:
    """A column of plain values, or lists of them, as pairs ``(id, value)``; null, NaN and empty
    values give none.
    """
    pairs = features.select(key, column)
    if pairs[column].dtype == pl.String:
        if not separator and are_lists(pairs[column], BAR):
            separator = BAR
        if separator:
            pairs = pairs.with_columns(pl.col(column).str.split(separator))
    return exploded(pairs, column)


def are_lists(texts: pl.Series, separator: str) -> bool:
    """Whether texts are lists of what a separator stands between: the values come again in other
    texts.
    """
    texts = texts.drop_nulls().unique()
    values = texts.str.split(separator).explode()
    return len(values) > len(texts) >= values.n_unique()


def exploded(frame: pl.DataFrame, column: str) -> pl.DataFrame:
    """A row for each plain value of a column, alone or in lists; null, NaN and empty texts are
    none.
    """
    if isinstance(frame[column].dtype, pl.List | pl.Array):
        frame = frame.explode(column)
    dtype, value = frame[column].dtype, pl.col(column)
    if dtype == pl.String:
        return frame.filter(value != "")  # nor is it null
    return frame.filter(value.is_not_nan() if dtype.is_float() else value.is_not_null())
