"""The generated logs, the stages on small ones, and the commands from a file to recommendations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from experiments.bench import big_log, cache_growth, growth, log_growth, power_law

ROWS = 5_000


@pytest.fixture(autouse=True)
def _data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECGRAPH_BENCH_DATA", str(tmp_path / "data"))


def test_generated_log() -> None:
    log = power_law.generate(100_000)
    assert log.height == 100_000
    assert log["time"].is_sorted()
    counts = log["user"].value_counts()["count"]
    assert len(counts) == power_law.n_users(100_000) == 4_000
    assert counts.min() == 5
    assert counts.max() > 10 * counts.median()
    items = log["item"].value_counts(sort=True)["count"]
    assert len(items) <= power_law.n_items(100_000) == 1_000
    assert items[:10].sum() > 20 * items[-10:].sum()
    assert log.equals(power_law.generate(100_000))
    assert not log.equals(power_law.generate(100_000, seed=1))


def test_files_of_a_log() -> None:
    numbers, texts = (pl.read_parquet(power_law.kept(ROWS, texts=named)) for named in (False, True))
    assert numbers["user"].dtype == pl.Int32
    assert texts["user"].to_list() == [f"user-{user:08}" for user in numbers["user"]]
    assert numbers.drop("user").equals(texts.drop("user"))
    assert pl.read_csv(power_law.kept(ROWS, ".csv")).equals(numbers.cast(pl.Int64))
    made = power_law.kept(ROWS).stat().st_mtime_ns
    assert power_law.kept(ROWS).stat().st_mtime_ns == made


@pytest.mark.parametrize("stage", log_growth.stages(), ids=lambda stage: stage.name)
def test_stages(stage: growth.Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    if "ann" in stage.name or stage.name.startswith("ranking"):
        pytest.importorskip("faiss")
    monkeypatch.setattr(log_growth, "_STEPS", 2)
    prepared = stage.prepare(ROWS)
    for _ in range(2):
        share = stage.run(prepared)
        assert not isinstance(share, float) or share > 0
    assert (stage.count is None) == (stage.counted == "")
    if stage.count is not None:
        # of each row, or item, something is looked at
        assert stage.count(prepared) >= ROWS


def test_reads_at_random() -> None:
    stage, at_random, in_order = cache_growth.stages()
    table, places, read = stage.prepare(2**15)
    stage.run((table, places, read))
    assert (read == table[places]).all()
    assert len(np.unique(places)) == 2**13
    for rows in (at_random, in_order):
        adj, vectors = rows.prepare(2**20)
        steps = adj.indices.diff() % len(vectors)
        assert bool((steps == 1).all()) == (rows is in_order)
        assert (len(vectors), len(adj.indices.unique())) == (2**13, 2**13)
        rows.run((adj, vectors))


def test_from_a_file_to_recommendations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))
    out = tmp_path / "lines.jsonl"
    assert big_log.main(["--rows", str(ROWS), "--work", str(tmp_path / "work"), "--out", str(out)]) == 0
    train, recommend = growth.read(out)
    assert (train["stage"], recommend["stage"]) == ("train", "recommend")
    assert all(line["cpu_s"] > 0 and 0.1 < line["peak_gb"] < 3 for line in (train, recommend))
    lists = pl.read_parquet(tmp_path / "work" / "lists.parquet")
    assert lists.height == 10 * power_law.n_users(ROWS)
    assert recommend["said"].startswith(f"{lists.height} rows written")


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="no-such"):
        big_log.measured(["train", "no-such"], threads=1)
