"""Records of runs: read and written without loss, also those of earlier versions, and what identifies a run."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import polars as pl
import pytest
from pydantic import Field

import recgraph as rg
from recgraph.config import Config
from recgraph.data.imprint import load_json
from recgraph.data.split import Split
from recgraph.models.closed_form.linear import EASE
from recgraph.models.sequence.sasrec import SASRec
from recgraph.runs import record as record_module
from recgraph.runs.record import Measured, RunRecord, identity

#: of a run of a closed-form model, as the first versions wrote it
EARLIER: dict[str, Any] = {
    "model": "ease",
    "config": {"l2": 100.0},
    "training": {},
    "seed": 0,
    "fitted_on": "train",
    "data": {"dataset": None, "settings": {}, "split": "leave-one-out", "split_params": {}, "split_hash": "abc"},
    "history": [],
    "results": {"test": {"ndcg@10": 0.5}},
    "cost": {"seconds": 1.5, "cpu_seconds": 1.0, "peak_memory_mb": 300.0},
    "first_stage": {"best_epoch": 3},
}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('{"model": "ease"', "(char 16); restore it"),
        ("[]", "no JSON object, but a list"),
        (json.dumps({**EARLIER, "seed": "x"}), "its entries seed are missing or do not fit"),
        (json.dumps({"model": "ease"}), "its entries config, training, seed"),
    ],
)
def test_a_damaged_record_names_the_file(text: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(ValueError) as caught:
        RunRecord.read(tmp_path)
    assert str(tmp_path / "record.json") in str(caught.value)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux counts it so")
def test_the_peak_of_memory_is_not_that_of_the_process_that_started_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """``ru_maxrss`` of a worker begins at the peak of its starter, here a terabyte."""
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=2**30))
    assert 10 < Measured().to_dict()["peak_memory_mb"] < 2**19


def test_a_checkout_without_git_has_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert record_module._commit() is None


def test_a_bundle_is_no_run(split: Split, tmp_path: Path) -> None:
    """The message says what a bundle is for, and never to go on with a training."""
    run = rg.fit(EASE(), split, seed=0, out=tmp_path / "run")
    run.save(tmp_path / "alone")
    for bundle, part in (
        (tmp_path / "run" / "bundle", f"give the run, {tmp_path / 'run'}"),
        (tmp_path / "alone", "give"),
    ):
        with pytest.raises(
            ValueError, match="is a bundle, which `recgraph recommend` and `recgraph serve` use"
        ) as caught:
            rg.runs.run.Run.open(bundle)
        assert part in str(caught.value)
        assert "--resume" not in str(caught.value)
    with pytest.raises(ValueError, match="there is no such folder"):
        rg.runs.run.Run.open(tmp_path / "nope")


@pytest.fixture(scope="module")
def split() -> Split:
    rows = [(user, (user + step) % 9, step) for user in range(12) for step in range(6)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    return rg.Interactions.from_frame(frame, user="user", item="item", timestamp="time").split("leave-one-out")


def test_a_record_of_an_earlier_version_is_written_as_it_was_read(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(json.dumps(EARLIER))
    record = RunRecord.read(tmp_path)
    assert (record.seed, record.model_revision, record.best_epoch, record.unsealed) == (0, 1, None, [])
    assert record.cost is not None
    assert (record.data.split_hash, record.cost.seconds) == ("abc", 1.5)
    record.write(tmp_path)
    assert load_json(tmp_path / "record.json") == EARLIER


def test_entries_are_read_by_name_as_the_file_has_them() -> None:
    record = RunRecord.from_json(EARLIER)
    assert record["data"] == EARLIER["data"]
    assert record["first_stage"] == {"best_epoch": 3}
    assert record.get("best_epoch") is None
    assert record.only("seed", "best", "model") == {"seed": 0, "model": "ease"}
    with pytest.raises(KeyError):
        record["best"]


@pytest.mark.parametrize("model", [EASE(), SASRec(hidden_dim=8, n_heads=1, n_layers=1)])
def test_the_entries_of_a_record(model: Any, split: Split, tmp_path: Path) -> None:
    is_trained = isinstance(model, SASRec)
    run = rg.fit(model, split, seed=0, out=tmp_path / "run", device="cpu", **({"max_epochs": 1} if is_trained else {}))
    names = ["model", "model_revision", "config", "training", "seed", "fitted_on", "data", "init_items", "history"]
    names += ["results", "unsealed", "preparation", *(["best_epoch", "best"] if is_trained else []), "cost"]
    written = load_json(tmp_path / "run" / "record.json")
    assert list(written) == [*names, "n_parameters", "provenance"]
    assert list(written["data"])[:2] == ["dataset", "settings"]
    assert set(written["preparation"]) == {"seconds", "cpu_seconds"}
    assert run.record == RunRecord.read(tmp_path / "run")
    config = load_json(tmp_path / "run" / "config.json")
    assert list(config) == ["model", "config", "training", "seed", "fitted_on", "data", "init_items"]


class Sizes(Config):
    width: int = 4
    depth: Annotated[int, Field(ge=1)] = 1


def test_a_setting_that_did_not_exist_yet_has_its_default_in_the_identity() -> None:
    def found(config: dict[str, Any], **more: Any) -> dict[str, Any]:
        return identity({**EARLIER, "config": config, **more}, {"config": Sizes})

    assert found({"width": 4}) == found({"width": 4, "depth": 1})
    assert found({"width": 4}) != found({"width": 4, "depth": 2})
    assert found({"height": 4})["config"] == {"height": 4}
    elsewhere = {**EARLIER["data"], "dataset": "mine"}
    assert found({}, data=elsewhere) == found({})
    assert found({}, data={**elsewhere, "split_hash": "abd"}) != found({})


def test_a_folder_from_before_a_setting_existed_is_resumed(split: Split, tmp_path: Path) -> None:
    def fit(**more: Any) -> Any:
        model = SASRec(hidden_dim=8, n_heads=1, n_layers=1)
        return rg.fit(model, split, **{"seed": 0, "out": tmp_path / "run", "device": "cpu", "max_epochs": 1, **more})

    fit()
    path = tmp_path / "run" / "config.json"
    config = load_json(path)
    del config["training"]["checkpoint_seconds"], config["config"]["dropout"]
    path.write_text(json.dumps(config))
    assert len(fit(resume=True).history) == 1
    with pytest.raises(
        ValueError, match=r"another training \(checkpoint_seconds = 0.0, now 3.0\); resume it with the same settings"
    ):
        fit(resume=True, checkpoint_seconds=3.0)
