"""Where a log comes from: its file, and the line of each of its rows.

Reading knows rows alone. Lines are looked up once something is wrong.
"""

from __future__ import annotations

import codecs
import csv
import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import polars as pl

from recgraph.data.errors import DataError
from recgraph.data.lines import LONGEST_HEADER, check_lines, check_quotes, long_fields
from recgraph.data.packing import (
    DAMAGES,
    LONGEST_LINE,
    open_bytes,
    open_text,
    packing_of,
    plain_copy,
    read_through,
    unpacking,
)

__all__ = ["Format", "Raw", "Source"]

Format = Literal["frame", "delimited", "jsonl", "parquet", "sequences"]
E = TypeVar("E", bound=DataError)
_BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True)
class Source:
    """The origin of a log.

    Attributes:
        format: how the rows are held.
        path: the file; None for a frame in memory. Of several files their folder or pattern.
        separator: between fields (``delimited``).
        has_header: whether the first line names the columns (``delimited``).
        encoding: of a text file.
        parts: the files, where there are several, one after another.
        plain: where polars reads the text: the file, or while it is read a plain copy of it.
        first_row: of a Parquet file, where the rows that are read begin.
        ids: the columns that must have one type throughout (``jsonl``).
        quotes: whether ``"`` begins and ends a quoted field (``delimited``); else it is a part of its field.
    """

    format: Format
    path: Path | None = None
    separator: str = ","
    has_header: bool = True
    encoding: str = "utf-8"
    parts: tuple[Source, ...] = ()
    plain: Path | None = None
    first_row: int = 0
    ids: tuple[str, ...] = ()
    quotes: bool = True

    def error(self, kind: type[E], message: str, *, row: int | None = None, line: int | None = None) -> E:
        """An error that says where: the line of a text file, or else the row."""
        if self.parts and row is not None:
            part, row = self.part_of(row)
            return part.error(kind, message, row=row)
        if line is None and row is not None:
            line = self.line(row)
        return kind(message, path=self.path, line=line, row=None if row is None else self.first_row + row)

    def place(self, row: int) -> str:
        """Where a row is, in words."""
        return str(self.error(DataError, "", row=row)).removesuffix(": ")

    def line(self, row: int) -> int | None:
        """The line (from 1) of a row (from 0) of a text file; None where there are no lines."""
        if self.path is None or self.parts or self.format in ("frame", "parquet"):
            return None
        try:
            return next((line for line, of in self._rows() if of >= row), None)
        except (*DAMAGES, csv.Error, DataError):
            return None

    def part_of(self, row: int) -> tuple[Source, int]:
        """The file that a row of several files is in, and its row there."""
        for part in self.parts:
            if row < (count := part.count()):
                return part, row
            row -= count
        raise AssertionError(f"row {row} beyond the last of {len(self.parts)} files")

    def count(self) -> int:
        """How many rows one file has."""
        if self.format == "parquet":
            assert self.path is not None
            return int(pl.scan_parquet(self.path, glob=False).select(pl.len()).collect().item())
        return max((last for _, last in self._rows()), default=-1) + 1

    def open(self) -> IO[str]:
        """The text of the file, unpacked, without a byte order mark; bytes that the encoding has not are replaced.

        Raises:
            DataError: a line is too long, or no text (see :func:`check_lines`).
        """
        assert self.path is not None
        self._check_lines()
        return open_text(self.path, self.encoding)

    def made_plain(self) -> tuple[Source, object | None]:
        """The source with a text that polars can scan, and what keeps that text on the disk.

        Raises:
            DataError: the file is damaged, not in its encoding, or has a line or a quoted field that is too long.
        """
        assert self.path is not None
        with unpacking(self.path):
            self._check_lines()
            plain, held = plain_copy(self.path, self.encoding)
            if self.format == "delimited" and len(self.separator) == 1 and self.quotes:
                check_quotes(self.path, plain, self.separator)
            elif packing_of(plain) != "none":
                read_through(plain)
        return replace(self, plain=plain), held

    def kept(self) -> Source:
        """The source as it is kept with a log, when its plain copy is gone."""
        return replace(self, plain=None, parts=tuple(part.kept() for part in self.parts))

    @property
    def text(self) -> Path:
        """What polars scans."""
        path = self.plain or self.path
        assert path is not None
        return path

    @property
    def no_pattern(self) -> str:
        """:attr:`text` for a reader of polars that takes each path for a pattern: ``log[1].json`` is not log1.json."""
        return glob.escape(str(self.text))

    def reader(self, text: Iterable[str], *, strict: bool = False) -> Any:
        """A reader of :mod:`csv` of its lines."""
        if self.quotes:
            return csv.reader(text, delimiter=self.separator, strict=strict)
        return csv.reader(text, delimiter=self.separator, quoting=csv.QUOTE_NONE, strict=strict)

    def has_byte_order_mark(self) -> bool:
        """Whether the text starts with a byte order mark."""
        with open_bytes(self.text) as file:
            return file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8

    def scan_lines(self) -> pl.LazyFrame:
        """The lines of the file, unpacked, as ``line`` with their ``number`` from 1; without a byte order mark."""
        lines = pl.scan_lines(self.text, glob=False).with_row_index("number", offset=1)
        return lines.with_columns(pl.col("line").str.strip_prefix(_BYTE_ORDER_MARK))

    def _check_lines(self) -> None:
        assert self.path is not None
        check_lines(self.path, self.encoding, LONGEST_HEADER if self.format == "delimited" else LONGEST_LINE)

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
        row = -2 if self.has_header else -1
        start = 1
        with long_fields():
            reader = self.reader(text)
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
        texts: the columns of ids that stay texts as written, also where a text is a number.
        uuids: the columns whose texts were UUID objects.
        held: what keeps plain copies of files on the disk while they are scanned.
        ends: where the parts train, valid and test were given apart: the rows of each and those before it.
    """

    lazy: pl.LazyFrame
    source: Source
    as_text: bool = False
    uuids: frozenset[str] = frozenset()
    held: tuple[object, ...] = ()
    ends: tuple[int, ...] = ()
    texts: frozenset[str] = frozenset()
