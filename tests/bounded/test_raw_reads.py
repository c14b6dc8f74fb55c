"""No reader of the library parses or unpacks a file by itself; see tests/checks/raw_reads.py."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "checks"))
import raw_reads


def test_the_library_reads_by_bounded_readers_alone() -> None:
    assert raw_reads.check() == []


def test_raw_reads_are_found() -> None:
    source = """
import json, zipfile, torch, numpy as np, polars as pl
json.loads(path.read_text())
torch.load(path)
np.load(path, allow_pickle=True)
with zipfile.ZipFile(path) as archive:
    pl.read_parquet(path)
self.json.dumps(1)
"""
    found = [what for _, what in raw_reads.offences(source)]
    assert sorted(found) == [
        "allow_pickle",
        "json.loads",
        "np.load",
        "pl.read_parquet",
        "torch.load",
        "zipfile.ZipFile",
    ]
