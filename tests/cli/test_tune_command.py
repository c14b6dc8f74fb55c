"""``recgraph tune``: parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from recgraph.cli.app import app
from recgraph.cli.output import FAILURE, USER_MISTAKE
from recgraph.cli.training import Pruner, Sampler
from recgraph.tuning.objectives import PRUNERS, SAMPLERS

SMALL = ("--set", "max_epochs=2", "--set", "hidden_dim=8", "--set", "n_heads=1")


def tune(out: Path, *arguments: object) -> Result:
    command = ["tune", "sasrec", "--dataset", "synthetic", "--out", out, *arguments]
    return CliRunner().invoke(app, [str(argument) for argument in command])


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.toml"
    path.write_text('"*" = "fixed"\nlearning_rate = [1e-3, 1e-2]\n')
    return path


def test_tune_says_what_it_found_and_goes_on(tmp_path: Path, space: Path) -> None:
    out = tmp_path / "study"
    command = (
        "--space",
        space,
        *SMALL,
        "--sampler",
        "grid",
        "--test-seeds",
        1,
        "--format",
        "json",
        "--metric",
        "ndcg@10",
    )
    done = tune(out, *command, "--trials", 2)
    assert done.exit_code == 0, done.output
    assert "2 trials: 2 complete" in done.stderr
    assert "learning_rate = 0.01\n" in done.stderr
    assert "test, seen items excluded: tuned less default ndcg@10 +0." in done.stderr
    assert "recgraph train SASRec --dataset synthetic" in done.stderr
    rows = {(row["metric"], row["seen"]): row for row in json.loads(done.stdout)}
    row = rows["ndcg@10", "exclude"]
    assert row["tuned"] > row["default"] > 0
    again = tune(out, *command, "--trials", 2)
    assert json.loads(again.stdout) == list(rows.values())
    assert json.loads((out / "study.json").read_text())["study"] == "sasrec-synthetic-ndcg@10"
    (best,) = (out / "final").glob("trial-*/seed-0")
    evaluated = CliRunner().invoke(app, ["evaluate", str(best), "--format", "json"])
    tested = {each["metric"]: each["seen excluded"] for each in json.loads(evaluated.stdout)}
    assert row["tuned"] == tested["ndcg@10"]  # the run knows its data set
    shown = CliRunner().invoke(app, ["study", str(out), "--format", "json"])
    assert f"optuna-dashboard {out / 'study.journal'}" in shown.stderr
    assert json.loads(shown.stdout) == []  # two trials tell nothing of importances
    assert CliRunner().invoke(app, ["study", str(tmp_path)]).exit_code == USER_MISTAKE


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--set", "hidden_dims=3"), "hidden_dims"),
        (("--metric", "ndcg"), "ndcg"),
        (("--storage", "mysql://me:secret@there/db"), "mysql://me:***@there/db"),
        (("--space", "/nowhere.toml"), "/nowhere.toml"),
        (("--dataset", "acm"), "acm"),
    ],
)
def test_mistakes_name_the_value(tmp_path: Path, arguments: tuple[str, ...], named: str) -> None:
    done = tune(tmp_path / "study", *arguments)
    assert done.exit_code == USER_MISTAKE, done.output
    assert named in done.stderr
    assert "Traceback" not in done.output


def test_a_study_without_a_complete_trial_fails_and_says_why(tmp_path: Path) -> None:
    space = tmp_path / "space.toml"
    space.write_text('"*" = "fixed"\nn_heads = [3, 5, 8]\n')
    out, command = tmp_path / "study", ("--space", space, "--set", "max_epochs=1", "--set", "hidden_dim=4")
    done = tune(out, *command, "--sampler", "grid", "--trials", 3)
    assert done.exit_code == FAILURE, done.output
    for heads in (3, 5, 8):
        assert done.stderr.count(f"pruned, 1 of 3: n_heads = {heads} ") == 1
    assert "recgraph: no trial is complete: all 3 were pruned; the study is kept" in done.stderr
    assert "Traceback" not in done.output
    assert not done.stdout
    assert json.loads((out / "study.json").read_text())["study"] == "sasrec-synthetic-ndcg@10"
    assert len([*out.glob("trials/*/trial.json")]) == 3


def test_the_folder_has_a_name_by_default(tmp_path: Path, space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["tune", "sasrec", "--dataset", "synthetic", "--space", str(space), *SMALL, "--trials", "1"]
    done = CliRunner().invoke(app, [*command, "--test-seeds", "0"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "runs" / "sasrec-synthetic-ndcg@10" / "study.json").exists()


def test_the_names_are_those_of_the_library() -> None:
    assert [sampler.value for sampler in Sampler] == list(SAMPLERS)
    assert [pruner.value for pruner in Pruner] == list(PRUNERS)
