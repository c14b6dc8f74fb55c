"""Studies from end to end: alone and with workers, killed, interrupted, gone on with, and without test data."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import objectives
import optuna
import polars as pl
import pytest

import recgraph as rg
from recgraph.data.closed import load_closed
from recgraph.data.split import SealedTestError, Split
from recgraph.data.strategies import Label
from recgraph.tuning.storage import open_storage
from recgraph.tuning.team import WorkerFailed

SPACE = {"*": "fixed", "learning_rate": {}, "dropout": {}}
SETTINGS = {"max_epochs": 2, "hidden_dim": 8, "n_layers": 1, "n_heads": 1, "patience": None, "batch_size": 256}
#: seconds; more than a test takes on the busiest machine
GRACE = 500.0
LONG = {**SETTINGS, "max_epochs": 15}


@pytest.fixture(scope="module")
def split() -> Split:
    return rg.load_dataset("synthetic").split("leave-one-out")


def tune(split: Split, out: Path | None = None, n_trials: int = 3, **options: Any) -> optuna.Study:
    given = {"settings": SETTINGS, "test_seeds": 0, "study": "s", **options}
    return rg.tune("sasrec", split, SPACE, n_trials, out=out, **given)


def states(study: optuna.Study) -> Counter[str]:
    return Counter(trial.state.name for trial in study.trials)


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
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="exists and holds no study"):
        tune(split, tmp_path / "full")


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
    study = tune(split, n_trials=2, metric=("ndcg@10", "seconds"))
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert all(trial.values[1] > 0 for trial in study.trials)


def test_a_closed_form_model_and_blocks_of_users(split: Split) -> None:
    study = rg.tune("ease", split, None, 3, pruner="wilcoxon", test_seeds=0)
    assert study.trials[0].intermediate_values.keys() == set(range(20))
    assert sum(states(study).values()) == 3


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
        ({"n_trials": 0}, "must be at least 1"),
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
    copy = load_closed(folder)
    assert copy.hash == split.hash
    with pytest.raises(SealedTestError, match="holds no test part"):
        copy.unseal("please")


@pytest.fixture
def pythonpath(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers can import what lies beside this file."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.usefixtures("pythonpath")
def test_a_workers_error_is_named(split: Split, tmp_path: Path) -> None:
    with pytest.raises(WorkerFailed, match=r"SealedTestError: .*sealed"):
        tune(split, tmp_path / "s", workers=2, objective=objectives.evaluates_on_test)


def in_the_middle(url: str, act: Callable[[optuna.trial.FrozenTrial], None]) -> threading.Thread:
    """Do something once, to the first trial that has trained for a few epochs."""

    def wait() -> None:
        until = time.monotonic() + 120
        storage = None
        while time.monotonic() < until:
            time.sleep(0.02)
            try:
                storage = storage or open_storage(url)
                study = storage.optuna.get_study_id_from_name("s")
                found = storage.optuna.get_all_trials(study)
            except Exception:  # the study is not there yet
                continue
            for trial in found:
                if trial.state.name == "RUNNING" and len(trial.intermediate_values) >= 3:
                    storage.close()
                    act(trial)
                    return

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def kill(trial: optuna.trial.FrozenTrial) -> None:
    assert trial.user_attrs["lease"]["pid"] != os.getpid()
    os.kill(trial.user_attrs["lease"]["pid"], signal.SIGKILL)


def check_complete(study: optuna.Study, out: Path, n_trials: int, epochs: int, reason: str) -> None:
    """Every trial is accounted for, none was made twice, and what was stopped went on where it stopped."""
    assert states(study)["COMPLETE"] == n_trials
    failed = [trial for trial in study.trials if trial.state.name == "FAIL"]
    assert failed
    assert sum(states(study).values()) == n_trials + len(failed)
    for trial in failed:
        assert trial.user_attrs["reason"] == reason
        (again,) = [other for other in study.trials if other.system_attrs.get("failed_trial") == trial.number]
        assert again.params == trial.params
        assert trial.intermediate_values.items() <= again.intermediate_values.items()
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert len({tuple(trial.params.values()) for trial in complete}) == n_trials
    for trial in complete:
        folder = out / "trials" / f"{trial.system_attrs.get('failed_trial', trial.number):04d}"
        log = [json.loads(line)["epoch"] for line in (folder / "log.jsonl").read_text().splitlines()]
        assert log == list(range(1, epochs + 1))
        # a worker may die when an epoch is saved and before it is reported
        assert len(set(log) - set(trial.intermediate_values)) <= ("failed_trial" in trial.system_attrs)
    assert len(list((out / "trials").iterdir())) == n_trials


@pytest.fixture(params=["journal", "sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param != "postgres":
        yield f"{request.param}:///{tmp_path}/study.{request.param}"
        return
    found: str = request.getfixturevalue("postgres")
    yield found
    storage = open_storage(found)
    optuna.delete_study(study_name="s", storage=storage.optuna)
    storage.close()


@pytest.mark.usefixtures("pythonpath")
def test_a_worker_that_is_killed_in_a_trial_is_replaced(split: Split, tmp_path: Path, url: str) -> None:
    killer = in_the_middle(url, kill)
    began = time.monotonic()
    study = tune(split, tmp_path / "s", 3, workers=2, storage=url, settings=LONG, pruner="none", grace=GRACE)
    killer.join()
    check_complete(study, tmp_path / "s", 3, LONG["max_epochs"], "its worker is gone")
    dead = next(trial for trial in study.trials if trial.state.name == "FAIL")
    again = next(trial for trial in study.trials if trial.system_attrs.get("failed_trial") == dead.number)
    assert dead.user_attrs["lease"]["pid"] != again.user_attrs["lease"]["pid"]
    # seen at once: long before the grace period, which the test would notice
    assert time.monotonic() - began < GRACE
    engine = getattr(getattr(study._storage, "_backend", None), "engine", None)
    if engine is not None:
        engine.dispose()


@pytest.mark.usefixtures("pythonpath")
def test_workers_that_are_interrupted_save_and_give_their_trials_back(split: Split, tmp_path: Path) -> None:
    url = f"journal:///{tmp_path}/study.journal"
    in_the_middle(url, lambda _: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        tune(split, tmp_path / "s", 3, workers=2, storage=url, settings=LONG, pruner="none")
    study = tune(split, tmp_path / "s", 3, storage=url, settings=LONG, pruner="none")
    check_complete(study, tmp_path / "s", 3, LONG["max_epochs"], "interrupted")


def test_an_interrupted_study_goes_on_where_it_stopped(split: Split, tmp_path: Path) -> None:
    url = f"journal:///{tmp_path}/study.journal"
    in_the_middle(url, lambda _: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match="interrupted in epoch"):
        tune(split, tmp_path / "s", 2, storage=url, settings=LONG, pruner="none")
    study = tune(split, tmp_path / "s", 2, storage=url, settings=LONG, pruner="none")
    check_complete(study, tmp_path / "s", 2, LONG["max_epochs"], "interrupted")


def test_progress_is_told_in_lines(split: Split, capfd: pytest.CaptureFixture[str]) -> None:
    tune(split, n_trials=1, progress=True)
    assert "1/1 finished (0 pruned), 0 running, best ndcg@10" in capfd.readouterr().err


def test_the_name_is_a_function_after_the_package_is_imported() -> None:
    assert sys.modules["recgraph.tuning"] is not rg.tune
    assert callable(rg.tune)
