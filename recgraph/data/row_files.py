"""Rows as text and as files: csv, tsv, JSON, JSON lines and Parquet, of which one frame is in
memory at a time.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

import polars as pl
import polars.selectors as cs

from recgraph.files import replacing

#: of a file of rows
Form = Literal["csv", "tsv", "json", "jsonl", "parquet"]


def cell(value: Any) -> Any:
    """What a cell of a csv or tsv holds: bytes as UTF-8, the entries of a list after one another, a
    mapping as JSON.
    """
    if isinstance(value, list | tuple):
        return ",".join(map(_plain, value))
    if isinstance(value, dict):
        return json_of(value)
    return _plain(value) if isinstance(value, bytes) else value


def csv_line(cells: Iterable[Any], separator: str = ",") -> str:
    """A line of a CSV file, with its end; a cell with any line break is quoted, CR alone too."""
    line = io.StringIO()
    csv.writer(line, delimiter=separator, lineterminator="\r\n").writerow(cells)
    return line.getvalue().removesuffix("\r\n") + "\n"


def json_of(value: Any, indent: int | None = None) -> str:
    """JSON, with null for NaN and infinities, which it does not have; what it has no form for
    becomes a text.
    """
    return json.dumps(
        _finite(value), indent=indent, default=_plain, ensure_ascii=False, allow_nan=False
    )


def _plain(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return list(map(_finite, value))
    return value


def replace_parts(
    parts: Iterable[pl.DataFrame], path: Path, form: Form, rows: int = 1 << 17
) -> int:
    """Write frames of the same columns one under the other into one file, atomically -> how many
    rows there are.

    ``parts`` (at least one) are read once, as they are written; an error that reading one raises
    leaves no file.
    """
    parts = iter(parts)
    first = next(parts)
    count = 0

    def counted() -> Iterator[pl.DataFrame]:
        nonlocal count
        for part in itertools.chain([first], parts):
            count += part.height
            yield part

    with replacing(path) as temporary:
        if form == "parquet":
            from polars.io.plugins import register_io_source

            # a sink asks for everything, once
            source = register_io_source(lambda *_: counted(), schema=first.schema)
            source.sink_parquet(temporary, row_group_size=rows)
        else:
            with temporary.open("wb") as file:
                _write_texts(counted(), file, form)
    return count


def _write_texts(parts: Iterator[pl.DataFrame], file: BinaryIO, form: Form) -> None:
    if form in ("csv", "tsv"):
        separator = "," if form == "csv" else "\t"
        for number, part in enumerate(parts):
            cells = _as_texts(part, cs.nested() | cs.binary() | cs.duration())
            cells.write_csv(file, include_header=number == 0, separator=separator)
        return
    before = b"[\n"
    for part in parts:
        lines = _as_texts(part, cs.binary()).write_ndjson().encode()
        if form == "json" and lines:
            lines = before + lines.rstrip(b"\n").replace(b"\n", b",\n")
            before = b",\n"
        file.write(lines)
    if form == "json":
        file.write(b"\n]\n" if before == b",\n" else b"[]\n")


def _as_texts(frame: pl.DataFrame, columns: cs.Selector) -> pl.DataFrame:
    """The frame with some columns as texts (:func:`cell`)."""
    for column in frame.select(columns):
        texts = [None if value is None else str(cell(value)) for value in column.to_list()]
        frame = frame.with_columns(pl.Series(column.name, texts, pl.String))
    return frame
