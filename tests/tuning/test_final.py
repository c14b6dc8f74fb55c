"""Which process tests the best configuration of a study: one, once, and none for ever."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import polars as pl
import pytest
from small_study import SETTINGS, SPACE, synthetic, tune

import recgraph as rg
from recgraph import registry
from recgraph.data.split import Split
from recgraph.tuning import final
from recgraph.tuning.finding import find_study
from recgraph.tuning.plan import Plan
from recgraph.tuning.storage import open_storage
from recgraph.tuning.trials import Trials, load_study
from recgraph.workers.process import this_process


@pytest.fixture(scope="module")
def split() -> Split:
    return synthetic()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_test_that_ends_with_an_error_is_no_longer_claimed(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fail(*_: Any) -> None:
        with find_study(str(tmp_path / "s")) as (study, _):
            assert study.user_attrs["tester"]["pid"] == this_process().pid
        raise error("here")

    with monkeypatch.context() as patch:
        patch.setattr(final, "train", fail)
        with pytest.raises(error, match="here"):
            tune(split, tmp_path / "s", 1, test_seeds=1)
    with find_study(str(tmp_path / "s")) as (study, _):
        assert study.user_attrs["tester"] is None
        assert "unsealed" not in study.user_attrs
    study = tune(split, tmp_path / "s", 1, test_seeds=1)
    assert len(study.user_attrs["unsealed"]) == 1
    assert study.user_attrs["tester"] is None


def test_what_another_machine_tested_meanwhile_is_not_tested_again(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune(split, tmp_path / "s", 1)
    storage = open_storage(None, tmp_path / "s")
    plan = Plan("s", registry.load("model", "sasrec"), ("ndcg@10",), 1, SETTINGS, SPACE, folder=tmp_path / "s")
    trials = Trials(load_study(plan, storage), storage, plan)
    trials.study.set_user_attr("tester", {**this_process().to_dict(), "host": "another", "beat": 1})
    theirs = {"trial": 0, "n_seeds": 2}

    def end_there(_: float) -> None:
        """While this process waits for the next heartbeat."""
        trials.study.set_user_attr("unsealed", [theirs])
        trials.study.set_user_attr("tester", None)

    monkeypatch.setattr(final, "time", SimpleNamespace(sleep=end_there))
    monkeypatch.setattr(final, "train", lambda *_: pytest.fail("it is trained again"))
    assert final.test_the_best(plan, trials, split, 2, 1, None, None) == theirs
    assert trials.study.user_attrs["unsealed"] == [theirs]
    assert trials.study.user_attrs["tester"] is None
    storage.close()


def test_the_result_of_a_test_is_written_where_a_kill_came_before(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(final, "replace_json", killed)
        with pytest.raises(KeyboardInterrupt):
            tune(split, tmp_path / "s", 1, test_seeds=1)
    assert not (tmp_path / "s" / "result.json").exists()
    study = tune(split, tmp_path / "s", 1, test_seeds=1)
    (tested,) = study.user_attrs["unsealed"]
    assert json.loads((tmp_path / "s" / "result.json").read_text())["at"] == tested["at"]


@pytest.mark.parametrize("directions", [["maximize"], ["minimize"], ["maximize", "minimize"]])
def test_of_equal_trials_the_first_is_the_best(directions: list[str]) -> None:
    study = optuna.create_study(directions=directions)
    assert final.best_trial(study) is None
    trials = [study.ask({"x": optuna.distributions.FloatDistribution(0, 1)}) for _ in range(4)]
    for number in (3, 1, 2, 0):  # they end in another order
        study.tell(trials[number], [0.5] * len(directions))
    found = final.best_trial(study)
    assert found is not None
    assert found.number == 0


def test_one_user_is_tested_and_not_compared() -> None:
    rows = [(1, item, item) for item in range(4)] + [(user, item, item) for user in (2, 3) for item in (user, 0)]
    frame = pl.DataFrame(rows, schema=["user", "item", "when"], orient="row")
    one = rg.Interactions.from_frame(frame, user="user", item="item", timestamp="when").split("leave-one-out")
    values = iter((0.0, 1.0))
    study = rg.tune("ease", one, None, 2, objective=lambda run: next(values), test_seeds=1)
    (tested,) = study.user_attrs["unsealed"]
    assert set(tested["results"]) == {"tuned", "default"}
    assert tested["comparison"] is None
    assert final.outcomes(study) == []
