"""Run a scan; where it fails, find out what is wrong with the file and in which line."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from pathlib import Path
from typing import NoReturn

import polars as pl

from recgraph.data.errors import (
    CorruptFileError,
    DataError,
    DelimiterError,
    EmptyLogError,
    EncodingError,
    MixedIdError,
)
from recgraph.data.source import Source, is_gzip

__all__ = ["check_file", "check_separator", "collect"]

_USUAL_SEPARATORS = (",", "\t", ";", "|", "::")


def collect(lazy: pl.LazyFrame, source: Source) -> pl.DataFrame:
    """Run a query with the streaming engine.

    Raises:
        DataError: the subclass for what is wrong with the file, with its line where there is one.
    """
    try:
        return lazy.collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
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
    if source.format == "parquet":
        raise source.error(CorruptFileError, f"the Parquet file cannot be read: {_first_line(error)}") from None
    _check_gzip(source)
    _check_utf8(source)
    if source.format == "jsonl":
        _check_json(source)
    if source.format == "delimited":
        check_separator(source)
        if isinstance(error, pl.exceptions.SchemaError) and not source.has_header:
            raise source.error(DelimiterError, "names are not as many as the fields of the line", line=1) from None
        if len(source.separator) == 1:
            _check_fields(source)
    raise source.error(DataError, f"the file cannot be read: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_gzip(source: Source) -> None:
    assert source.path is not None
    if not is_gzip(source.path):
        return
    try:
        with gzip.open(source.path, "rb") as file:
            while file.read(1 << 20):
                pass
    except (OSError, EOFError, zlib.error) as error:
        raise source.error(CorruptFileError, f"the gzip file is damaged: {error}") from None


def _check_utf8(source: Source) -> None:
    assert source.path is not None
    opener = gzip.open if is_gzip(source.path) else open
    with opener(source.path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = f"byte {error.start + 1} of the line (0x{line[error.start]:02x})"
                message = f"{byte} is not UTF-8; convert the file"
                raise source.error(EncodingError, message, line=number) from None


def _check_json(source: Source) -> None:
    seen: dict[str, tuple[type, int]] = {}
    with source.open() as text:
        for number, line in enumerate(text, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise source.error(CorruptFileError, f"the line is not JSON: {error.msg}", line=number) from None
            if not isinstance(record, dict):
                raise source.error(CorruptFileError, "the line is not a JSON object", line=number)
            for name, value in record.items():
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
    other = next((mark for mark in _USUAL_SEPARATORS if mark in line), None)
    if other is not None:
        message = (
            f"{line[:60]!r} is not separated by {source.separator!r}; it looks separated by {other!r}: "
            f"pass separator={other!r}"
        )
        raise source.error(DelimiterError, message, line=1)
