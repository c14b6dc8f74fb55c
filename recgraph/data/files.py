"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl

__all__ = ["replace_bytes", "replace_parquet", "replace_text"]


def _temporary(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def replace_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Write a frame under a temporary name, then move it to its place."""
    temporary = _temporary(path)
    try:
        frame.write_parquet(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_text(text: str, path: Path) -> None:
    """Write a UTF-8 text under a temporary name, then move it to its place."""
    temporary = _temporary(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_bytes(content: bytes, path: Path) -> None:
    """Write bytes under a temporary name, then move it to its place."""
    temporary = _temporary(path)
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
