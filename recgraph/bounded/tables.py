"""Earlier names of :mod:`recgraph.files`, until their callers have moved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from recgraph import files

__all__ = ["read_frame", "read_frame_metadata"]


def read_frame(path: Path, *, columns: Sequence[str] | None = None, memory_map: bool = True) -> pl.DataFrame:
    return files.read_frame(path, columns)


def read_frame_metadata(path: Path) -> dict[str, str]:
    with files.reading(path):
        return pl.read_parquet_metadata(path)
