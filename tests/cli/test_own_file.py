"""A log of one's own on the command line, as a user types it: trained, tuned, compared, served,
changed, moved.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command_line import refused, works

import recgraph as rg

SMALL = ("--set", "max_epochs=1", "--set", "hidden_dim=16", "--set", "batch_size=128")


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def rows(line: str, *more: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(works(line, *more, "--format", "json").stdout)
    return found


def log(n_users: int = 40, n_items: int = 30, each: int = 12) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    n = n_users * each
    return pd.DataFrame(
        {
            "customer_id": np.repeat(1000 + np.arange(n_users), each),
            "sku": generator.integers(500, 500 + n_items, n),
            "stars": generator.integers(1, 6, n),
            "event_time": 1_700_000_000 + generator.permutation(n),
        }
    )


def test_from_a_file_to_recommendations_with_its_own_names() -> None:
    log().to_parquet("log.parquet")
    trained = works("train sasrec --data log.parquet --out run", *SMALL)
    assert (
        "user = 'customer_id', item = 'sku', timestamp = 'event_time', rating = 'stars'"
        in trained.stderr
    )
    # nothing has to be said again
    assert {row["metric"] for row in rows("evaluate run")} >= {"ndcg@10", "recall@10"}
    found = rows("recommend run --user 1000 -k 3")
    assert [list(row)[:2] for row in found] == [["customer_id", "sku"]] * 3
    assert all(isinstance(row["sku"], int) and row["customer_id"] == 1000 for row in found)
    assert works("inspect run --user 1000 -k 2").stdout
    assert {row["check"] for row in rows("check --data log.parquet")} >= {"time leakage"}
    record = rg.Run.open("run").record.data
    assert record.dataset == str(Path("log.parquet").absolute())
    assert record.file is not None
    assert len(record.file["sha256"]) == 64
    assert record.settings["reading"] == {
        "user": "customer_id",
        "item": "sku",
        "timestamp": "event_time",
        "rating": "stars",
    }


@pytest.mark.parametrize(
    "given", ["--user who --item what --time at --rating none", "--user who --item what"]
)
def test_columns_that_are_named(given: str) -> None:
    frame = log().rename(
        columns={"customer_id": "who", "sku": "what", "event_time": "at", "stars": "score"}
    )
    frame.to_csv("log.csv", index=False)
    assert "--user NAME" in refused("train popularity --data log.csv --out run")
    works(f"train popularity --data log.csv {given} --out run")
    settings = rg.Run.open("run").record.data.settings["reading"]
    assert settings["timestamp"] == "at"
    assert settings["rating"] == ("none" if "none" in given else "score")
    assert [*rows("recommend run --user 1003 -k 1")[0]][:2] == ["who", "what"]


def test_weights_that_are_named() -> None:
    frame = log()
    frame.assign(w=np.where(frame["sku"] == 501, 9.0, 1.0)).to_csv("log.csv", index=False)
    works("train popularity --data log.csv --weight w --out run")
    assert rows("recommend run --user 1000 -k 1 --keep-seen")[0]["sku"] == 501


def test_a_file_that_has_changed_or_is_gone() -> None:
    log().to_csv("log.csv", index=False)
    works("train popularity --data log.csv --out run")
    before = rows("evaluate run")
    with Path("log.csv").open("a") as file:
        file.write("1000,501,5,1800000000\n")
    refused("evaluate run")
    Path("log.csv").unlink()
    assert "log.csv" in refused("evaluate run")
    log().to_parquet("moved.parquet")  # its content counts, not how it is written
    assert rows("evaluate run --data moved.parquet") == before
    log()[:-5].to_csv("moved.csv", index=False)
    refused("evaluate run --data moved.csv")
    assert rows("recommend run --user 1000 -k 1")  # a bundle needs no data
    assert refused("train popularity --data moved.csv --out run --resume")


def test_new_logs_are_read_like_that_of_the_run() -> None:
    frame = log().assign(event_time=lambda given: pd.to_datetime(given["event_time"], unit="s"))
    frame = frame.assign(sku="é" + frame["sku"].astype(str)).sort_values("event_time")
    form = "%d.%m.%Y %H:%M:%S"
    as_text: dict[str, Any] = {
        "index": False,
        "header": False,
        "date_format": form,
        "encoding": "latin-1",
    }
    frame[:300].to_csv("old.txt", **as_text)
    options = '--reading format=csv --reading names=["customer_id","sku","stars","event_time"]'
    line = f"train itemknn --data old.txt --out run {options} --reading encoding=latin-1"
    works(line, "--reading", f"time_format={form}")
    frame[300:390].to_csv("new.txt", **as_text)
    assert "new: 90 interactions" in works("update run --data new.txt --out second --force").stderr


def test_item_features_beside_the_log() -> None:
    log().to_csv("log.csv", index=False)
    titles = pd.DataFrame({"sku": range(500, 540), "title": [f"Thing {n}" for n in range(40)]})
    titles.to_csv("things.csv", index=False)
    works("train popularity --data log.csv --item-features things.csv --out run")
    found = rows("recommend run --user 1000 -k 2 --with title")
    assert [row["title"] for row in found] == [f"Thing {row['sku'] - 500}" for row in found]
    assert rows("evaluate run")
    works("data init log.csv --item-features things.csv")
    assert 'item_features = "things.csv"' in Path("log.toml").read_text()
    works("train popularity --dataset log.toml --out other")
    assert rows("recommend other --user 1000 -k 2 --with title") == found
    Path("things.csv").unlink()
    assert "things.csv" in refused("evaluate run")
