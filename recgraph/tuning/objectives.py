"""Objectives by name, how a fitted run is measured, and samplers and pruners by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from recgraph.data.split import SealedSplit
from recgraph.evaluate.evaluator import evaluate
from recgraph.evaluate.metrics import Metric, full_name, metric_of, split_metric, value_of
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
    metric = _metric(name)
    lower = name == SECONDS or (metric is not None and not metric.higher_is_better)
    return "minimize" if lower else "maximize"


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
    metric = metric_of(name)
    return metric if metric is not None and ("@" in name or not metric().cut) else None


def measure(names: Sequence[str], run: Run, split: SealedSplit) -> list[float]:
    """The objectives, by their full names, of a fitted run in its best epoch, on the validation
    part of its split.
    """
    best = run.record.get("best_epoch")
    measured = dict(run.history[best - 1]) if best is not None else {}
    measured[SECONDS] = run.record["cost"]["seconds"]
    missing = [name for name in names if name not in measured]
    if missing:
        metrics, lengths = (
            tuple(dict.fromkeys(each)) for each in zip(*map(split_metric, missing), strict=True)
        )
        cutoffs = [k for k in lengths if k is not None] or [1]
        seen = run.record["training"]["select_seen"]
        found = evaluate(
            run.model,
            split.valid,
            seen=(seen,),
            cutoffs=cutoffs,
            metrics=metrics,
            fit_part=split.train,
        )
        measured |= {name: value_of(found[0].metrics, name) for name in missing}
    return [float(measured[name]) for name in names]


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

    own = derive(seed, "sampler", number) % 2**32
    if name == "tpe":
        return samplers.TPESampler(
            seed=own, n_startup_trials=N_RANDOM, multivariate=True, constant_liar=True
        )
    if name == "cmaes":
        return samplers.CmaEsSampler(
            seed=own, n_startup_trials=N_RANDOM, warn_independent_sampling=False
        )
    if name == "gp":
        return samplers.GPSampler(
            seed=own, n_startup_trials=N_RANDOM, warn_independent_sampling=False
        )
    if name == "nsga2":
        return samplers.NSGAIISampler(seed=own, population_size=20)
    if name == "grid":
        # every worker must number the points in the same order
        grid: dict[str, Sequence[Any]] = {
            each.name: each.grid() for each in space.dimensions.values()
        }
        return samplers.GridSampler(grid, seed=derive(seed, "grid") % 2**32)
    return samplers.RandomSampler(seed=own)


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
