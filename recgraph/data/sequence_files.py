"""Scan files of sequences: ``user item item ...`` a line, oldest first."""

from __future__ import annotations

import logging
from pathlib import Path

import polars as pl

from recgraph.data.diagnose import check_file, collect
from recgraph.data.errors import OR_DROP, DelimiterError, MissingIdError
from recgraph.data.ingest import MissingIds
from recgraph.data.packing import check_encoding
from recgraph.data.source import Raw, Source

__all__ = ["scan_sequences"]

_log = logging.getLogger(__name__)


def scan_sequences(
    path: str | Path,
    *,
    user: str = "user_id",
    item: str = "item_id",
    encoding: str = "utf-8",
    missing_ids: MissingIds = "error",
) -> Raw:
    """Scan a file of one user a line, separated by white space; blank lines are skipped.

    Args:
        path: the file, plain or packed.
        user, item: the names that the two columns get.
        encoding: of the text.
        missing_ids: ``"drop"`` leaves out lines with a user and no item, and says how many.

    Raises:
        DataError: empty, damaged, not UTF-8, or a line with a user and no item; with the line.
    """
    source, held = Source("sequences", check_file(path), encoding=check_encoding(encoding)).made_plain()
    fields = source.scan_lines().select("number", pl.col("line").str.extract_all(r"\S+").alias("fields"))
    fields = fields.filter(pl.col("fields").list.len() > 0)
    is_short = pl.col("fields").list.len() == 1
    short = collect(fields.filter(is_short).head(1), source)
    if len(short):
        _check_short(source, int(short["number"][0]), short["fields"][0][0], missing_ids)
        n_short = collect(fields.filter(is_short).select(pl.len()), source).item()
        _log.warning("%s: %s users without an item are left out", path, f"{n_short:,}")
        fields = fields.filter(~is_short)
    rows = fields.select(pl.col("fields").list.first().alias(user), pl.col("fields").list.slice(1).alias(item)).explode(
        item
    )
    return Raw(rows, source, as_text=True, held=(held,))


def _check_short(source: Source, line: int, text: str, missing_ids: MissingIds) -> None:
    mark = next((mark for mark in ",;|" if mark in text), None)
    if mark is not None:
        message = f"{text[:60]!r} is not separated by spaces but by {mark!r}; is it a table (from_csv)?"
        raise source.error(DelimiterError, message, line=line)
    if missing_ids == "error":
        message = f"user {text!r} has no item; name some{OR_DROP}"
        raise source.error(MissingIdError, message, line=line)
