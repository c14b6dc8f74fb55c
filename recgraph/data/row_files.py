"""Frames written one under the other into one file, of which one is in memory at a time."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import polars as pl

from recgraph.data.files import replacing_file
from recgraph.data.imprint import imprint, parquet_metadata

__all__ = ["Form", "replace_parts"]

#: of a file of rows
Form = Literal["csv", "tsv", "json", "jsonl", "parquet"]


def replace_parts(parts: Iterable[pl.DataFrame], path: Path, form: Form, rows: int = 1 << 17) -> int:
    """Write frames of the same columns one under the other into one file, atomically; one is held at a time.

    Args:
        parts: read once, as they are written. An error that reading one raises leaves no file.
        path: the file.
        form: ``csv`` and ``tsv`` have a header line, ``json`` is one list, ``jsonl`` has an object a line.
        rows: of a row group of Parquet.

    Returns:
        how many rows were written.

    Raises:
        ValueError: there is no part, so that the columns are not known.
    """
    whole = iter(parts)
    first = next(whole, None)
    if first is None:
        raise ValueError(f"there is nothing to write to {path}")
    count = 0

    def counted() -> Iterator[pl.DataFrame]:
        nonlocal count
        for part in itertools.chain([first], whole):
            count += part.height
            yield part

    with replacing_file(path) as temporary:
        if form == "parquet":
            _sink(counted(), first.schema, temporary, rows)
            imprint(temporary)
        else:
            with temporary.open("wb") as file:
                _write_texts(counted(), file, form)
    return count


def _sink(parts: Iterator[pl.DataFrame], schema: pl.Schema, path: Path, rows: int) -> None:
    from polars.io.plugins import register_io_source

    def read(columns: Any, predicate: Any, n_rows: Any, batch_size: Any) -> Iterator[pl.DataFrame]:
        return parts  # a sink asks for everything, once

    register_io_source(read, schema=schema).sink_parquet(path, row_group_size=rows, metadata=parquet_metadata())


def _writable(part: pl.DataFrame, form: Form) -> pl.DataFrame:
    """The frame with texts for columns that polars cannot write in a form: bytes, and in cells lists and the like."""
    cells = form in ("csv", "tsv")
    columns = [
        pl.Series(name, [_text(value) for value in part[name]], pl.String)
        for name, dtype in part.schema.items()
        if _holds_bytes(dtype) or (cells and (dtype.is_nested() or dtype == pl.Duration))
    ]
    return part.with_columns(columns)


def _holds_bytes(dtype: Any) -> bool:
    if isinstance(dtype, pl.Struct):
        return any(_holds_bytes(field.dtype) for field in dtype.fields)
    return _holds_bytes(dtype.inner) if isinstance(dtype, pl.List | pl.Array) else bool(dtype == pl.Binary)


def _text(value: Any) -> str | None:
    """A value as the commands print it in a cell."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, pl.Series | list | tuple):
        return ",".join(_text(entry) or "" for entry in value)
    return json.dumps(value, default=_text, ensure_ascii=False) if isinstance(value, dict) else str(value)


def _write_texts(parts: Iterator[pl.DataFrame], file: BinaryIO, form: Form) -> None:
    parts = (_writable(part, form) for part in parts)
    if form in ("csv", "tsv"):
        for number, part in enumerate(parts):
            part.write_csv(file, include_header=number == 0, separator="," if form == "csv" else "\t")
    elif form == "jsonl":
        for part in parts:
            part.write_ndjson(file)
    else:
        before = b"[\n"
        for part in parts:
            if part.height:
                file.write(before + part.write_ndjson().encode().rstrip(b"\n").replace(b"\n", b",\n"))
                before = b",\n"
        file.write(b"\n]\n" if before == b",\n" else b"[]\n")
