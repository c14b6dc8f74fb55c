"""Records of runs: what they hold, and a run that is opened again with the features that it was made with."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from refusing import refused

import recgraph as rg
from recgraph.data.split import Split
from recgraph.models.sequence.sasrec import SASRec
from recgraph.train.record import RunRecord
from recgraph.train.settings import features_of

SMALL = {"hidden_dim": 8, "encoder": {"n_heads": 1, "n_layers": 1}}
TRAINING: dict[str, Any] = {"seed": 0, "device": "cpu", "batch_size": 16, "patience": None}
N_ITEMS = 9


def write_features(path: Path, step: int = 1) -> Path:
    rows = [{"item": item, "kind": f"k{item // step % 2}"} for item in range(N_ITEMS)]
    pl.DataFrame(rows).write_csv(path)
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    rows = [(user, (user + step * step) % N_ITEMS, step) for user in range(12) for step in range(6)]
    path = tmp_path / "log.csv"
    pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row").write_csv(path)
    write_features(tmp_path / "items.csv")
    return path


def split_of(log: Path) -> Split:
    return rg.load_data(log, item_features=log.with_name("items.csv")).split("leave-one-out")


def in_memory(log: Path, step: int = 1) -> Split:
    rows = [{"item": item, "kind": f"k{item // step % 2}"} for item in range(N_ITEMS)]
    return rg.load_data(log, item_features=pl.DataFrame(rows)).split("leave-one-out")


def reader() -> SASRec:
    return SASRec(**SMALL, items={"features": ("kind",)})


@pytest.mark.parametrize("is_trained", [False, True])
def test_the_entries_of_a_record(is_trained: bool, log: Path, tmp_path: Path) -> None:
    model: Any = SASRec(**SMALL) if is_trained else rg.models.EASE()
    run = rg.fit(model, split_of(log), seed=0, out=tmp_path / "run", **({"max_epochs": 1} if is_trained else {}))
    names = ["model", "config", "training", "seed", "fitted_on", "data", "init_items", "history", "results", "unsealed"]
    names += ["preparation", *(["best_epoch", "best"] if is_trained else []), "cost", "n_parameters", "provenance"]
    written = json.loads((tmp_path / "run" / "record.json").read_text())
    assert list(written) == names
    assert run.record == RunRecord.read(tmp_path / "run")
    assert run.record["seed"] == 0
    assert run.record.get("update") is None
    assert "on" in repr(run)
    assert "<table" in run._repr_html_() or "recgraph" in run._repr_html_()
    assert len(written["data"]["features"]["item_features"]["sha256"]) == 64


def test_a_folder_without_a_record_is_no_run(log: Path, tmp_path: Path) -> None:
    run = rg.fit("ease", split_of(log), seed=0, out=tmp_path / "run")
    for folder in (tmp_path / "run" / "bundle", tmp_path / "nope"):
        with refused(str(folder)):
            rg.Run.open(folder)
    (tmp_path / "run" / "record.json").write_text(json.dumps({**run.record.to_json(), "seed": "x"}))
    with refused("record.json", "seed"):
        rg.Run.open(tmp_path / "run")


@pytest.mark.parametrize("made", [split_of, in_memory])
def test_a_run_is_not_opened_or_gone_on_with_with_other_features_where_its_model_reads_them(
    made: Any, log: Path, tmp_path: Path
) -> None:
    folder, items = tmp_path / "run", tmp_path / "items.csv"
    rg.fit(reader(), made(log), out=folder, max_epochs=1, **TRAINING)
    before = rg.Run.open(folder, made(log)).evaluate("valid").to_dict()
    items.rename(tmp_path / "kept.csv")
    write_features(items, 2)
    other = split_of(log) if made is split_of else in_memory(log, 2)
    with refused("item_features", "SASRec"):
        rg.Run.open(folder, other)
    with refused("item_features", "SASRec"):
        rg.fit(reader(), other, out=folder, max_epochs=2, resume=True, **TRAINING)
    if made is split_of:  # the way out
        moved = rg.Run.open(folder, {"item_features": tmp_path / "kept.csv"})
        assert moved.evaluate("valid").to_dict() == before


def test_a_model_that_reads_no_features_goes_on_and_says_so(
    log: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rg.fit(SASRec(**SMALL), split_of(log), out=tmp_path / "run", max_epochs=1, **TRAINING)
    write_features(tmp_path / "items.csv", 2)
    with caplog.at_level(logging.WARNING):
        run = rg.Run.open(tmp_path / "run")
    assert "item_features is not what the run was made with; SASRec does not read it" in caplog.text
    with refused("item_features"):
        run.evaluate("valid", rerank={"name": "mmr", "columns": ["kind"]})


def test_fingerprints_of_frames_are_of_their_values(log: Path) -> None:
    given = in_memory(log).interactions.item_features
    assert given is not None

    def hashed(frame: pl.DataFrame) -> Any:
        found = features_of(rg.load_data(log, item_features=frame).split())
        assert found is not None
        return found["item_features"]["sha256"]

    assert hashed(given) == hashed(given.reverse()) == hashed(given.with_columns(pl.col("item").cast(pl.Int32)))
    assert hashed(given) != hashed(given.head(8)) != hashed(given.rename({"kind": "sort"}))
