"""Earlier names of :mod:`recgraph.files`, until their callers have moved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from recgraph.files import check_manifest, read_frame, read_manifest
from recgraph.files import read_object as load_json
from recgraph.files import read_tensors as load_tensors
from recgraph.files import write_frame as replace_parquet
from recgraph.files import write_json as replace_json
from recgraph.files import write_manifest as write_checksums
from recgraph.files import write_tensors as replace_tensors
from recgraph.files import write_text as replace_page

__all__ = [
    "check",
    "check_folder",
    "json_text",
    "load_frame",
    "load_json",
    "load_tensors",
    "replace_json",
    "replace_page",
    "replace_parquet",
    "replace_tensors",
    "write_checksums",
]


def json_text(value: Mapping[str, Any], **options: Any) -> str:
    return json.dumps(value, indent=1, **options) + "\n"


def load_frame(path: Path, memory_map: bool = True) -> pl.DataFrame:
    return read_frame(path)


def check(path: Path) -> None:
    return None


def check_folder(folder: Path, of_earlier: str = "") -> set[str]:
    check_manifest(folder)
    return {*read_manifest(folder)}
