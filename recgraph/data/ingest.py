"""From a file or frame to an encoded log: each reader, then the encoding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from recgraph.data.columns import Columns
from recgraph.data.encode import Encoded, encode
from recgraph.data.native import FrameKind, frame_kind, scan_frame
from recgraph.data.readers.delimited import scan_delimited
from recgraph.data.readers.jsonl import scan_jsonl
from recgraph.data.readers.parquet import scan_parquet
from recgraph.data.readers.recbole import atomic_files, read_features, scan_atomic
from recgraph.data.readers.sequences import scan_sequences
from recgraph.data.source import Source

__all__ = ["delimited", "frame", "jsonl", "parquet", "recbole", "sequences"]


def frame(table: Any, columns: Columns) -> tuple[Encoded, Source, FrameKind]:
    """A frame of pandas, polars or pyarrow."""
    raw = scan_frame(table, columns.named(), ids=(columns.user, columns.item))
    return encode(raw, columns), raw.source, frame_kind(table)


def delimited(
    path: str | Path, columns: Columns, separator: str, names: Sequence[str] | None
) -> tuple[Encoded, Columns, Source]:
    """CSV, TSV and the like."""
    raw = scan_delimited(path, separator=separator, columns=names, needed=columns.named())
    return encode(raw, columns), columns, raw.source


def jsonl(path: str | Path, columns: Columns) -> tuple[Encoded, Columns, Source]:
    """JSON lines."""
    raw = scan_jsonl(path, columns)
    return encode(raw, columns), columns, raw.source


def parquet(path: str | Path, columns: Columns) -> tuple[Encoded, Columns, Source]:
    """Parquet."""
    raw = scan_parquet(path)
    return encode(raw, columns), columns, raw.source


def sequences(path: str | Path, columns: Columns) -> tuple[Encoded, Columns, Source]:
    """One user a line."""
    raw = scan_sequences(path, user=columns.user, item=columns.item)
    return encode(raw, columns), columns, raw.source


def recbole(
    path: str | Path, columns: Columns
) -> tuple[Encoded, Columns, Source, pl.DataFrame | None, pl.DataFrame | None]:
    """RecBole atomic files, with the features of users and items."""
    files = atomic_files(path)
    raw, types = scan_atomic(files["inter"])
    absent = {name: None for name in ("timestamp", "rating") if getattr(columns, name) == name and name not in types}
    columns = columns.model_copy(update=absent)
    user_features = read_features(files["user"], columns.user) if "user" in files else None
    item_features = read_features(files["item"], columns.item) if "item" in files else None
    return encode(raw, columns), columns, raw.source, user_features, item_features
