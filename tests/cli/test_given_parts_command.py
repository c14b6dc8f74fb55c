"""Parts of one's own on the command line: trained, tuned, checked, measured, moved, changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from command_line import refused, works

import recgraph as rg

PARTS = ("--train", "train.csv", "--valid", "valid.csv", "--test", "test.csv")


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for name, n in (("train", 200), ("valid", 40), ("test", 40)):
        frame = {"user": generator.integers(0, 20, n), "item": generator.integers(0, 15, n)}
        pl.DataFrame(frame).write_csv(f"{name}.csv")


def test_parts_are_trained_on_checked_measured_and_found_again() -> None:
    trained = works("train popularity --out run", *PARTS)
    assert "interactions of test are of pairs of user and item that an earlier part has" in trained.stderr
    split = rg.Split.from_parts("train.csv", "valid.csv", "test.csv")
    record = rg.Run.open("run").record
    assert (record.data.split, record.data.split_hash) == ("given", split.hash)
    assert record.unsealed == []
    works("evaluate run")
    (protocol, *_) = (each["protocol"] for each in rg.Run.open("run").record.results["test"])
    assert json.loads(protocol["split_facts"])["test"] == 40
    rows = json.loads(works("check --format json", *PARTS).stdout)
    assert {row["check"] for row in rows} >= {"duplicates in test"}
    for name in ("train", "test"):
        Path("away").mkdir(exist_ok=True)
        Path(f"{name}.csv").rename(f"away/{name}.csv")
    assert "--data FILE" in refused("evaluate run")
    works("evaluate run --train away/train.csv --test away/test.csv")
    pl.DataFrame({"user": [1], "item": [1]}).write_csv("away/test.csv")
    assert "is not the file that the run was made from" in refused(
        "evaluate run --train away/train.csv --test away/test.csv"
    )


def test_half_a_set_of_parts_is_refused() -> None:
    assert "--train FILE and --valid FILE, --test FILE or both" in refused("train popularity --out r --test test.csv")
    assert "--train FILE and" in refused("train popularity --out r --train train.csv")
    assert "exclude one another" in refused("train popularity --out r --data train.csv", *PARTS)
    works("train popularity --out r --train train.csv --test test.csv --set split_seed=3")
    assert rg.Run.open("r").record.data.settings["split_seed"] == 3
    assert "made without such a file" in refused("evaluate r --valid valid.csv")
