"""Earlier names of :mod:`recgraph.files`, until their callers have moved."""

from __future__ import annotations

from pathlib import Path

from recgraph.files import check_plain, within
from recgraph.files import reading as named
from recgraph.files import sha256 as sha256_of

__all__ = ["check_memory", "check_plain", "file_size", "named", "sha256_of", "within"]


def file_size(path: Path) -> int:
    return path.stat().st_size


def check_memory(n_bytes: int, path: Path, size: int | None = None) -> None:
    return None
