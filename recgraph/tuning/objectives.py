"""Objectives by name, how a fitted run is measured, and samplers and pruners by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from recgraph.data.split import SealedSplit
from recgraph.evaluate.evaluator import evaluate
from recgraph.evaluate.metrics import Metric, full_name, metric_class, split_metric, value_of
from recgraph.rng import derive
from recgraph.train.run import Run
from recgraph.tuning.space import SearchSpace

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

#: the objective that is the training time
SECONDS = "train_seconds"
#: the metric that selects the best epoch where no objective can
FALLBACK = "ndcg@10"
Sampler = Literal["tpe", "cmaes", "gp", "random", "grid", "nsga2"]
Pruner = Literal["none", "median", "hyperband", "halving"]
#: trials drawn at random before a model of the space is used, and complete ones before any is
#: pruned
N_RANDOM, N_BEFORE_PRUNING = 10, 5
#: share of the epochs that the median pruner leaves to every trial: in the first ones a low
#: learning rate looks bad
_WARM_UP = 0.1


def canonical(name: str) -> str:
    """An objective's full name: ``"coverage@20"`` -> ``"catalogue_coverage@20"``;
    ``"train_seconds"`` is none.
    """
    return name if name == SECONDS else full_name(name)


def direction(name: str) -> Literal["minimize", "maximize"]:
    """Which way an objective, by its full name, is better; those that are no metrics are
    maximised.
    """
    if name == SECONDS:
        return "minimize"
    metric = _metric(name)
    if metric is None or metric.higher_is_better:
        return "maximize"
    return "minimize"


def selecting(names: Sequence[str]) -> str:
    """The metric that selects the best epoch of a training: the first objective that is about
    relevant items.

    One that is not (coverage, novelty) is best for a model that has learnt nothing; one that is
    better when it is lower selects no epoch, either.
    """
    for name in names:
        metric = _metric(name)
        if metric is not None and metric.needs_truth and metric.higher_is_better:
            return name
    return FALLBACK


def can_prune(names: Sequence[str]) -> bool:
    """Whether there is one objective, and a training reports it after each epoch."""
    return [*names] == [selecting(names)]


def _metric(name: str) -> type[Metric] | None:
    """The metric of a full name; None where it is the name of something else."""
    try:
        return metric_class(split_metric(name)[0])
    except ValueError:
        return None


def measure(names: Sequence[str], run: Run, split: SealedSplit) -> list[float]:
    """The objectives, by their full names, of a fitted run in its best epoch, on the validation
    part of its split.
    """
    values: dict[str, float] = {}
    best = run.record.get("best_epoch")
    if best is not None:
        values |= run.history[best - 1]
    values[SECONDS] = run.record["cost"]["seconds"]
    missing = [name for name in names if name not in values]
    if missing:
        (result,) = evaluate(
            run.model,
            split.valid,
            seen=(run.record["training"]["select_seen"],),
            metrics=missing,
            fit_part=split.train,
        )
        values |= {name: value_of(result.metrics, name) for name in missing}
    return [float(values[name]) for name in names]


def make_sampler(name: str, seed: int, space: SearchSpace, number: int) -> BaseSampler:
    """A sampler by name, for one proposal. Each has a seed of its own, so that no two workers draw
    the same trial.

    Args:
        name: a :data:`Sampler`.
        seed: of the study.
        space: what is searched.
        number: how many proposals were made before.
    """
    from optuna import samplers

    if name == "grid":
        # every worker must number the points in the same order
        grid: dict[str, Sequence[Any]] = {
            dimension.name: dimension.grid() for dimension in space.dimensions.values()
        }
        return samplers.GridSampler(grid, seed=derive(seed, "grid") % 2**32)
    sampler_seed = derive(seed, "sampler", number) % 2**32
    if name == "tpe":
        return samplers.TPESampler(
            seed=sampler_seed, n_startup_trials=N_RANDOM, multivariate=True, constant_liar=True
        )
    if name == "cmaes":
        return samplers.CmaEsSampler(
            seed=sampler_seed, n_startup_trials=N_RANDOM, warn_independent_sampling=False
        )
    if name == "gp":
        return samplers.GPSampler(
            seed=sampler_seed, n_startup_trials=N_RANDOM, warn_independent_sampling=False
        )
    if name == "nsga2":
        return samplers.NSGAIISampler(seed=sampler_seed, population_size=20)
    return samplers.RandomSampler(seed=sampler_seed)


def make_pruner(name: str, max_epochs: int) -> BasePruner:
    """A pruner that reads each epoch's validation metric, of trials of at most ``max_epochs``."""
    from optuna import pruners

    if name == "median":
        warm_up = math.ceil(_WARM_UP * max_epochs)
        return pruners.MedianPruner(
            n_startup_trials=N_BEFORE_PRUNING, n_warmup_steps=warm_up, n_min_trials=2
        )
    if name == "hyperband":
        return pruners.HyperbandPruner(
            min_resource=1, max_resource=max(1, max_epochs), reduction_factor=3
        )
    if name == "halving":
        return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    return pruners.NopPruner()
