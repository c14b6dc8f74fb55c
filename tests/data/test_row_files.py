"""Files that are written part by part."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from refusing import refused

from recgraph.data.row_files import Form, replace_parts

READERS: dict[Form, Any] = {
    "csv": pl.read_csv,
    "tsv": lambda path: pl.read_csv(path, separator="\t"),
    "json": pl.read_json,
    "jsonl": pl.read_ndjson,
    "parquet": pl.read_parquet,
}


def parts(sizes: list[int], fail_at: int | None = None) -> Iterator[pl.DataFrame]:
    start = 0
    for number, size in enumerate(sizes):
        if number == fail_at:
            raise ValueError("the third part fails")
        index = range(start, start + size)
        yield pl.DataFrame(
            {"user": [f'u, "{n}"\n' for n in index], "rank": index},
            schema={"user": pl.String, "rank": pl.Int64},
        )
        start += size


@pytest.mark.parametrize("form", list(READERS))
@pytest.mark.parametrize("sizes", [[3, 1, 4], [0, 2, 0, 1], [0]])
def test_parts_lie_one_under_the_other(tmp_path: Path, form: Form, sizes: list[int]) -> None:
    path = tmp_path / "rows"
    assert replace_parts(parts(sizes), path, form) == sum(sizes)
    if form == "json" and not sum(sizes):
        assert path.read_text() == "[]\n"
    elif sum(sizes) or form in ("csv", "parquet"):
        found = READERS[form](path)
        assert found["rank"].to_list() == [*range(sum(sizes))]
        assert found["user"].to_list() == pl.concat(parts(sizes))["user"].to_list()
    assert [each.name for each in tmp_path.iterdir()] == ["rows"]


@pytest.mark.parametrize("form", list(READERS))
def test_an_error_leaves_what_was_there(tmp_path: Path, form: Form) -> None:
    path = tmp_path / "rows"
    path.write_text("earlier")
    with refused("third"):
        replace_parts(parts([2, 2, 2], fail_at=2), path, form)
    assert path.read_text() == "earlier"
    assert [each.name for each in tmp_path.iterdir()] == ["rows"]
