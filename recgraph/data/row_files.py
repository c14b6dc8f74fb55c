"""Frames written one under the other into one file, of which one is in memory at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import polars as pl

from recgraph.files import replacing
from recgraph.texts import cell

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

    with replacing(path) as temporary:
        if form == "parquet":
            _sink(counted(), first.schema, temporary, rows)
        else:
            with temporary.open("wb") as file:
                _write_texts(counted(), file, form)
    return count


def _sink(parts: Iterator[pl.DataFrame], schema: pl.Schema, path: Path, rows: int) -> None:
    from polars.io.plugins import register_io_source

    def read(columns: Any, predicate: Any, n_rows: Any, batch_size: Any) -> Iterator[pl.DataFrame]:
        return parts  # a sink asks for everything, once

    register_io_source(read, schema=schema).sink_parquet(path, row_group_size=rows)


def as_cells(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with texts (:func:`recgraph.texts.cell`) for what no cell of a csv holds: lists, bytes, spans."""
    return _as_texts(frame, lambda dtype: dtype.is_nested() or dtype in (pl.Binary, pl.Duration))


def _as_texts(frame: pl.DataFrame, wanted: Callable[[pl.DataType], bool]) -> pl.DataFrame:
    columns = [
        pl.Series(name, [None if value is None else str(cell(value)) for value in frame[name].to_list()], pl.String)
        for name, dtype in frame.schema.items()
        if wanted(dtype)
    ]
    return frame.with_columns(columns)


def _holds_bytes(dtype: Any) -> bool:
    if isinstance(dtype, pl.Struct):
        return any(_holds_bytes(field.dtype) for field in dtype.fields)
    return _holds_bytes(dtype.inner) if isinstance(dtype, pl.List | pl.Array) else bool(dtype == pl.Binary)


def _write_texts(parts: Iterator[pl.DataFrame], file: BinaryIO, form: Form) -> None:
    if form in ("csv", "tsv"):
        for number, part in enumerate(map(as_cells, parts)):
            part.write_csv(file, include_header=number == 0, separator="," if form == "csv" else "\t")
        return
    parts = (_as_texts(part, _holds_bytes) for part in parts)  # polars writes no bytes into JSON
    if form == "jsonl":
        for part in parts:
            part.write_ndjson(file)
    else:
        before = b"[\n"
        for part in parts:
            if part.height:
                file.write(before + part.write_ndjson().encode().rstrip(b"\n").replace(b"\n", b",\n"))
                before = b",\n"
        file.write(b"\n]\n" if before == b",\n" else b"[]\n")
