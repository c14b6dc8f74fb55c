"""Where a log came from, so that an error can name the file and the line.

Lines are looked up only when something is wrong: the fast path knows rows.
"""

from __future__ import annotations

import codecs
import csv
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, TypeVar

import polars as pl

from recgraph.data.errors import DataError

__all__ = ["Format", "Raw", "Source", "is_gzip"]

Format = Literal["frame", "delimited", "jsonl", "parquet", "sequences"]
E = TypeVar("E", bound=DataError)
_BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True)
class Source:
    """The origin of a log.

    Attributes:
        format: how the rows are held.
        path: the file; None for a frame in memory.
        separator: between fields (``delimited``).
        has_header: whether the first line names the columns (``delimited``).
    """

    format: Format
    path: Path | None = None
    separator: str = ","
    has_header: bool = True

    def error(self, kind: type[E], message: str, *, row: int | None = None, line: int | None = None) -> E:
        """An error that says where: the line of a text file, or else the row."""
        if line is None and row is not None:
            line = self.line(row)
        return kind(message, path=self.path, line=line, row=row)

    def line(self, row: int) -> int | None:
        """The line (from 1) of a row (from 0) of a text file; None where there are no lines."""
        if self.path is None or self.format in ("frame", "parquet"):
            return None
        try:
            return next((line for line, of in self._rows() if of >= row), None)
        except (OSError, EOFError, csv.Error):
            return None

    def open(self) -> IO[str]:
        """The text of the file, unpacked, without a byte order mark; bytes that are not UTF-8 are replaced."""
        assert self.path is not None
        if is_gzip(self.path):
            return gzip.open(self.path, "rt", encoding="utf-8-sig", errors="replace", newline="")
        return self.path.open(encoding="utf-8-sig", errors="replace", newline="")

    def has_mark(self) -> bool:
        """Whether the text starts with a byte order mark."""
        assert self.path is not None
        with (gzip.open if is_gzip(self.path) else open)(self.path, "rb") as file:
            return file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8

    def scan_lines(self) -> pl.LazyFrame:
        """The lines of the file, unpacked, as ``line`` with their ``number`` from 1; without a byte order mark."""
        assert self.path is not None
        lines = pl.scan_lines(self.path).with_row_index("number", offset=1)
        return lines.with_columns(pl.col("line").str.strip_prefix(_BYTE_ORDER_MARK))

    def _rows(self) -> Iterator[tuple[int, int]]:
        """(line, the last row that ends on it) for each line that holds rows."""
        with self.open() as text:
            if self.format == "delimited" and len(self.separator) == 1:
                yield from self._csv_rows(text)
                return
            row = -2 if self.format == "delimited" and self.has_header else -1
            for number, line in enumerate(text, start=1):
                if self.format == "sequences":
                    row += len(line.split()) - 1 if line.strip() else 0
                elif line.strip():
                    row += 1
                yield number, row

    def _csv_rows(self, text: IO[str]) -> Iterator[tuple[int, int]]:
        reader = csv.reader(text, delimiter=self.separator)
        row = -2 if self.has_header else -1
        start = 1
        for fields in reader:
            if any(fields):
                row += 1
                yield start, row
            start = reader.line_num + 1


@dataclass(frozen=True)
class Raw:
    """A log before encoding.

    Attributes:
        lazy: the rows in file order.
        source: where they come from.
        as_text: every column is text (text files); ids that are all plain integers then become integers.
        uuids: the columns whose texts were UUID objects.
    """

    lazy: pl.LazyFrame
    source: Source
    as_text: bool = False
    uuids: frozenset[str] = frozenset()


def is_gzip(path: Path) -> bool:
    """Whether the file starts as gzip files do."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"
