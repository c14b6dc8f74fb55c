"""Objectives, samplers and pruners by name."""

from __future__ import annotations

from typing import Any, get_args

import optuna
import pytest

from recgraph import registry
from recgraph.tuning import objectives
from recgraph.tuning.objectives import Sampler, make_sampler
from recgraph.tuning.plan import Plan
from recgraph.tuning.space import SearchSpace

SASRec = registry.load("model", "sasrec")
SMALL = {"*": "fixed", "dropout": {}, "n_heads": [1, 2]}
GRID = {"*": "fixed", "dropout": [0.1, 0.2, 0.3], "n_heads": [1, 2, 4, 8]}


def test_objectives_by_name() -> None:
    assert objectives.canonical("coverage@20") == "catalogue_coverage@20"
    names = ("train_seconds", "average_popularity@5", "ndcg@10", "profit")
    assert [*map(objectives.direction, names)] == ["minimize", "minimize", "maximize", "maximize"]
    assert objectives.selecting(("train_seconds", "novelty@10", "mrr@5")) == "mrr@5"
    assert objectives.selecting(("coverage@20",)) == "ndcg@10"
    assert objectives.can_prune(("mrr@5",))
    assert not objectives.can_prune(("catalogue_coverage@20",))


def test_a_pruner_reads_the_most_epochs_wherever_they_are_given() -> None:
    def most(**given: Any) -> int:
        return Plan("s", SASRec, ("ndcg@10",), 1, **given).max_epochs

    assert most(fixed={"max_epochs": 8}) == most(given={"max_epochs": 8}) == 8
    assert most(given={"max_epochs": [4, 30]}) == 30


def drawn(sampler: str, seed: int, n: int = 12) -> list[dict[str, Any]]:
    """Parameters that a study draws, a sampler for each trial as workers make them."""
    found = SearchSpace.of({"model": SASRec.Config}, {}, GRID if sampler == "grid" else SMALL)
    study = optuna.create_study(direction="maximize")

    def objective(trial: optuna.Trial) -> float:
        for dimension in found.dimensions.values():
            dimension.suggest(trial)
        return -abs(float(trial.params["dropout"]) - 0.3)

    for number in range(n):
        study.sampler = make_sampler(sampler, seed, found, number)
        study.optimize(objective, n_trials=1)
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize("sampler", get_args(Sampler))
def test_samplers_draw_by_their_seed(sampler: str) -> None:
    first = drawn(sampler, 1)
    assert drawn(sampler, 1) == first
    if sampler == "grid":
        assert len({tuple(params.values()) for params in first}) == len(first)
    else:
        assert drawn(sampler, 2) != first
        assert len({params["dropout"] for params in first}) > 6
