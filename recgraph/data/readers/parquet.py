"""Parquet files, or a folder or pattern of them."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from recgraph.data.readers.diagnose import check_file, collect
from recgraph.data.source import Raw, Source

__all__ = ["scan_parquet"]


def scan_parquet(path: str | Path) -> Raw:
    """Scan a Parquet file, or all ``*.parquet`` of a folder in the order of their names.

    Raises:
        FileNotFoundError: nothing is there.
        DataError: empty or damaged.
    """
    path = Path(path)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [check_file(path)]
    if not files:
        raise FileNotFoundError(f"folder {str(path)!r} holds no *.parquet file")
    source = Source("parquet", path)
    lazy = pl.scan_parquet(files)
    collect(lazy.head(0), source)
    return Raw(lazy, source)
