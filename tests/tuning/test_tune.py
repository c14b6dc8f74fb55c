"""Studies from end to end: made, gone on with, told apart, pruned, with workers, and without test
data.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import polars as pl
import pytest
from refusing import refused

import recgraph as rg
from recgraph import parallel, registry
from recgraph.data.split import SealedSplit, SealedTestError, Split
from recgraph.train.config import TrainConfig, distribute
from recgraph.train.run import Run
from recgraph.tuning.report import command, described, importances, outcomes
from recgraph.tuning.storage import find_study

SPACE = {"*": "fixed", "learning_rate": {}, "dropout": {}}


SETTINGS = {"max_epochs": 2, "hidden_dim": 8, "patience": None, "batch_size": 256}
SETTINGS |= {"encoder": {"n_layers": 1, "n_heads": 1}}


def synthetic() -> Split:
    return rg.load_dataset("synthetic").split("leave-one-out")


def tune(split: Split, out: Path | None = None, n_trials: int = 3, **options: Any) -> optuna.Study:
    given = {
        "model": "sasrec",
        "space": SPACE,
        "settings": SETTINGS,
        "test_seeds": 0,
        "study": "s",
        **options,
    }
    return rg.tune(split=split, n_trials=n_trials, out=out, **given)


def states(study: optuna.Study) -> Counter[str]:
    return Counter(trial.state.name for trial in study.trials)


SASRec = registry.load("model", "sasrec")


EASE: dict[str, Any] = {
    "model": "ease",
    "space": {"*": "fixed", "l2": [1.0, 10.0, 900.0]},
    "settings": {},
}


@pytest.fixture(scope="module")
def split() -> Split:
    return synthetic()


def test_a_study_in_memory_finds_something_better_and_is_the_same_again(split: Split) -> None:
    study = tune(split, n_trials=4, seed=1)
    assert states(study) == {"COMPLETE": 4}
    # the default configuration
    assert study.trials[0].params == {
        "learning_rate": 1e-3,
        "dropout": 0.5,
    }
    assert study.best_value > 2 * study.trials[0].values[0]
    assert [t.params for t in tune(split, n_trials=3, seed=1).trials] == [
        t.params for t in study.trials[:3]
    ]


@pytest.fixture(scope="module")
def made(split: Split, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, optuna.Study]:
    """A study that was gone on with, and tested."""
    out = tmp_path_factory.mktemp("made") / "s"
    tune(split, out, n_trials=2, source={"dataset": "synthetic"})
    return out, tune(split, out, n_trials=4, test_seeds=2, source={"dataset": "synthetic"})


def test_a_study_is_gone_on_with_and_tested_once(
    split: Split, made: tuple[Path, optuna.Study]
) -> None:
    out, study = made
    assert [trial.number for trial in study.trials] == [0, 1, 2, 3]
    (tested,) = study.user_attrs["unsealed"]
    assert (tested["trial"], tested["n_seeds"], tested["split_hash"]) == (
        study.best_trial.number,
        2,
        split.hash,
    )
    runs = [rg.Run.open(path, split) for path in sorted((out / "final" / "default").iterdir())]
    values = [run.evaluate("test")["exclude"]["ndcg@10"] for run in runs]
    assert tested["results"]["default"]["exclude"]["ndcg@10"]["mean"] == pytest.approx(
        sum(values) / 2
    )
    comparison = tested["comparison"]["exclude"]
    means = [tested["results"][name]["exclude"]["ndcg@10"]["mean"] for name in ("tuned", "default")]
    assert comparison["difference"] == pytest.approx(means[0] - means[1])
    assert comparison["low"] < comparison["difference"] < comparison["high"]
    users = pl.read_parquet(out / "final" / "default" / "seed-0" / "test_users_exclude.parquet")
    assert users["ndcg@10"].mean() == pytest.approx(values[0])
    told = json.loads((out / "trials" / "0001" / "trial.json").read_text())
    assert (told["number"], told["state"], told["params"]) == (
        1,
        "complete",
        study.trials[1].params,
    )
    assert not (out / "trials" / "0001" / "bundle").exists()
    result = json.loads((out / "result.json").read_text())
    assert result["recgraph"] == study.user_attrs["recgraph"]
    again = tune(split, out, n_trials=4, test_seeds=2, source={"dataset": "synthetic"})
    assert again.user_attrs["unsealed"] == [tested]


def test_what_a_study_found(made: tuple[Path, optuna.Study]) -> None:
    out, study = made
    lines = described(study)
    assert lines[0] == "4 trials: 4 complete"
    assert any(
        line.startswith(f"best: trial {study.best_trial.number}, on valid ndcg@10 ")
        for line in lines
    )
    assert [line for line in lines if line.startswith("test, seen items")] == outcomes(study)
    best = command(study, study.best_trial)
    tested = out / "final" / f"trial-{study.best_trial.number:04d}" / "seed-0"
    seed = json.loads((tested / "record.json").read_text())["seed"]
    assert best.startswith(f"recgraph train SASRec --dataset synthetic --seed {seed} --set ")
    assert " --seed 0 " in command(study, study.trials[(study.best_trial.number + 1) % 4])
    assert f"learning_rate={study.best_params['learning_rate']}" in best
    assert sum(row["importance"] for row in importances(study)) == pytest.approx(1)
    with find_study(str(out)) as (found, _):
        assert described(found) == lines


def test_another_study_is_told_apart(
    split: Split, made: tuple[Path, optuna.Study], tmp_path: Path
) -> None:
    out, source = made[0], {"dataset": "synthetic"}
    for name, options in (
        ("seed", {"seed": 5}),
        ("space", {"settings": {**SETTINGS, "max_epochs": 3}}),
    ):
        with refused(f"another {name}"):
            tune(split, out, source=source, **options)
    with refused("'s'", "'other'"):
        tune(split, out, study="other")
    (tmp_path / "thesis.tex").touch()
    with refused("thesis.tex"):
        tune(split, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_trials_are_pruned_by_their_epochs(split: Split, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_epochs": 4}
    study = tune(split, tmp_path / "s", n_trials=6, settings=settings, pruner="halving", seed=3)
    assert sum(states(study).values()) == 6
    pruned = [trial for trial in study.trials if trial.state.name == "PRUNED"]
    assert pruned
    for trial in pruned:
        log = (
            (tmp_path / "s" / "trials" / f"{trial.number:04d}" / "log.jsonl")
            .read_text()
            .splitlines()
        )
        values = [json.loads(line)["ndcg@10"] for line in log]
        assert [*trial.intermediate_values.values()] == pytest.approx(values)
        assert len(values) < 4
        assert trial.user_attrs["reason"] == f"pruned after epoch {len(values)}"


def test_objectives_are_of_the_best_epoch_and_not_of_the_last(split: Split, tmp_path: Path) -> None:
    """What selects is measured in the log; all else with the weights of that epoch."""
    settings = {**SETTINGS, "max_epochs": 10, "learning_rate": 0.1}
    space = {"*": "fixed", "dropout": [0.0, 0.5]}
    metrics = ("coverage@20", "ndcg@10", "gini@10", "train_seconds")
    study = tune(split, tmp_path / "s", 2, metric=metrics, settings=settings, space=space)
    assert [direction.name for direction in study.directions] == [
        "MAXIMIZE",
        "MAXIMIZE",
        "MINIMIZE",
        "MINIMIZE",
    ]
    not_last = 0
    for trial in study.trials:
        folder = tmp_path / "s" / "trials" / f"{trial.number:04d}"
        values = [
            json.loads(line)["ndcg@10"] for line in (folder / "log.jsonl").read_text().splitlines()
        ]
        assert trial.values[1] == max(values)
        not_last += values[-1] < max(values)
        given = {**settings, **trial.params}
        parts = distribute(given, {"model": SASRec.Config, "training": TrainConfig})
        run = rg.fit(SASRec(**parts["model"]), split, seed=0, metric="ndcg@10", **parts["training"])
        (own,) = rg.evaluate.evaluate(
            run.model, split.valid, seen=("exclude",), metrics=("catalogue_coverage", "gini")
        )
        assert trial.values[0] == own["catalogue_coverage@20"]
        assert trial.values[2] == pytest.approx(own["gini@10"])
        assert trial.values[3] > 0
    assert not_last, "a trial whose last epoch is its best would show nothing"


def test_configurations_that_cannot_be_trained_are_pruned_with_the_reason(split: Split) -> None:
    diverging = tune(split, None, 1, space={"*": "fixed", "learning_rate": [1e30]})
    assert states(diverging) == {"PRUNED": 1}
    assert "became" in diverging.trials[0].user_attrs["reason"]
    fixed = {
        name: value for name, value in SETTINGS.items() if name not in ("hidden_dim", "encoder")
    }
    space = {"*": "fixed", "hidden_dim": [6, 8], "encoder.n_heads": [4]}
    apart = tune(split, None, 2, space=space, settings=fixed, sampler="grid")
    assert states(apart) == {"PRUNED": 1, "COMPLETE": 1}
    infinite = tune(split, None, 1, objective=lambda _: float("inf"), **EASE)
    assert states(infinite) == {"PRUNED": 1}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"sampler": "dice"}, "sampler"),
        ({"n_trials": 0}, "n_trials"),
        ({"device": "gpu"}, "device"),
    ],
)
def test_mistakes_name_the_value(split: Split, options: dict[str, Any], named: str) -> None:
    with refused(named):
        tune(split, **options)


def _reads_test(run: Run) -> float:
    assert run.split is not None
    return float(len(run.split.test))


def _unseals(run: Run) -> float:
    assert run.split is not None
    return float(len(run.split.unseal("I want to see it").test))


def _splits_again(run: Run) -> float:
    return float(len(rg.load_dataset("synthetic").split("leave-one-out").test))


@pytest.mark.parametrize(
    "objective",
    [_reads_test, _unseals, _splits_again, lambda run: run.evaluate("test")[0]["ndcg@10"]],
)
def test_an_objective_that_reaches_for_test_data_fails(
    split: Split, tmp_path: Path, objective: Any
) -> None:
    with refused("sealed", by=SealedTestError):
        tune(split, tmp_path / "s", objective=objective, **EASE)
    with find_study(str(tmp_path / "s")) as (study, _):
        assert states(study) == {"FAIL": 1}
    assert len(split.test) == 600


def test_workers_are_given_no_test_row(
    split: Split, made: tuple[Path, optuna.Study], tmp_path: Path
) -> None:
    folder = made[0] / "split"
    rows = pl.read_parquet(folder / "open.parquet")
    assert rows.height == split.labels.numel() - 600
    copy = SealedSplit.load(folder).without_test()
    assert copy.hash == split.hash
    with pytest.raises(SealedTestError):
        copy.unseal("please")
    with refused("of study s", "sealed", by=parallel.TaskFailed):
        tune(split, tmp_path / "s", workers=2, objective=_reads_test, **EASE)
