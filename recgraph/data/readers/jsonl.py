"""JSON lines: one object a line."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import polars as pl

from recgraph.data.columns import Columns
from recgraph.data.errors import CorruptFileError, MissingColumnError, MixedIdError
from recgraph.data.readers.diagnose import check_file, collect
from recgraph.data.source import Raw, Source

__all__ = ["scan_jsonl"]

_SAMPLE = 1000
_TYPES = {int: pl.Int64, str: pl.String, float: pl.Float64, bool: pl.Boolean}


def scan_jsonl(path: str | Path, columns: Columns) -> Raw:
    """Scan a JSON-lines file, plain or gzip; ids keep their JSON type.

    Args:
        path: the file.
        columns: the names that will be asked for.

    Raises:
        DataError: empty, damaged, not JSON, ids of several types; with the line.
    """
    source = Source("jsonl", check_file(path))
    types, names = _types(source, columns)
    missing = [name for name in columns.named() if name not in types]
    if names and missing:
        message = f"there is no column {missing[0]!r}; the first lines have {', '.join(map(repr, names))}"
        raise source.error(MissingColumnError, message, line=1)
    lazy = _scan(source, types)
    for name in (columns.user, columns.item):
        if types.get(name) == pl.String:
            _check_texts(source, name)
    return Raw(lazy, source)


def _scan(source: Source, types: dict[str, Any]) -> pl.LazyFrame:
    assert source.path is not None
    if not source.has_mark():
        return pl.scan_ndjson(source.path, schema=types)
    # the scanner takes the mark for a part of the first object
    records = pl.col("line").str.json_decode(pl.Struct(types))
    lines = source.scan_lines().filter(pl.col("line").str.strip_chars() != "")
    return lines.select(records).unnest("line")


def _types(source: Source, columns: Columns) -> tuple[dict[str, Any], list[str]]:
    """The types of the named columns and the names of all columns, from the first lines.

    Ids have their JSON type. All else is text: numbers and times are parsed later, so that an odd one is
    reported with its line.
    """
    names: dict[str, None] = {}
    first: dict[str, tuple[type, int]] = {}
    try:
        with source.open() as text:
            for number, line in itertools.islice(enumerate(text, start=1), _SAMPLE):
                for name, value in _record(source, line, number).items():
                    names.setdefault(name)
                    if name in (columns.user, columns.item) and value is not None:
                        _note(source, first, name, value, number)
    except (OSError, EOFError):  # a damaged gzip file: say so
        collect(source.scan_lines(), source)
        raise
    ids = {name: _TYPES[kind] for name, (kind, _) in first.items()}
    return {name: ids.get(name, pl.String) for name in columns.named() if name in names}, list(names)


def _record(source: Source, line: str, number: int) -> dict[str, Any]:
    if not line.strip():
        return {}
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise source.error(CorruptFileError, f"the line is not JSON: {error.msg}", line=number) from None
    if not isinstance(record, dict):
        raise source.error(CorruptFileError, "the line is not a JSON object", line=number)
    return record


def _note(source: Source, first: dict[str, tuple[type, int]], name: str, value: Any, number: int) -> None:
    kind, where = first.setdefault(name, (type(value), number))
    if type(value) not in _TYPES:
        message = f"the id {value!r} (column {name!r}) is a {type(value).__name__}; ids are texts or numbers"
        raise source.error(MixedIdError, message, line=number)
    if type(value) is not kind:
        message = (
            f"the id {value!r} (column {name!r}) is a {type(value).__name__}, but line {where} holds a "
            f"{kind.__name__}; write all ids of the column in one type"
        )
        raise source.error(MixedIdError, message, line=number)


def _check_texts(source: Source, name: str) -> None:
    """Look for ids without quotes: where texts are expected the scanner makes a text of a number."""
    quoted = rf'"{re.escape(name)}"\s*:\s*(?:"|null)'
    suspects = source.scan_lines().filter(
        ~pl.col("line").str.contains(quoted) & (pl.col("line").str.strip_chars() != "")
    )
    for number, line in collect(suspects, source).iter_rows():
        value = _record(source, line, number).get(name)
        if value is not None and not isinstance(value, str):
            message = (
                f"the id {value!r} (column {name!r}) is a {type(value).__name__}, but the lines before hold "
                "texts; write all ids of the column in one type"
            )
            raise source.error(MixedIdError, message, line=number)
