"""``recgraph check``, on the synthetic data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import recgraph as rg
from recgraph.cli import evaluation
from recgraph.cli.app import app
from recgraph.evaluate import checks
from recgraph.runs.run import DataConfig


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def rows(done: Result) -> dict[str, dict[str, Any]]:
    return {row["check"]: row for row in json.loads(done.stdout)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of a small model."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECGRAPH_HOME", str(folder / "home"))
        for seed in (1, 2):
            settings = ("--set", "hidden_dim=8", "--set", "max_epochs=1", "--seed", seed)
            done = call("train", "bpr-mf", "--dataset", "synthetic", "--out", folder / f"{seed}", *settings)
            assert done.exit_code == 0, done.output
    return [folder / "1", folder / "2"]


def test_a_sound_split_exits_with_0() -> None:
    done = call("check", "synthetic", "--users", 300, "--format", "json")
    assert done.exit_code == 0, done.output
    found = rows(done)
    assert {row["status"] for row in found.values()} <= {"ok", "warn", "skipped"}
    assert found["constant scorer, expectation, seen keep"]["status"] == "ok"
    assert "test users instead of" in found["split by time"]["detail"]
    assert "split leave-one-out" in done.stderr


def test_a_failing_check_exits_with_1_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_recall_at_chance", lambda cases, k, exclude: np.full(len(cases), 0.9))
    done = call("check", "synthetic", "--users", 50, "--format", "json")
    assert done.exit_code == 1
    assert "4 of 11 checks failed: constant scorer, expectation, seen keep, " in done.stderr
    assert rows(done)["random scorer, seen exclude"]["status"] == "fail"


def test_parameters_of_the_split() -> None:
    done = call("check", "synthetic", "--split", "ratio", "--set", "test=0.3", "--users", 50, "--format", "json")
    assert done.exit_code == 0, done.output
    assert call("check", "synthetic", "--split", "nope").exit_code == 2
    assert call("check", "synthetic", "--set", "colour=1").exit_code == 2
    assert call("check", "no-such-data").exit_code == 2


@pytest.fixture
def fitted_on_valid(runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECGRAPH_HOME", str(runs[0].parent / "home"))
    source = {"dataset": "synthetic", "settings": {}}
    split = DataConfig().split_of("synthetic")
    rg.fit("popularity", split, seed=0, out=tmp_path / "all", fit_on="train+valid", source=source)
    return tmp_path / "all"


def test_valid_is_refused_for_a_run_that_was_fitted_on_it(runs: list[Path], fitted_on_valid: Path) -> None:
    done = call("evaluate", runs[0], fitted_on_valid, "--split", "valid")
    assert done.exit_code == 2
    assert f"--split valid: {fitted_on_valid} was fitted on train+valid" in done.stderr
    assert "take --split test, or a run that was fitted on train" in done.stderr
    assert call("evaluate", fitted_on_valid).exit_code == 0


def test_several_runs_are_one_table_with_marks(runs: list[Path], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECGRAPH_HOME", str(runs[0].parent / "home"))
        out = tmp_path / "popularity"
        assert call("train", "popularity", "--dataset", "synthetic", "--out", out).exit_code == 0
        asked = ("--split", "valid", "-m", "ndcg@10", "--save-users", tmp_path / "users", "--format", "json")
        done = call("evaluate", *runs, out, *asked)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [row["candidates"] for row in found] == ["seen kept"] * 2 + ["seen excluded"] * 2
    # the two seeds are one model
    assert [row["model"] for row in found[:2]] == [f"{runs[0]} and 1 more", str(out)]
    assert any(row["ndcg@10"][-1] in "*=" for row in found[:2])
    assert "Holm's correction over the 1 comparisons" in done.stderr
    written = sorted(path.name for path in (tmp_path / "users").iterdir())
    assert written[:2] == ["1-valid-exclude.parquet", "1-valid-keep.parquet"]
    assert len(written) == 6
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECGRAPH_HOME", str(runs[0].parent / "home"))
        eleven = call("evaluate", runs[0], out, "--split", "valid", "-m", "ndcg@11", "--format", "json")
    assert eleven.exit_code == 0, eleven.output
    assert [*json.loads(eleven.stdout)[0]] == ["candidates", "model", "ndcg@11"]


def test_runs_that_differ_in_more_than_their_seed_are_models_of_their_own(runs: list[Path], tmp_path: Path) -> None:
    begun = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECGRAPH_HOME", str(runs[0].parent / "home"))
        for place, source in enumerate(runs):  # the vectors of one seed for each
            begun.append(tmp_path / f"begun-{place}")
            settings = ("--set", "hidden_dim=8", "--set", "max_epochs=1", "--set", f"init_items={source}")
            done = call("train", "bpr-mf", "--dataset", "synthetic", "--out", begun[-1], *settings, "--seed", place)
            assert done.exit_code == 0, done.output
        done = call("evaluate", *runs, *begun, "--split", "valid", "--seen", "keep", "--format", "json")
    assert done.exit_code == 0, done.output
    named = [row["model"] for row in json.loads(done.stdout)]
    assert named == [f"{runs[0]} and 1 more", f"{begun[0]} and 1 more"]


def test_seeds_that_were_refitted_for_other_numbers_of_epochs_are_one_model() -> None:
    chosen = {"metric": "ndcg@10", "max_epochs": 20}
    record = {"model": "sasrec", "training": {"max_epochs": 7}, "selection": {"training": chosen, "best_epoch": 7}}
    other = {"model": "sasrec", "training": {"max_epochs": 9}, "selection": {"training": chosen, "best_epoch": 9}}
    once = {"model": "sasrec", "training": chosen}
    assert evaluation._beside_seed(record) == evaluation._beside_seed(other) != evaluation._beside_seed(once)
    mapping = {**once, "init_items": {"kind": "mapping", "digest": "a"}}
    assert evaluation._beside_seed(mapping) != evaluation._beside_seed(
        {**once, "init_items": {"kind": "mapping", "digest": "b"}}
    )
