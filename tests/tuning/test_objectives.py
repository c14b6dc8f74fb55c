"""Objectives, samplers and pruners by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
from refusing import refused

from recgraph import registry
from recgraph.config import ConfigError
from recgraph.tuning import objectives
from recgraph.tuning.objectives import PRUNERS, SAMPLERS, make_pruner, make_sampler
from recgraph.tuning.plan import Plan
from recgraph.tuning.space import SearchSpace

SASRec = registry.load("model", "sasrec")
SMALL = {"*": "fixed", "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "dropout": {}, "n_heads": [1, 2]}


def test_objectives_by_name() -> None:
    assert objectives.canonical("coverage@20") == "catalogue_coverage@20"
    names = ("train_seconds", "average_popularity@5", "ndcg@10", "profit")
    assert [*map(objectives.direction, names)] == ["minimize", "minimize", "maximize", "maximize"]
    assert objectives.selecting(("train_seconds", "novelty@10", "mrr@5")) == "mrr@5"
    assert objectives.selecting(("coverage@20",)) == "ndcg@10"
    assert objectives.can_prune(("mrr@5",))
    assert not objectives.can_prune(("catalogue_coverage@20",))
    with refused("intra_list_diversity@10", by=ConfigError):
        objectives.canonical("intra_list_diversity@10")


def test_a_pruner_reads_the_most_epochs_wherever_they_are_given() -> None:
    def most(**given: Any) -> int:
        return Plan("s", SASRec, ("ndcg@10",), 1, **given).max_epochs

    assert most(fixed={"max_epochs": 8}) == most(given={"max_epochs": 8}) == 8
    assert most(given={"max_epochs": [4, 30]}) == 30


def drawn(sampler: str, seed: int, n: int = 12) -> list[dict[str, Any]]:
    """Parameters that a study draws, a sampler for each trial as workers make them."""
    given = SMALL if sampler != "grid" else {"*": "fixed", "dropout": [0.1, 0.2, 0.3], "n_heads": [1, 2, 4, 8]}
    found = SearchSpace.of({"model": SASRec.Config}, {}, {k: v for k, v in given.items() if k != "learning_rate"})
    study = optuna.create_study(direction="maximize")

    def objective(trial: optuna.Trial) -> float:
        for dimension in found.dimensions.values():
            dimension.suggest(trial)
        return -abs(float(trial.params["dropout"]) - 0.3)

    for number in range(n):
        study.sampler = make_sampler(sampler, seed, found, number)
        study.optimize(objective, n_trials=1)
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_draw_by_their_seed(sampler: str) -> None:
    first = drawn(sampler, 1)
    assert drawn(sampler, 1) == first
    if sampler == "grid":
        assert len({tuple(params.values()) for params in first}) == len(first)
    else:
        assert drawn(sampler, 2) != first
        assert len({params["dropout"] for params in first}) > 6


def test_the_median_pruner_leaves_each_trial_its_first_epochs() -> None:
    study = optuna.create_study(direction="maximize", pruner=make_pruner("median", 30))
    for _ in range(6):
        trial = study.ask()
        for epoch in range(1, 6):
            trial.report(0.5, epoch)
        study.tell(trial, 0.5)
    trial, pruned = study.ask(), []
    for epoch in range(1, 6):
        trial.report(0.1, epoch)
        pruned.append(trial.should_prune())
    assert pruned == [False, False, True, True, True]


@pytest.mark.parametrize("pruner", set(PRUNERS) - {"none", "wilcoxon"})
def test_pruners_end_what_is_worse_by_its_epochs(pruner: str) -> None:
    """After good trials, trials that are ever worse end early."""
    study = optuna.create_study(study_name="s", direction="maximize", pruner=make_pruner(pruner, 9))
    lived = []
    for quality in [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, *[0.4 - 0.01 * number for number in range(12)]]:
        trial = study.ask()
        for epoch in range(1, 10):
            trial.report(quality * epoch / 9, epoch)
            if trial.should_prune():
                break
        lived.append(epoch)
        state = optuna.trial.TrialState.COMPLETE if epoch == 9 else optuna.trial.TrialState.PRUNED
        study.tell(trial, quality if epoch == 9 else None, state)
    assert lived[0] == 9
    assert sum(epochs < 9 for epochs in lived[6:]) >= 6  # one of hyperband's brackets prunes nothing


def test_wilcoxon_ends_what_is_worse_on_the_same_users() -> None:
    """Blocks of users differ much more among themselves than the trials do: only pairs can tell them apart."""
    study = optuna.create_study(direction="maximize", pruner=make_pruner("wilcoxon", 9))
    generator = np.random.default_rng(0)
    hardness = generator.uniform(0, 1, 20)

    def blocks(offset: float) -> int:
        """How many blocks are evaluated."""
        trial, values = study.ask(), hardness + offset + generator.normal(0, 0.005, 20)
        for number, value in enumerate(values):
            trial.report(value, number)
            if number + 1 < len(values) and trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                return number + 1
        study.tell(trial, float(values.mean()))
        return len(values)

    assert blocks(0.0) == 20
    assert 6 <= blocks(-0.05) < 20
    assert blocks(0.05) == 20
