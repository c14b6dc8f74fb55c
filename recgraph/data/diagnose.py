"""Errors of a log with their file and line: where a log comes from, and what is wrong with a file that cannot be read.

Reading knows rows alone. Lines are looked up once something is wrong.
"""

from __future__ import annotations

import codecs
import csv
import json
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, NoReturn, TypeVar

import polars as pl

from recgraph.data.errors import CorruptFileError, DataError, DelimiterError, EmptyLogError, EncodingError, MixedIdError
from recgraph.data.packing import open_bytes, open_text, packing_of, plain_copy

__all__ = [
    "Format",
    "Raw",
    "Source",
    "check_file",
    "check_separator",
    "collect",
    "explained",
    "json_record",
    "usual_separator",
]


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
    """

    format: Format
    path: Path | None = None
    separator: str = ","
    has_header: bool = True
    encoding: str = "utf-8"
    parts: tuple[Source, ...] = ()
    plain: Path | None = None

    def error(self, kind: type[E], message: str, *, row: int | None = None, line: int | None = None) -> E:
        """An error that says where: the line of a text file, or else the row."""
        if self.parts and row is not None:
            part, row = self.part_of(row)
            return part.error(kind, message, row=row)
        if line is None and row is not None:
            line = self.line(row)
        return kind(message, path=self.path, line=line, row=row)

    def place(self, row: int) -> str:
        """Where a row is, in words."""
        return str(self.error(DataError, "", row=row)).removesuffix(": ")

    def line(self, row: int) -> int | None:
        """The line (from 1) of a row (from 0) of a text file; None where there are no lines."""
        if self.path is None or self.parts or self.format in ("frame", "parquet"):
            return None
        try:
            return next((line for line, of in self._rows() if of >= row), None)
        except (OSError, EOFError, csv.Error, pl.exceptions.PolarsError):
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
            return int(pl.scan_parquet(self.path).select(pl.len()).collect().item())
        return max((last for _, last in self._rows()), default=-1) + 1

    def open(self) -> IO[str]:
        """The text of the file, unpacked, without a byte order mark; bytes that the encoding has not are replaced."""
        assert self.path is not None
        return open_text(self.path, self.encoding)

    def made_plain(self) -> tuple[Source, object | None]:
        """The source with a text that polars can scan, and what keeps that text on the disk.

        Raises:
            DataError: the file is damaged, or not in its encoding.
        """
        assert self.path is not None
        try:
            plain, held = plain_copy(self.path, self.encoding)
        except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
            kind = packing_of(self.path)
            raise self.error(CorruptFileError, f"the {kind} file is damaged: {error}") from None
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

    def has_byte_order_mark(self) -> bool:
        """Whether the text starts with a byte order mark."""
        with open_bytes(self.text) as file:
            return file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8

    def scan_lines(self) -> pl.LazyFrame:
        """The lines of the file, unpacked, as ``line`` with their ``number`` from 1; without a byte order mark."""
        lines = pl.scan_lines(self.text).with_row_index("number", offset=1)
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
        held: what keeps plain copies of files on the disk while they are scanned.
    """

    lazy: pl.LazyFrame
    source: Source
    as_text: bool = False
    uuids: frozenset[str] = frozenset()
    held: tuple[object, ...] = ()


_USUAL_SEPARATORS = (",", "\t", ";", "|", "::")


def collect(lazy: pl.LazyFrame, source: Source) -> pl.DataFrame:
    """Run a query with the streaming engine; where it fails, find out what is wrong with the file.

    Raises:
        DataError: the subclass for what is wrong with the file, with its line where there is one.
    """
    try:
        return lazy.collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        _explain(source, error)


@contextmanager
def explained(source: Source) -> Iterator[None]:
    """The block reads the text of a file; where that fails, find out what is wrong with it.

    Raises:
        DataError: as :func:`collect`.
    """
    try:
        yield
    except (OSError, EOFError, csv.Error, lzma.LZMAError, zlib.error, pl.exceptions.PolarsError) as error:
        _explain(source, error)


