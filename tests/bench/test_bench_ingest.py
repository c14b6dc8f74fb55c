"""The ingest benchmark runs and reports what it says it does."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.bench.ingest import generate, measure


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_small_log(form: str, tmp_path: Path) -> None:
    line = measure(generate(tmp_path, form, rows=20_000, users=1_000, items=500), form)
    assert line["unit"] == "s"
    assert isinstance(line["peak_mb"], int)
    assert line["peak_mb"] < 2_000
    kept = line["kept"]
    assert isinstance(kept, dict)
    assert 0 < kept["users"] == line["test_cases"] < 1_000
    assert line["train"] == kept["interactions"] - 2 * kept["users"]
