"""CMA-ES on studies that others can write: nothing of a storage is run, and the search goes on where it was."""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from small_study import synthetic

import recgraph as rg
from recgraph import registry
from recgraph.rng import derive
from recgraph.runs.run import Run
from recgraph.tuning.plan import Plan
from recgraph.tuning.samplers import N_RANDOM
from recgraph.tuning.storage import open_storage
from recgraph.tuning.trials import Trials

SPACE = {"*": "fixed", "learning_rate": {"low": 1e-4, "high": 1e-1}, "dropout": {}, "n_layers": {}, "n_heads": [1, 2]}
GENERATION, STATE = "cma:generation", "cma:optimizer:0"


def plan(n_trials: int = 40, seed: int = 3) -> Plan:
    return Plan("s", registry.load("model", "sasrec"), ("ndcg@10",), n_trials, given=SPACE, sampler="cmaes", seed=seed)


def quality(params: dict[str, Any]) -> float:
    return -((params["dropout"] - 0.3) ** 2) - (params["learning_rate"] - 0.02) ** 2 - 0.01 * params["n_layers"]


def searched(asked: Plan, url: str | None = None, name: str = "one") -> list[FrozenTrial]:
    """Take and tell trials until the study has as many as are asked for; nothing is trained."""
    storage = open_storage(url)
    study = optuna.create_study(study_name="s", storage=storage.optuna, direction="maximize", load_if_exists=True)
    trials = Trials(study, storage, asked)
    while (taken := trials.ask(name)) is not None:
        for step in range(1, 3):
            taken[0].report(quality(taken[0].params), step)
        pruned = taken[0].number % 7 == 6
        trials.tell(taken[0], *((TrialState.PRUNED,) if pruned else (TrialState.COMPLETE, [quality(taken[0].params)])))
    found = study.trials
    storage.close()
    return found


def params(trials: list[FrozenTrial]) -> list[dict[str, Any]]:
    return [trial.params for trial in trials]


def regularisation(run: Run) -> float:
    return -abs(float(run.model.config.model_dump()["l2"]) - 100)


class Malicious:
    """Makes a folder where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.makedirs, (self._marker, 0o777, True)


@pytest.fixture(params=["journal", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{request.param}:///{tmp_path}/study.{request.param}"


def test_a_pickle_in_a_storage_is_not_run(url: str, tmp_path: Path) -> None:
    marker, split = tmp_path / "was-run", synthetic()
    options = {"sampler": "cmaes", "objective": regularisation, "test_seeds": 0, "study": "s", "storage": url}

    def tune(n_trials: int) -> optuna.Study:
        return rg.tune("ease", split, {"*": "fixed", "l2": {}}, n_trials, out=tmp_path / "s", **options)

    tune(N_RANDOM + 1)
    storage = open_storage(url)
    planted = storage.optuna.get_all_trials(storage.optuna.get_study_id_from_name("s"))[-1]
    planted.system_attrs = {STATE: pickle.dumps(Malicious(marker)).hex(), GENERATION: 0}
    optuna.load_study(study_name="s", storage=storage.optuna).add_trial(planted)
    storage.close()
    study = tune(N_RANDOM + 8)
    assert not marker.exists()
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * (N_RANDOM + 8)
    assert study.trials[-1].system_attrs == {GENERATION: 1}


def test_what_a_storage_holds_is_checked(url: str) -> None:
    """Of trials that no sampler of ours made nothing is read but whole numbers, and parameters inside of the space."""
    asked = plan(N_RANDOM + 6)
    first = searched(asked, url)
    storage = open_storage(url)
    study = optuna.load_study(study_name="s", storage=storage.optuna)
    wrong: list[dict[str, Any]] = [{GENERATION: value} for value in ("0", [0], {"0": 0}, -1, 10**9, 0.5, None)]
    for attributes in wrong:
        study.add_trial(optuna.create_trial(value=1.0, system_attrs=attributes))
        given = {"value": 1.0, "params": first[-1].params, "distributions": first[-1].distributions}
        study.add_trial(optuna.create_trial(**given, system_attrs=attributes))
    study.add_trial(optuna.create_trial(value=1.0, system_attrs={GENERATION: 0}))  # without parameters
    n_before = len(study.trials)
    storage.close()
    found = searched(plan(n_before + 20), url)
    assert {trial.system_attrs[GENERATION] for trial in found[n_before:]} > {0, 1}


def test_it_proposes_what_optunas_own_sampler_proposes() -> None:
    """Optuna's study is in memory: nobody else can write to it."""
    asked = plan(45)
    study = optuna.create_study(direction="maximize")
    for number in range(asked.n_trials):
        study.sampler = optuna.samplers.CmaEsSampler(
            seed=derive(asked.seed, "sampler", number, "one") % 2**32,
            n_startup_trials=N_RANDOM,
            warn_independent_sampling=False,
        )
        trial = study.ask(asked.space.distributions)
        pruned = number % 7 == 6
        study.tell(trial, *((None, TrialState.PRUNED) if pruned else (quality(trial.params),)))
    for own, other in zip(searched(asked), study.trials, strict=True):
        assert own.params == pytest.approx(other.params, rel=1e-9)
        assert own.system_attrs.get(GENERATION) == other.system_attrs.get(GENERATION)


def test_a_study_that_is_gone_on_with_proposes_the_same(url: str) -> None:
    whole = params(searched(plan(40)))
    for n_trials in (5, N_RANDOM + 3, 27, 40):
        assert params(searched(plan(n_trials), url)) == whole[:n_trials]


def test_it_finds_better_configurations() -> None:
    found = searched(plan(100))
    values = [quality(trial.params) for trial in found]
    assert sum(values[-20:]) / 20 > sum(values[:20]) / 20
    assert max(values[-20:]) > max(values[:20])
    spread = [trial.params["dropout"] for trial in found[-20:]]
    assert max(spread) - min(spread) < 0.3
    assert abs(sum(spread) / 20 - 0.3) < 0.05


def test_workers_share_a_search_through_plain_values(url: str) -> None:
    searched(plan(1), url)
    threads = [threading.Thread(target=searched, args=(plan(60), url, f"{number}")) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = searched(plan(60), url)
    assert [trial.number for trial in found] == list(range(60))
    assert len({tuple(trial.params.values()) for trial in found}) == 60
    tags = [trial.system_attrs[GENERATION] for trial in found if GENERATION in trial.system_attrs]
    assert max(tags) >= 3
    assert tags == sorted(tags)
    assert {name for trial in found for name in trial.system_attrs} == {GENERATION}
