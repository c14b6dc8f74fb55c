"""Reading one file of a data set into a table with the columns that its card lays out."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from recgraph.data.card import File, Layout
from recgraph.data.errors import (
    CorruptFileError,
    DataError,
    DelimiterError,
    EncodingError,
    MissingColumnError,
)
from recgraph.data.readers.delimited import scan_delimited
from recgraph.data.readers.diagnose import collect
from recgraph.data.readers.sequences import scan_sequences

__all__ = ["read_table"]

_TYPES = {"int": pl.Int64, "float": pl.Float64, "text": pl.String}
_SEQUENCES = Layout(columns={"user_id": "int", "item_id": "int"})


def read_table(path: Path, file: File, layout: Layout | None) -> pl.DataFrame:
    """A table in the order of the file.

    Args:
        path: where the file lies.
        file: its format.
        layout: its columns; None for sequences, whose columns are ``user_id`` and ``item_id``.

    Raises:
        DataError: it is not in that format; names the file, the line or row, and the value.
    """
    layout = layout or _SEQUENCES
    raw = _READERS[file.format](path, file, layout)
    missing = [name for name in layout.columns if name not in raw.columns]
    if missing:
        raise MissingColumnError(f"no column {missing[0]!r}; there are {', '.join(raw.columns)}", path=path)
    typed = raw.select(_typed(raw[name], kind, path) for name, kind in layout.columns.items())
    return _laid_out(typed, layout)


def _delimited(path: Path, file: File, layout: Layout) -> pl.DataFrame:
    content = path.read_bytes()
    try:
        text = content.decode(file.encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise EncodingError(f"a byte is not {file.encoding}", path=path, line=line) from None
    # not splitlines(): it also splits at characters that may stand inside a title
    lines = pl.DataFrame({"text": text.split("\n")}).with_row_index("line", offset=1)
    lines = lines.with_columns(pl.col("text").str.strip_chars_end("\r")).filter(pl.col("text") != "")
    fields = lines["text"].str.count_matches(file.separator, literal=True) + 1
    n = len(layout.columns)
    if (fields != n).any():
        at = int((fields != n).arg_max() or 0)
        message = f"{fields[at]} fields separated by {file.separator!r}; there must be {n}"
        raise DelimiterError(message, path=path, line=int(lines["line"][at]))
    parts = lines["text"].str.split_exact(file.separator, n - 1).struct.unnest()
    return parts.rename(dict(zip(parts.columns, layout.columns, strict=True)))


def _csv(path: Path, file: File, layout: Layout) -> pl.DataFrame:
    raw = scan_delimited(path, separator=file.separator, needed=list(layout.columns))
    return collect(raw.lazy, raw.source)


def _parquet(path: Path, file: File, layout: Layout) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CorruptFileError(f"not a Parquet file: {error}", path=path) from None


def _sequences(path: Path, file: File, layout: Layout) -> pl.DataFrame:
    raw = scan_sequences(path)
    return collect(raw.lazy, raw.source)


_READERS = {"delimited": _delimited, "csv": _csv, "parquet": _parquet, "sequences": _sequences}


def _typed(values: pl.Series, kind: str, path: Path) -> pl.Series:
    if values.dtype == pl.String and kind != "text":
        values = values.str.strip_chars().replace("", None)
    typed = values.cast(_TYPES[kind], strict=False)
    lost = typed.is_null() & values.is_not_null()
    if lost.any():
        row = int(lost.arg_max() or 0)
        raise DataError(f"column {values.name!r}: {values[row]!r} is not of type {kind}", path=path, row=row)
    return typed.str.strip_chars() if kind == "text" else typed


def _laid_out(table: pl.DataFrame, layout: Layout) -> pl.DataFrame:
    table = table.rename(layout.rename)
    for name, flags in layout.flags.items():
        parts = [pl.when(pl.col(flag) == 1).then(pl.lit(flag)) for flag in flags]
        table = table.with_columns(pl.concat_list(parts).list.drop_nulls().alias(name))
    table = table.with_columns(pl.col(name).str.split(separator) for name, separator in layout.split.items())
    for name, (source, pattern) in layout.extract.items():
        table = table.with_columns(pl.col(source).str.extract(pattern, 1).cast(pl.Int64).alias(name))
    return table.select(layout.keep) if layout.keep else table
