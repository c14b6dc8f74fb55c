"""CSV, TSV and other text with one row a line. Every column is read as text; the encoding parses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from recgraph.data.errors import DelimiterError
from recgraph.data.readers.diagnose import check_file, check_separator, collect
from recgraph.data.source import Raw, Source

__all__ = ["scan_delimited"]


def scan_delimited(
    path: str | Path,
    *,
    separator: str = ",",
    columns: Sequence[str] | None = None,
    needed: Sequence[str] = (),
) -> Raw:
    """Scan a delimited text file, plain or gzip.

    Args:
        path: the file.
        separator: one character, or several (``"::"``; then without quoting).
        columns: the names of the columns where the file has no header line.
        needed: names that will be asked for; if the header lacks one, a wrong separator is looked for.

    Raises:
        DataError: empty, not separated as told, not UTF-8, damaged; with the line where there is one.
    """
    if not separator:
        raise ValueError("separator = '' must hold at least one character")
    source = Source("delimited", check_file(path), separator, has_header=columns is None)
    lazy = _scan_lines(source, columns) if len(separator) > 1 else _scan(source, columns)
    names = _names(lazy, source)
    if any(name not in names for name in needed):
        check_separator(source)
    # a blank line is no row
    return Raw(lazy.filter(~pl.all_horizontal(pl.all().is_null())), source, as_text=True)


def _names(lazy: pl.LazyFrame, source: Source) -> list[str]:
    # the schema is read from the file, so that a damaged one shows here first
    try:
        return lazy.collect_schema().names()
    except (pl.exceptions.PolarsError, OSError):
        collect(lazy.head(1), source)
        raise


def _scan(source: Source, columns: Sequence[str] | None) -> pl.LazyFrame:
    assert source.path is not None
    return pl.scan_csv(
        source.path,
        separator=source.separator,
        has_header=columns is None,
        new_columns=list(columns) if columns is not None else None,
        infer_schema=False,
    )


def _scan_lines(source: Source, columns: Sequence[str] | None) -> pl.LazyFrame:
    lines = source.scan_lines()
    first = collect(lines.head(1), source)
    check_separator(source)
    if columns is None:
        header = first["line"].item()
        columns = [name.strip() for name in header.split(source.separator)]
        lines = lines.slice(1)
    _check_fields(lines, len(columns), source)
    parts = pl.col("line").str.strip_chars_end("\r").str.split_exact(source.separator, len(columns) - 1)
    fields = lines.select(parts.struct.rename_fields(list(columns)).alias("line")).unnest("line")
    return fields.with_columns(pl.all().replace("", None))


def _check_fields(lines: pl.LazyFrame, width: int, source: Source) -> None:
    """Raise for the first line of another width: a split into fields drops what is too much without a word."""
    count = pl.col("line").str.count_matches(source.separator, literal=True) + 1
    wrong = lines.filter((count != width) & (pl.col("line").str.strip_chars() != "")).select("number", count)
    for number, n in collect(wrong.head(1), source).iter_rows():
        message = f"{n} fields separated by {source.separator!r}, but there are {width} names of columns"
        raise source.error(DelimiterError, message, line=number)
