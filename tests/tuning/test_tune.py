"""Studies from end to end: made, gone on with, told apart, pruned, with workers, and without test data."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import objectives
import optuna
import polars as pl
import pytest
from small_study import LONG, SETTINGS, states, synthetic, tune
from torch import Tensor

import recgraph as rg
from recgraph import registry
from recgraph.config import ConfigError, distribute
from recgraph.data import files
from recgraph.data.imprint import load_json
from recgraph.data.split import SealedSplit, SealedTestError, Split
from recgraph.data.strategies import Label
from recgraph.evaluate.metrics.base import Metric, RankedHits
from recgraph.runs.run import Run
from recgraph.train.config import TrainConfig
from recgraph.tuning import objectives as objective_names
from recgraph.tuning.claim import claim
from recgraph.tuning.final import outcomes
from recgraph.tuning.finding import find_study
from recgraph.tuning.plan import Plan
from recgraph.tuning.storage import is_same_storage, open_storage, storage_url
from recgraph.tuning.study import _identity
from recgraph.tuning.trials import Trials
from recgraph.tuning.worker import WorkerFailed
from recgraph.workers.lock import hold

SASRec = registry.load("model", "sasrec")


@pytest.fixture(scope="module")
def split() -> Split:
    return synthetic()


def test_a_study_in_memory_finds_something_better_and_is_the_same_again(split: Split) -> None:
    study = tune(split, n_trials=4, seed=1)
    assert states(study) == {"COMPLETE": 4}
    assert study.trials[0].params == {"learning_rate": 1e-3, "dropout": 0.5}  # the default configuration
    assert study.best_value > 2 * study.trials[0].values[0]
    assert [t.params for t in tune(split, n_trials=3, seed=1).trials] == [t.params for t in study.trials[:3]]


def test_a_study_is_gone_on_with_and_tested_once(split: Split, tmp_path: Path) -> None:
    tune(split, tmp_path / "s", n_trials=2)
    study = tune(split, tmp_path / "s", n_trials=3, test_seeds=2)
    assert [trial.number for trial in study.trials] == [0, 1, 2]
    (tested,) = study.user_attrs["unsealed"]
    assert (tested["trial"], tested["n_seeds"], tested["split_hash"]) == (study.best_trial.number, 2, split.hash)
    assert set(tested["results"]) == {"tuned", "default"}
    runs = [rg.Run.open(path, split) for path in sorted((tmp_path / "s" / "final" / "default").iterdir())]
    values = [run.evaluate("test")["exclude"]["ndcg@10"] for run in runs]
    assert tested["results"]["default"]["exclude"]["ndcg@10"]["mean"] == pytest.approx(sum(values) / 2)
    comparison = tested["comparison"]["exclude"]
    means = [tested["results"][name]["exclude"]["ndcg@10"]["mean"] for name in ("tuned", "default")]
    assert comparison["difference"] == pytest.approx(means[0] - means[1])
    assert comparison["low"] < comparison["difference"] < comparison["high"]
    users = pl.read_parquet(tmp_path / "s" / "final" / "default" / "seed-0" / "test_users_exclude.parquet")
    assert users["ndcg@10"].mean() == pytest.approx(values[0])
    again = tune(split, tmp_path / "s", n_trials=3, test_seeds=2)
    assert again.user_attrs["unsealed"] == [tested]
    told = json.loads((tmp_path / "s" / "trials" / "0001" / "trial.json").read_text())
    assert (told["number"], told["state"], told["params"]) == (1, "complete", study.trials[1].params)
    config = json.loads((tmp_path / "s" / "trials" / "0001" / "config.json").read_text())
    assert config["config"]["dropout"] == study.trials[1].params["dropout"]
    assert len((tmp_path / "s" / "trials" / "0001" / "log.jsonl").read_text().splitlines()) == 2


def test_another_study_is_told_apart(split: Split, tmp_path: Path) -> None:
    tune(split, tmp_path / "s", n_trials=1)
    with pytest.raises(ValueError, match="exists with another seed"):
        tune(split, tmp_path / "s", seed=5)
    with pytest.raises(ValueError, match="exists with another space"):
        tune(split, tmp_path / "s", settings=LONG)
    with pytest.raises(ValueError, match="holds the study 's'; give another folder to 'other'"):
        tune(split, tmp_path / "s", study="other")
    # a storage that knows nothing of it does not make it another one's folder
    with pytest.raises(ValueError, match=r"study 's' exists with another seed in .*give the new study another folder"):
        tune(split, tmp_path / "s", seed=5, storage=f"sqlite:///{tmp_path}/new.db")
    assert not (tmp_path / "new.db").exists()
    with pytest.raises(ValueError, match=r"kept in journal:///.*/s/study.journal; go on with that storage"):
        tune(split, tmp_path / "s", storage=f"sqlite:///{tmp_path}/new.db")
    assert len(tune(split, tmp_path / "s", n_trials=1, storage=f"{tmp_path}/s/study.journal").trials) == 1
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "study"):
        with pytest.raises(ValueError, match=r"/file is a file; the study is kept in a folder: .*--out"):
            tune(split, out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="exists and holds no study"):
        tune(split, tmp_path / "full")


def test_a_storage_is_known_by_its_whole_path_and_a_wrong_one_leaves_no_folder(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="storage = 'mysql://here' must be"):
        tune(split, tmp_path / "s", n_trials=1, storage="mysql://here")
    assert not (tmp_path / "s").exists()
    monkeypatch.chdir(tmp_path)
    tune(split, tmp_path / "s", n_trials=1, storage="sqlite:///here.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with find_study(str(tmp_path / "s")) as (study, _):
        assert len(study.trials) == 1
    with pytest.raises(ValueError, match=r"kept in sqlite:///.*/here.db; go on with that storage"):
        tune(split, tmp_path / "s", n_trials=1, storage="sqlite:///here.db")
    assert is_same_storage("postgresql://me@a:5432/db", "postgresql+psycopg://me:x@localhost/db?sslmode=disable")
    assert not is_same_storage("postgresql://me@a/db", "postgresql://me@a/other")


def test_the_revision_of_a_model_is_part_of_a_study(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SASRec, "revision", 1)
    study = tune(split, tmp_path / "s", n_trials=1)
    told = load_json(tmp_path / "s" / "study.json")
    # as they were made before: of the first revision
    del told["revision"]
    (tmp_path / "s" / "study.json").write_text(json.dumps(told))
    identity = dict(study.user_attrs["recgraph"])
    del identity["revision"]
    study.set_user_attr("recgraph", identity)
    assert len(tune(split, tmp_path / "s", n_trials=1).trials) == 1
    monkeypatch.setattr(SASRec, "revision", 2)
    with pytest.raises(ValueError, match="exists with another revision"):
        tune(split, tmp_path / "s", n_trials=1)


def test_a_study_that_was_killed_before_it_had_its_name_begins_again(split: Split, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    _, lock = files._owned(tmp_path / "s" / "study.json")
    assert lock is not None
    os.close(lock)  # as the system does when the process is killed
    assert len(tune(split, tmp_path / "s", n_trials=1).trials) == 1


def test_a_study_that_was_killed_before_its_default_configuration_was_queued_begins_with_it(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "enqueue_trial", killed)
        with pytest.raises(KeyboardInterrupt):
            tune(split, tmp_path / "s", n_trials=1)
    (trial,) = tune(split, tmp_path / "s", n_trials=1).trials
    assert trial.params == {"learning_rate": 1e-3, "dropout": 0.5}


def test_of_two_processes_that_begin_a_study_at_once_none_is_refused(split: Split, tmp_path: Path) -> None:
    plan = Plan("s", SASRec, ("ndcg@10",), 1, folder=tmp_path / "s")
    identity = _identity(plan, split)
    kept = storage_url(None, plan.folder)
    for _ in range(10):
        with ThreadPoolExecutor(4) as pool:
            for each in [pool.submit(claim, plan, identity, kept) for _ in range(4)]:
                each.result()
        shutil.rmtree(tmp_path / "s")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "mine.txt").touch()
    with pytest.raises(ValueError, match="holds no study"):
        claim(plan, identity, kept)
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["mine.txt"]


def test_the_result_of_a_trial_whose_process_was_killed_before_it_wrote_it_is_written_later(
    split: Split, tmp_path: Path
) -> None:
    tune(split, tmp_path / "s", 1)
    folder = tmp_path / "s" / "trials" / "0000"
    whole = (folder / "trial.json").read_bytes()
    (folder / "trial.json").unlink()
    (folder / "bundle").mkdir()
    tune(split, tmp_path / "s", 1)
    assert (folder / "trial.json").read_bytes() == whole
    assert not (folder / "bundle").exists()


def test_a_folder_that_holds_another_split(split: Split, tmp_path: Path) -> None:
    tune(split, tmp_path / "s", n_trials=1)
    other = rg.load_dataset("synthetic").split("ratio", seed=1)
    shutil.rmtree(tmp_path / "s" / "split")
    other.sealed().save(tmp_path / "s" / "split")
    with pytest.raises(ValueError, match=f"holds the split {other.hash[:12]}, not {split.hash[:12]}; "):
        tune(split, tmp_path / "s", n_trials=2)


def test_last_trainings_of_other_settings_are_not_taken_for_done(split: Split, tmp_path: Path) -> None:
    tune(split, tmp_path / "s", n_trials=1, test_seeds=1)
    (seed,) = (tmp_path / "s" / "final").glob("trial-0000/seed-0")
    told = load_json(seed / "config.json")
    told["config"]["dropout"] = 0.125
    (seed / "config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match="holds a run with another config"):
        tune(split, tmp_path / "s", n_trials=1, test_seeds=2)


def test_what_is_tuned_for_is_tested(split: Split, tmp_path: Path) -> None:
    """At its own cut-off, and where it is no default metric too."""
    options = {"test_seeds": 1, "out": tmp_path / "s"}
    study = rg.tune("ease", split, {"*": "fixed", "l2": [1.0, 900.0]}, 2, metric=("ndcg@7", "novelty@3"), **options)
    (tested,) = study.user_attrs["unsealed"]
    assert tested["comparison"]["exclude"]["metric"] == "ndcg@7"
    (folder,) = (tmp_path / "s" / "final").glob("trial-*/seed-0")
    run = rg.Run.open(folder, split)
    (own,) = rg.evaluate.evaluate(
        run.model, split.test, seen=("exclude",), cutoffs=(3, 7), metrics=("ndcg", "novelty"), fit_part=split.train
    )
    told = tested["results"]["tuned"]["exclude"]
    for name in ("ndcg@7", "novelty@3"):
        assert told[name] == {"mean": pytest.approx(own[name]), "std": None}
    assert "novelty@3" in pl.read_parquet(folder / "test_users_exclude.parquet").columns
    assert "None" not in (tmp_path / "s" / "study.html").read_text()
    # what a board has to know of it lies in its result
    result = json.loads((tmp_path / "s" / "result.json").read_text())
    assert result["recgraph"] == study.user_attrs["recgraph"]


def test_a_trial_waits_until_its_folder_is_free(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("recgraph.tuning.trial._POLL", 0.1)
    out = tmp_path / "s"
    tune(split, out, n_trials=1)
    with ExitStack() as held:
        held.enter_context(hold(out / "trials" / "0001"))
        threading.Timer(1.0, held.pop_all().close).start()
        assert states(tune(split, out, n_trials=2)) == {"COMPLETE": 2}
    assert f"trial 1 waits: {out / 'trials' / '0001'} is in use" in caplog.text


def test_trials_are_pruned_by_their_epochs(split: Split, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_epochs": 4}
    study = tune(split, tmp_path / "s", n_trials=6, settings=settings, pruner="halving", seed=3)
    assert sum(states(study).values()) == 6
    pruned = [trial for trial in study.trials if trial.state.name == "PRUNED"]
    assert pruned
    for trial in pruned:
        log = (tmp_path / "s" / "trials" / f"{trial.number:04d}" / "log.jsonl").read_text().splitlines()
        values = [json.loads(line)["ndcg@10"] for line in log]
        assert list(trial.intermediate_values.values()) == pytest.approx(values)
        assert len(values) < 4
        assert trial.user_attrs["reason"] == f"pruned after epoch {len(values)}"


def test_two_objectives(split: Split) -> None:
    study = tune(split, n_trials=2, metric=("ndcg@10", "train_seconds"))
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert all(trial.values[1] > 0 for trial in study.trials)


def test_beyond_accuracy_objectives_are_of_the_best_epoch(split: Split, tmp_path: Path) -> None:
    metrics = ("coverage@20", "ndcg@10", "gini@10", "ndcg@3")
    study = tune(split, tmp_path / "s", n_trials=2, metric=metrics)
    assert study.user_attrs["recgraph"]["metrics"] == ["catalogue_coverage@20", *metrics[1:]]
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MAXIMIZE", "MINIMIZE", "MAXIMIZE"]
    for trial in study.trials:
        folder = tmp_path / "s" / "trials" / f"{trial.number:04d}"
        assert json.loads((folder / "config.json").read_text())["training"]["metric"] == "ndcg@10"
        log = (folder / "log.jsonl").read_text().splitlines()
        assert trial.values[1] == max(json.loads(line)["ndcg@10"] for line in log)
    settings = distribute({**SETTINGS, **study.trials[0].params}, {"model": SASRec.Config, "training": TrainConfig})
    run = rg.fit(SASRec(**settings["model"]), split, seed=0, **settings["training"])
    (own,) = rg.evaluate.evaluate(run.model, split.valid, seen=("exclude",), metrics=("catalogue_coverage",))
    assert study.trials[0].values[0] == own["catalogue_coverage@20"]
    assert "Pareto front: ndcg@10 and gini@10" in (tmp_path / "s" / "study.html").read_text()


def test_objectives_by_name() -> None:
    assert objective_names.canonical("coverage@20") == "catalogue_coverage@20"
    assert objective_names.canonical("popularity@5") == "average_popularity@5"
    assert [objective_names.direction(n) for n in ("train_seconds", "average_popularity@5", "ndcg@10", "profit")] == [
        "minimize",
        "minimize",
        "maximize",
        "maximize",
    ]
    assert objective_names.selecting(("train_seconds", "novelty@10", "mrr@5")) == "mrr@5"
    assert objective_names.selecting(("coverage@20",)) == "ndcg@10"
    assert objective_names.can_prune(("mrr@5",))
    assert not objective_names.can_prune(("catalogue_coverage@20",))
    with pytest.raises(ConfigError, match="needs features of items"):
        objective_names.canonical("intra_list_diversity@10")


def test_a_closed_form_model_and_blocks_of_users(split: Split) -> None:
    study = rg.tune("ease", split, None, 3, pruner="wilcoxon", test_seeds=0)
    assert study.trials[0].intermediate_values.keys() == set(range(20))
    assert sum(states(study).values()) == 3


@pytest.mark.parametrize("where", ["settings", "space"])
def test_a_closed_form_model_has_no_settings_of_training(split: Split, where: str) -> None:
    message = "^EASE is fitted in one step and takes no settings of training: leave out max_epochs; its own settings"
    options: dict[str, Any] = {where: {"max_epochs": 3 if where == "settings" else [3, 4]}}
    with pytest.raises(ConfigError, match=message):
        rg.tune("ease", split, n_trials=1, test_seeds=0, **options)
    with pytest.raises(ConfigError, match="unknown setting 'max_epoch'; known settings: l2"):
        rg.tune("ease", split, n_trials=1, test_seeds=0, settings={"max_epoch": 3})


def test_a_configuration_that_diverges_is_pruned(split: Split) -> None:
    study = rg.tune("sasrec", split, {"*": "fixed", "learning_rate": [1e30]}, 1, settings=SETTINGS, test_seeds=0)
    assert states(study) == {"PRUNED": 1}
    assert "became" in study.trials[0].user_attrs["reason"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "ndcg"}, "must be of the form name@k"),
        ({"settings": {"metric": "mrr@5"}}, "give it as metric"),
        ({"workers": 2}, "needs a folder"),
        ({"metric": "coverage@20", "pruner": "median"}, "reads ndcg@10, not catalogue_coverage@20"),
        ({"objective": objectives.honest, "pruner": "median"}, "reads ndcg@10, not the objective; use 'none'"),
        ({"n_trials": 0}, "n_trials = 0 must be at least 1"),
        ({"seed": -1}, "seed = -1 must be at least 0"),
        ({"test_seeds": -1}, "test_seeds = -1 must be at least 0"),
        ({"storage": "redis://here"}, "must be journal"),
        ({"sampler": "best"}, "there are tpe"),
    ],
)
def test_mistakes_name_the_value(split: Split, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tune(split, **options)


def test_an_objective_of_ones_own(split: Split) -> None:
    study = tune(split, n_trials=1, objective=objectives.honest)
    assert 0 < study.best_value < 1
    assert study.user_attrs["asked"]["pruner"] == "none"  # what the epochs report is not the objective


def test_an_objective_that_is_not_a_number_prunes_its_trial(split: Split) -> None:
    study = tune(split, n_trials=1, objective=objectives.not_a_number)
    assert states(study) == {"PRUNED": 1}
    assert study.trials[0].user_attrs["reason"] == "ndcg@10 is not a number"


@pytest.mark.parametrize("value", ["inf", "-inf"])
def test_an_infinite_objective_prunes_its_trial(split: Split, tmp_path: Path, value: str) -> None:
    options: dict[str, Any] = {"model": "ease", "space": {"l2": [1.0]}, "settings": {}, "sampler": "grid"}
    study = tune(split, tmp_path / "s", 1, objective=lambda _: float(value), **options)
    assert states(study) == {"PRUNED": 1}
    told = json.loads((tmp_path / "s" / "trials" / "0000" / "trial.json").read_text())
    assert (told["state"], told["values"], told["reason"]) == ("pruned", None, f"ndcg@10 is infinite ({value})")


def test_a_result_that_could_not_be_written_is_made_again_by_the_same_process(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> bool:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Trials, "tell", full)
        with pytest.raises(OSError, match="No space left"):
            tune(split, tmp_path / "s", n_trials=2)
    study = tune(split, tmp_path / "s", n_trials=2)
    assert states(study) == {"COMPLETE": 2, "FAIL": 1}
    assert study.trials[0].user_attrs["reason"] == "its worker is gone"


def test_the_point_of_a_grid_whose_trial_ended_with_an_error_is_tried_again(split: Split, tmp_path: Path) -> None:
    broken = [True]

    def objective(run: Run) -> float:
        if broken.pop() if broken else False:
            raise RuntimeError("a mistake that is mended")
        return 1.0

    options: dict[str, Any] = {"model": "ease", "settings": {}, "sampler": "grid", "objective": objective}
    options["space"] = {"*": "fixed", "l2": [1.0, 10.0, 100.0]}
    with pytest.raises(RuntimeError, match="mended"):
        tune(split, tmp_path / "s", 3, **options)
    study = tune(split, tmp_path / "s", 3, **options)
    complete = [trial.params["l2"] for trial in study.trials if trial.state.name == "COMPLETE"]
    assert sorted(complete) == [1.0, 10.0, 100.0]


@pytest.mark.parametrize(
    ("space", "settings", "reason"),
    [
        ({"hidden_dim": [6, 8], "n_heads": [4]}, {}, "n_heads = 4 must divide hidden_dim = 6"),
        ({"loss": ["full_softmax", "bce"]}, {"sparse_tables": True}, "sparse_tables = True"),
        ({"accumulate": [1, 2]}, {}, None),
    ],
)
def test_settings_that_do_not_fit_together_prune_their_trial(
    split: Split, space: dict[str, Any], settings: dict[str, Any], reason: str | None
) -> None:
    fixed = {name: value for name, value in {**SETTINGS, "max_epochs": 1, **settings}.items() if name not in space}
    study = tune(split, None, 2, space={"*": "fixed", **space}, settings=fixed, sampler="grid")
    pruned = [trial.user_attrs["reason"] for trial in study.trials if trial.state.name == "PRUNED"]
    assert states(study)["COMPLETE"] == 2 - len(pruned)
    assert len(pruned) == (reason is not None)
    assert reason is None or pruned[0].startswith(reason)


def test_a_metric_of_ones_own_that_is_better_when_it_is_lower(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Missed(Metric):
        """Users without a hit."""

        name = "missed"
        higher_is_better = False

        def compute(self, ranked: RankedHits, k: int) -> Tensor:
            return 1 - ranked.hits[:, :k].double().sum(1).clamp(max=1)

    monkeypatch.setattr(registry, "_registered", {})
    registry.register("metric")(Missed)
    assert objective_names.selecting(["missed@10", "mrr@5"]) == "mrr@5"
    study = tune(split, None, 1, metric="missed@10")
    assert study.direction.name == "MINIMIZE"
    assert 0 < study.best_value < 1


def test_a_metric_of_ones_own_that_is_not_a_number_prunes_its_trial(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True)
    class Nothing(Metric):
        """No user has a value."""

        name = "nothing"

        def compute(self, ranked: RankedHits, k: int) -> Tensor:
            return ranked.hits[:, :k].double().sum(1) * float("nan")

    monkeypatch.setattr(registry, "_registered", {})
    registry.register("metric")(Nothing)
    study = tune(split, None, 1, metric="nothing@10")
    assert states(study) == {"PRUNED": 1}
    assert study.trials[0].user_attrs["reason"].startswith("the metric that selects the best epoch is NaN at epoch 1")


def test_an_objective_of_another_number_of_values_fails(split: Split) -> None:
    with pytest.raises(ValueError, match="returned 2 values for ndcg@10; return one for each"):
        tune(split, n_trials=1, objective=objectives.two_values)


@pytest.mark.parametrize(("value", "shown"), [(None, "None"), ("many", "'many'"), ([None], r"\[None\]")])
def test_an_objective_that_returns_no_number_is_told_so(split: Split, value: Any, shown: str) -> None:
    with pytest.raises(ValueError, match=f"the objective returned {shown}; return a number, ndcg@10"):
        tune(split, n_trials=1, objective=lambda _: value)


def test_trials_know_the_relations_of_items(tmp_path: Path) -> None:
    rows = [(user, (user + step) % 9, step) for user in range(12) for step in range(5)]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    features = pl.DataFrame({"item_id": range(9), "group": ["a", "b", "c"] * 3})
    names = {"user": "user_id", "item": "item_id", "timestamp": "timestamp"}
    split = rg.Interactions.from_frame(log, **names, item_features=features).split("leave-one-out")
    settings = {"hidden_dim": 8, "n_clusters": [2, 3], "max_epochs": 1, "item_metapaths": ["item-group-item"]}
    space = {"*": "fixed", "learning_rate": {}}
    study = rg.tune("meowrec", split, space, 1, settings=settings, out=tmp_path / "s", test_seeds=1)
    assert states(study) == {"COMPLETE": 1}


@pytest.mark.parametrize("model", ["meow", "heco"])
def test_models_of_nodes_are_refused(split: Split, tmp_path: Path, model: str) -> None:
    with pytest.raises(ConfigError, match="embeds the nodes of a graph, selected by its loss"):
        rg.tune(model, split, out=tmp_path / "s")
    assert not (tmp_path / "s").exists()


REACHING = [
    objectives.evaluates_on_test,
    objectives.unseals,
    objectives.reads_test,
    objectives.splits_again,
    objectives.opens_its_folder,
]


@pytest.mark.parametrize("objective", REACHING)
def test_an_objective_that_reaches_for_test_data_fails(
    split: Split, tmp_path: Path, objective: Callable[[rg.Run], float]
) -> None:
    assert len(split.test) == 600  # was read before: it is not handed out again from a cache
    with pytest.raises(SealedTestError, match="sealed"):
        tune(split, tmp_path / "s", objective=objective)
    storage = open_storage(None, tmp_path / "s")
    (trial,) = storage.optuna.get_all_trials(0)
    assert trial.state.name == "FAIL"
    assert "SealedTestError" in trial.user_attrs["reason"]
    assert len(split.test) == 600


def test_workers_are_given_no_test_row(split: Split, tmp_path: Path) -> None:
    tune(split, tmp_path / "s", n_trials=1)
    folder = tmp_path / "s" / "split"
    rows = pl.read_parquet(folder / "open.parquet")
    assert rows.height == int((split.labels != int(Label.TEST)).sum()) == split.labels.numel() - 600
    assert not rows["label"].is_in([int(Label.TEST), int(Label.TEST_HISTORY)]).any()
    assert not [path for path in (tmp_path / "s").rglob("*") if path.name.startswith("test")]
    copy = SealedSplit.load(folder).without_test()
    assert copy.hash == split.hash
    with pytest.raises(SealedTestError, match="holds no test part"):
        copy.unseal("please")


@pytest.fixture
def pythonpath(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers can import what lies beside this file."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.usefixtures("pythonpath")
def test_last_trainings_are_the_same_in_other_processes(split: Split, tmp_path: Path) -> None:
    study = tune(split, tmp_path / "s", n_trials=3, test_seeds=2)
    (tested,) = study.user_attrs["unsealed"]
    assert set(tested["results"]) == {"tuned", "default"}
    shutil.rmtree(tmp_path / "s" / "final")
    study.set_user_attr("unsealed", [])
    (again,) = tune(split, tmp_path / "s", n_trials=3, workers=2, test_seeds=2).user_attrs["unsealed"]
    assert len(list((tmp_path / "s" / "workers").glob("*-*.log"))) == 4
    assert (again["results"], again["comparison"]) == (tested["results"], tested["comparison"])


@pytest.mark.usefixtures("pythonpath")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_default_that_cannot_be_trained_is_told_beside_the_test_of_the_best(
    split: Split, tmp_path: Path, workers: int
) -> None:
    settings = {**SETTINGS, "n_heads": 3, "max_epochs": 1}
    del settings["hidden_dim"]  # its default, 64, is no multiple of 3 heads
    asked: dict[str, Any] = {"space": {"*": "fixed", "hidden_dim": [6, 9]}, "settings": settings, "n_trials": 2}
    study = tune(split, tmp_path / "s", test_seeds=2, workers=workers, **asked)
    (tested,) = study.user_attrs["unsealed"]
    assert list(tested["results"]) == ["tuned"]
    assert tested["default_not_trained"] == "n_heads = 3 must divide hidden_dim = 64"
    assert outcomes(study) == [f"the default configuration cannot be trained: {tested['default_not_trained']}"]
    page = (tmp_path / "s" / "study.html").read_text()
    assert "trained with 2 seeds and tested once" in page
    assert "which is the default configuration" not in page
    again = tune(split, tmp_path / "s", test_seeds=2, workers=workers, **asked)
    assert again.user_attrs["unsealed"] == [tested]


@pytest.mark.usefixtures("pythonpath")
def test_a_workers_error_is_named(split: Split, tmp_path: Path) -> None:
    with pytest.raises(WorkerFailed, match=r"SealedTestError: .*sealed"):
        tune(split, tmp_path / "s", workers=2, objective=objectives.evaluates_on_test)


def test_progress_is_told_in_lines(split: Split, capfd: pytest.CaptureFixture[str]) -> None:
    tune(split, n_trials=1, progress=True)
    assert "1/1 finished (0 pruned), 0 running, best ndcg@10" in capfd.readouterr().err


def test_the_name_is_a_function_after_the_package_is_imported() -> None:
    assert sys.modules["recgraph.tuning"] is not rg.tune
    assert callable(rg.tune)


def test_a_device_that_is_not_there_is_refused_before_the_study_exists(split: Split, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="device = 'gpu' is not there"):
        tune(split, device="gpu", out=tmp_path / "study")
    assert not (tmp_path / "study").exists()
    with pytest.raises(TypeError, match=r"^tune\(\): missing a required argument: 'split'"):
        rg.tune("bprmf")  # type: ignore[call-arg]


def test_models_as_objects_are_tuned_as_their_specifications(split: Split) -> None:
    def study(settings: dict[str, Any], space: dict[str, Any]) -> dict[str, Any]:
        given = {"*": "fixed", "candidates": [10, 20], **space}
        found = tune(split, None, 1, model="twostage", space=given, settings={"ranker": "logistic", **settings})
        assert states(found) == {"COMPLETE": 1}
        identity: dict[str, Any] = found.user_attrs["recgraph"]["space"]
        return identity

    objects, texts = [rg.models.EASE(l2=5.0), "popularity"], [{"name": "ease", "l2": 5.0}, "popularity"]
    assert study({"models": objects}, {}) == study({"models": texts}, {})
    assert study({}, {"models": [objects, ["ease"]]}) == study({}, {"models": [texts, ["ease"]]})
