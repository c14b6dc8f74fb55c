"""What is wrong with a file of a log that cannot be read, with its line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Self

import polars as pl

from recgraph.data.errors import (
    CorruptFileError,
    DataError,
    DelimiterError,
    EmptyLogError,
    EncodingError,
    MixedIdError,
    first_line,
)
from recgraph.data.lines import long_fields
from recgraph.data.packing import DAMAGES, open_bytes, packing_of, read_through, unpacking
from recgraph.data.source import Source

__all__ = ["check_file", "check_separator", "collect", "explained", "json_record", "usual_separator"]

_OR_NONE = "; or, where no field is quoted, give quotes=False (--no-quotes)"
#: "::" first, as it separates no text of another form
_USUAL_SEPARATORS = ("::", ",", "\t", ";", "|")


def collect(lazy: pl.LazyFrame, source: Source) -> pl.DataFrame:
    """Run a query with the streaming engine; where it fails, find out what is wrong with the file.

    Raises:
        DataError: the subclass for what is wrong with the file, with its line where there is one.
    """
    try:
        return lazy.collect(engine="streaming")
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        _explain(source, error)


@contextmanager
def explained(source: Source) -> Iterator[None]:
    """The block reads the text of a file; where that fails, find out what is wrong with it.

    Raises:
        DataError: as :func:`collect`.
    """
    try:
        yield
    except (*DAMAGES, csv.Error) as error:
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


def _explain(source: Source, error: BaseException) -> NoReturn:
    if source.path is None:
        raise DataError(f"the frame cannot be read: {first_line(error)}") from error
    for part in source.parts or (source,):
        _find_fault(part, error)
    raise source.error(DataError, f"the file cannot be read: {first_line(error)}") from error


def _find_fault(source: Source, error: BaseException) -> None:
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
            message = (
                f"names are not as many as the fields of the line, separated by {source.separator!r}; give another "
                "separator= (--separator), or one name a field"
            )
            raise source.error(DelimiterError, message, line=1) from None
        if len(source.separator) == 1:
            _check_fields(source)


def _check_parquet(source: Source) -> None:
    assert source.path is not None
    path = source.path
    try:
        files = sorted(path.glob("*.parquet")) if path.is_dir() else path
        pl.scan_parquet(files, glob=False).collect(engine="streaming")
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise source.error(CorruptFileError, f"the Parquet file cannot be read: {first_line(error)}") from None


def _check_packed(source: Source) -> None:
    assert source.path is not None
    if packing_of(source.path) != "none":
        with unpacking(source.path):
            read_through(source.path)


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
        record = json.loads(line, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        message = f"the line is not JSON: {error.msg}{_other_form(line)}"
        raise source.error(CorruptFileError, message, line=number) from None
    except RecursionError:
        raise source.error(CorruptFileError, "the line's values are nested too deep", line=number) from None
    except ValueError as error:  # a constant, or an integer of thousands of digits
        raise source.error(CorruptFileError, f"the line is not JSON: {error}", line=number) from None
    if not isinstance(record, dict):
        raise source.error(CorruptFileError, f"the line is not a JSON object{_other_form(line)}", line=number)
    return record


def _other_form(line: str) -> str:
    """What a line of other usual forms is, and what to do with it."""
    if line.lstrip().startswith("["):
        return "; one list of all objects is not read: write one object a line (jq -c '.[]' FILE)"
    if line.lstrip().startswith(("{'", "{u'")):
        return "; this is a dict of Python: write it with json.dumps"
    return ""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON; write null, or leave the key out")


def _check_json(source: Source) -> None:
    seen: dict[str, tuple[type, int]] = {}
    with source.open() as text:
        for number, line in enumerate(text, start=1):
            for name, value in json_record(source, line, number).items():
                if type(value) is int and not -(2**63) <= value < 2**63:
                    message = f"the integer of {name!r} does not fit into 64 bits; write it as a text"
                    raise source.error(MixedIdError, message, line=number)
                _same_type(source, seen, name, value, number)


def _same_type(source: Source, seen: dict[str, tuple[type, int]], name: str, value: object, line: int) -> None:
    if value is None:
        return
    kind, first = seen.setdefault(name, (type(value), line))
    if kind is not type(value) and ({kind, type(value)} != {int, float} or (kind is int and name in source.ids)):
        message = (
            f"column {name!r} holds {value!r} ({type(value).__name__}), but line {first} holds "
            f"a {kind.__name__}; write all values of the column in one type"
        )
        raise source.error(MixedIdError, message, line=line)


def _check_fields(source: Source) -> None:
    """Raise for the first row with more fields than the first, or with quotes that do not pair."""
    with source.open() as text, long_fields():
        lines = _Remembering(text)
        reader = source.reader(lines, strict=True)
        width, start = None, 1
        while True:
            lines.quotes = 0
            try:
                fields = next(reader, None)
            except csv.Error as error:
                message = f"a quote that begins in this row does not end as it must ({error}); write a quote within "
                raise source.error(
                    CorruptFileError, f'{message}a quoted field twice: ""{_OR_NONE}', line=start
                ) from None
            if fields is None:
                return
            if source.quotes and lines.quotes % 2:
                message = "a quote stands within a field; put the field in quotes and write the quote within it twice"
                raise source.error(CorruptFileError, message + _OR_NONE, line=start)
            width = len(fields) if width is None else width
            if fields and len(fields) > width:
                message = f"{len(fields)} fields separated by {source.separator!r}, the first line has {width}"
                raise source.error(DelimiterError, message, line=start)
            start = reader.line_num + 1


class _Remembering:
    """Lines, and how many quotes the last ones of them had."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines, self.quotes = iter(lines), 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.quotes += line.count('"')
        return line


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


def usual_separator(line: str, otherwise: str | None = None, n_fields: int | None = None) -> str | None:
    """The first of the usual separators that a line holds; rather one that makes ``n_fields`` of it."""
    held = [mark for mark in _USUAL_SEPARATORS if mark in line]
    return next((mark for mark in held if line.count(mark) + 1 == n_fields), next(iter(held), otherwise))
