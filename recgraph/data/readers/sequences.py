"""Sequence files: ``user item item ...`` a line, oldest first; the place in the line is the order."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from recgraph.data.errors import DelimiterError, MissingIdError
from recgraph.data.readers.diagnose import check_file, collect
from recgraph.data.source import Raw, Source

__all__ = ["scan_sequences"]


def scan_sequences(path: str | Path, *, user: str = "user_id", item: str = "item_id") -> Raw:
    """Scan a file of one user a line, separated by white space; blank lines are skipped.

    Args:
        path: the file, plain or gzip.
        user, item: the names that the two columns get.

    Raises:
        DataError: empty, damaged, not UTF-8, or a line with a user and no item; with the line.
    """
    source = Source("sequences", check_file(path))
    fields = source.scan_lines().select("number", pl.col("line").str.extract_all(r"\S+").alias("fields"))
    fields = fields.filter(pl.col("fields").list.len() > 0)
    short = collect(fields.filter(pl.col("fields").list.len() == 1).head(1), source)
    if len(short):
        _refuse(source, int(short["number"][0]), short["fields"][0][0])
    rows = fields.select(pl.col("fields").list.first().alias(user), pl.col("fields").list.slice(1).alias(item)).explode(
        item
    )
    return Raw(rows, source, as_text=True)


def _refuse(source: Source, line: int, text: str) -> None:
    mark = next((mark for mark in ",;|" if mark in text), None)
    if mark is not None:
        message = f"{text[:60]!r} is not separated by spaces but by {mark!r}; is it a table (from_csv)?"
        raise source.error(DelimiterError, message, line=line)
    raise source.error(MissingIdError, f"user {text!r} has no item", line=line)