def check_file(path: str | Path) -> Path:
    """The path of a file that exists and is not empty.

    Raises:
        FileNotFoundError: it does not exist.
        EmptyLogError: it holds no bytes.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r} is not a file")
    if path.stat().st_size == 0:
        raise EmptyLogError("the file is empty", path=path)
    return path


def _explain(source: Source, error: Exception) -> NoReturn:
    if source.path is None:
        raise DataError(str(error)) from error
    for part in source.parts or (source,):
        _find_fault(part, error)
    raise source.error(DataError, f"the file cannot be read: {_first_line(error)}") from error


def _find_fault(source: Source, error: Exception) -> None:
    """Raise where it can be said what is wrong with one file."""
    assert source.path is not None
    if source.format == "parquet":
        _check_parquet(source)
        return
    _check_packed(source)
    if source.encoding == "utf-8" or source.plain is not None:
        _check_utf8(source)
    if source.format == "jsonl":
        _check_json(source)
    if source.format == "delimited":
        check_separator(source)
        if isinstance(error, pl.exceptions.SchemaError) and not source.has_header:
            raise source.error(DelimiterError, "names are not as many as the fields of the line", line=1) from None
        if len(source.separator) == 1:
            _check_fields(source)


def _check_parquet(source: Source) -> None:
    assert source.path is not None
    path = source.path
    try:
        pl.scan_parquet(sorted(path.glob("*.parquet")) if path.is_dir() else path).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise source.error(CorruptFileError, f"the Parquet file cannot be read: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_packed(source: Source) -> None:
    assert source.path is not None
    kind = packing_of(source.path)
    if kind == "none":
        return
    try:
        with open_bytes(source.path) as file:
            while file.read(1 << 20):
                pass
    except (OSError, EOFError, lzma.LZMAError, zlib.error, pl.exceptions.PolarsError) as error:
        more = ", or its text is not UTF-8" if isinstance(error, pl.exceptions.PolarsError) else ""
        raise source.error(CorruptFileError, f"the {kind} file is damaged{more}: {_first_line(error)}") from None


def _check_utf8(source: Source) -> None:
    with open_bytes(source.text) as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = f"byte {error.start + 1} of the line (0x{line[error.start]:02x})"
                message = f"{byte} is not UTF-8; give the file's encoding, e.g. encoding='latin-1' (--encoding latin-1)"
                raise source.error(EncodingError, message, line=number) from None


def json_record(source: Source, line: str, number: int) -> dict[str, Any]:
    """The JSON object of a line; empty for a blank line.

    Raises:
        CorruptFileError: the line holds something else.
    """
    if not line.strip():
        return {}
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise source.error(CorruptFileError, f"the line is not JSON: {error.msg}", line=number) from None
    if not isinstance(record, dict):
        raise source.error(CorruptFileError, "the line is not a JSON object", line=number)
    return record


def _check_json(source: Source) -> None:
    seen: dict[str, tuple[type, int]] = {}
    with source.open() as text:
        for number, line in enumerate(text, start=1):
            for name, value in json_record(source, line, number).items():
                _same_type(source, seen, name, value, number)


def _same_type(source: Source, seen: dict[str, tuple[type, int]], name: str, value: object, line: int) -> None:
    if value is None:
        return
    kind, first = seen.setdefault(name, (type(value), line))
    if kind is not type(value) and {kind, type(value)} != {int, float}:
        message = (
            f"column {name!r} holds {value!r} ({type(value).__name__}), but line {first} holds "
            f"a {kind.__name__}; write all values of the column in one type"
        )
        raise source.error(MixedIdError, message, line=line)


def _check_fields(source: Source) -> None:
    with source.open() as text:
        reader = csv.reader(text, delimiter=source.separator)
        width, start = None, 1
        for fields in reader:
            width = len(fields) if width is None else width
            if fields and len(fields) > width:
                message = f"{len(fields)} fields separated by {source.separator!r}, the first line has {width}"
                raise source.error(DelimiterError, message, line=start)
            start = reader.line_num + 1


def check_separator(source: Source) -> None:
    """Raise where the first line does not hold the separator but another usual one."""
    with source.open() as text:
        line = text.readline().rstrip("\r\n")
    if source.separator in line:
        return
    other = usual_separator(line)
    if other is not None:
        message = (
            f"{line[:60]!r} is not separated by {source.separator!r}; it looks separated by {other!r}: "
            f"pass separator={other!r}"
        )
        raise source.error(DelimiterError, message, line=1)


def usual_separator(line: str, otherwise: str | None = None) -> str | None:
    """The first of the usual separators that a line holds."""
    return next((mark for mark in _USUAL_SEPARATORS if mark in line), otherwise)
