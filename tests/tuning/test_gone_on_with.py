"""What a study that is gone on with says, and what it refuses to mix."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import optuna
import pytest
from small_study import sampled, synthetic, tune

import recgraph as rg
from recgraph.config import ConfigError
from recgraph.data.split import Split
from recgraph.runs.run import Run
from recgraph.tuning.claim import check_storage, claim
from recgraph.tuning.final import UNSEALED, best_trial, outcomes
from recgraph.tuning.finding import find_study
from recgraph.tuning.plan import Plan
from recgraph.tuning.report import command
from recgraph.tuning.space import SearchSpace
from recgraph.tuning.storage import StorageFailed, open_storage, storage_url
from recgraph.tuning.study import _identity


@pytest.fixture(scope="module")
def split() -> Split:
    return synthetic()


def high(run: Run) -> float:
    return 0.9


def low(run: Run) -> float:
    return 0.1


EASE = {"model": "ease", "space": {"l2": [1.0, 10.0, 100.0]}, "settings": {}}


def test_a_test_of_an_earlier_best_trial_is_said(split: Split) -> None:
    study = sampled(10)
    best = best_trial(study)
    assert best is not None
    study.set_user_attr(UNSEALED, [{"trial": best.number + 1, "n_seeds": 1, "results": {}}])
    [line] = outcomes(study)
    assert (
        line
        == f"trial {best.number} is not tested yet (--test-seeds 3 tests it): the test is of trial {best.number + 1}"
    )
    study.set_user_attr(UNSEALED, [{"trial": best.number, "n_seeds": 1, "results": {}}])
    assert outcomes(study) == []


def test_another_objective_is_another_study(split: Split, tmp_path: Path) -> None:
    given = {**EASE, "metric": "score", "split": split, "out": tmp_path / "study"}
    tune(objective=high, n_trials=1, **given)
    assert len(tune(objective=high, n_trials=2, **given).trials) == 2
    for other in (low, None):
        with pytest.raises(ValueError, match="exists with another .*objective" if other else "metric"):
            tune(objective=other, n_trials=3, **given)
    path = tmp_path / "study" / "study.json"
    known = {
        name: value for name, value in json.loads(path.read_text()).items() if name not in ("objective", "imprint")
    }
    path.write_text(json.dumps(known))
    with pytest.raises(ValueError, match="another objective"):  # the storage knows
        tune(objective=low, n_trials=3, **given)


def test_a_metric_given_twice_is_one(split: Split) -> None:
    study = tune(split, metric=("ndcg@10", "NDCG@10"), n_trials=1, **EASE)
    assert len(study.directions) == 1


def test_a_space_file_says_none(tmp_path: Path) -> None:
    path = tmp_path / "space.toml"
    path.write_text(
        '"*" = "fixed"\npatience = ["none", 5]\nlearning_rate = { choices = [0.1, 0.2] }\nclip_norm = "none"\n'
    )
    from recgraph.models import BPRMF
    from recgraph.train.config import training_config

    space = SearchSpace.of({"model": BPRMF.Config, "training": training_config(BPRMF)}, {}, path)
    assert space.dimensions["patience"].choices == (None, 5)
    assert space.fixed["clip_norm"] is None


def test_a_mistaken_storage_leaves_the_folder_free(split: Split, tmp_path: Path) -> None:
    wrong = tmp_path / "log.csv"
    wrong.write_text("user,item\n" * 1000)
    for kind in ("sqlite", "journal"):
        with pytest.raises(StorageFailed, match="holds no study"):
            tune(split, tmp_path / "study", n_trials=1, storage=f"{kind}:///{wrong}", **EASE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "study"]
    assert len(tune(split, tmp_path / "study", n_trials=1, **EASE).trials) == 1


def test_a_study_in_a_database_is_gone_on_with_and_its_folder_knows_no_password(
    split: Split, postgres: str, tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    plan = Plan("of a password", rg.registry.load("model", "ease"), ("ndcg@10",), 1, folder=folder)
    for number, more in enumerate(["&password=topsecret", "&password=another", "&passfile=/topsecret"]):
        is_new = claim(plan, _identity(plan, split), storage_url(f"{postgres}{more}"))
        with contextlib.closing(open_storage(f"{postgres}{more}")) as there:
            optuna.create_study(study_name=plan.study, storage=there.optuna, load_if_exists=True)
            check_storage(plan, there)
            assert "topsecret" not in there.dashboard
        assert is_new == (number == 0)
    assert json.loads((folder / "study.json").read_text())["storage"] == f"{postgres}&password=***"
    with pytest.raises(ValueError, match="needs a password; give its URL in place of"), find_study(str(folder)):
        pass
    with find_study(f"{postgres}&password=topsecret", plan.study) as (study, _):
        assert study.study_name == plan.study
    with contextlib.closing(open_storage(postgres)) as there:
        optuna.delete_study(study_name=plan.study, storage=there.optuna)


@pytest.mark.parametrize("setting", ["init_items"])
def test_another_model_in_a_folder_that_trials_read_is_refused(split: Split, tmp_path: Path, setting: str) -> None:
    def train(seed: int) -> None:
        run = rg.fit(rg.registry.load("model", "bprmf")(hidden_dim=8), split, seed=seed, max_epochs=1)
        run.save(tmp_path / f"{seed}")

    train(0)
    train(1)
    given = tmp_path / "given"
    given.symlink_to(tmp_path / "0")
    small = {"max_epochs": 1, "hidden_dim": 8, "n_layers": 1, "n_heads": 1, setting: str(given)}
    assert len(tune(split, tmp_path / "study", n_trials=1, settings=small).trials) == 1
    given.unlink()
    given.symlink_to(tmp_path / "1")
    with pytest.raises(ValueError, match=f"{setting} .*given holds another model than in its earlier trials"):
        tune(split, tmp_path / "study", n_trials=2, settings=small)


def test_the_command_of_a_trial_imports_what_the_study_did() -> None:
    study = sampled(3)
    study.set_user_attr("recgraph", {"model": "m:Mine", "seed": 0, "space": {"searched": {}, "fixed": {}}})
    study.set_user_attr("imports", [{"module": "mine", "file": "mine.py", "sha256": "0"}])
    assert "--import mine.py" in command(study, study.trials[0])


def test_what_is_no_range_is_still_refused(tmp_path: Path) -> None:
    path = tmp_path / "space.toml"
    path.write_text('hidden_dim = ["none", 8]\n')
    from recgraph.models import BPRMF

    with pytest.raises(ConfigError, match="hidden_dim"):
        SearchSpace.of({"model": BPRMF.Config}, {}, path)
