"""``recgraph train --fit-on``, as a user types it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from recgraph.cli.app import app
from recgraph.data.catalog import load_dataset
from recgraph.serve.recommender import Recommender

TINY = ("--set", "hidden_dim=8", "--set", "n_layers=1", "--set", "n_heads=1", "--device", "cpu")


@pytest.fixture(scope="module", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECGRAPH_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("COLUMNS", "200")
        yield


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def train(out: Path, *more: object, model: str = "sasrec") -> Result:
    return call("train", model, "--dataset", "synthetic", "--out", out, *(() if model == "ease" else TINY), *more)


def test_fit_on_all_serves_the_newest_item_and_is_not_evaluated(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = train(out, "--fit-on", "all", "--set", "max_epochs=1")
    assert done.exit_code == 0, done.stderr
    assert f"try next: recgraph recommend {out} --user" in done.stderr
    record = json.loads((out / "record.json").read_text())
    assert (record["fitted_on"], record["unsealed"]) == ("all", ["fit SASRec on all"])
    log = load_dataset("synthetic")
    assert Recommender.load(out / "bundle").seen.to_lists() == log.ordered.items.to_lists()
    assert call("recommend", out, "--user", log.users.ids([0])[0]).exit_code == 0
    for part in ("valid", "test"):
        refused = call("evaluate", out, "--split", part)
        assert refused.exit_code == 2
        assert f"--split {part}: {out} was fitted on all" in refused.stderr
        assert "take a run that was fitted on train" in refused.stderr
    assert train(out, "--fit-on", "all", "--set", "max_epochs=1", "--resume").exit_code == 0


def test_fit_on_train_and_valid_is_tested(tmp_path: Path) -> None:
    assert train(tmp_path / "run", "--fit-on", "train+valid", model="ease").exit_code == 0
    assert call("evaluate", tmp_path / "run").exit_code == 0
    assert call("evaluate", tmp_path / "run", "--split", "valid").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fit-on", "all", "--set", "patience=3"), "patience = 3"),
        (("--fit-on", "all", "--set", "metric=ndcg@10"), "metric = 'ndcg@10' needs a validation part"),
        (("--fit-on", "everything"), "'train', 'train+valid', 'all'"),
    ],
)
def test_mistakes_name_the_value(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = train(tmp_path / "run", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_graph_with_classes_has_no_parts_to_fit_on() -> None:
    from recgraph.runs.fit import train

    with pytest.raises(ValueError, match="fit_on = 'all' is for logs; MEOW reads its whole graph"):
        train("meow", "acm", None, settings={}, seed=0, fit_on="all")


def test_more_epochs_on_a_finished_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train(out, "--set", "max_epochs=1").exit_code == 0
    refused = train(out, "--set", "max_epochs=2", "--set", "learning_rate=0.1", "--resume")
    assert refused.exit_code == 2
    assert "learning_rate = 0.001, now 0.1" in refused.stderr
    done = train(out, "--set", "max_epochs=2", "--resume")
    assert done.exit_code == 0, done.stderr
    assert len((out / "log.jsonl").read_text().splitlines()) == 2
    assert call("evaluate", out).exit_code == 0
    scheduled = tmp_path / "scheduled"
    assert train(scheduled, "--set", "max_epochs=1", "--set", "schedule=cosine").exit_code == 0
    refused = train(scheduled, "--set", "max_epochs=2", "--set", "schedule=cosine", "--resume")
    assert refused.exit_code == 2
    assert "schedule_epochs=2" in refused.stderr


def test_refit_says_what_it_does(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = train(out, "--refit", "--set", "max_epochs=2")
    assert done.exit_code == 0, done.stderr
    chosen = json.loads((out / "record.json").read_text())["selection"]
    best = chosen["best_epoch"]
    assert f"epoch {best} of 2 is the best on the validation part, with ndcg@10 {chosen['best']:.4f}; " in done.stderr
    assert f"now a new fit to all, of {best} epochs" in done.stderr
    assert f"numbers of the fit that chose the epochs: recgraph evaluate {out / 'selection'}" in done.stderr
    assert f"try next: recgraph recommend {out} --user" in done.stderr
    refused = call("evaluate", out)
    assert refused.exit_code == 2
    assert f"take {out / 'selection'}, the run that chose its number of epochs" in refused.stderr
    at_once = train(tmp_path / "ease", "--refit", model="ease")
    assert at_once.exit_code == 0, at_once.stderr
    assert "ease is fitted in one step and has no epoch to choose: fitted to all at once" in at_once.stderr
