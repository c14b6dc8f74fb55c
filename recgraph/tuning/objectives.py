"""Objectives by name, how a fitted run is measured, and samplers and pruners by name.

The Wilcoxon pruner pairs instances between a trial and the best one, so that it is given the metric of blocks of
validation users, one after the other, and not of epochs. It saves the rest of the evaluation of a fitted model, not
training: it is for models that fit fast and rank many users (EASE, ItemKNN).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

from recgraph.config import ConfigError
from recgraph.data.split import SealedSplit
from recgraph.evaluate.evaluator import evaluate
from recgraph.evaluate.metrics import Metric, full_name, metric_class, metric_of, split_metric, value_of
from recgraph.registry import proposal
from recgraph.rng import derive, numpy_generator
from recgraph.train.run import Run
from recgraph.tuning.space import SearchSpace

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

#: the objective that is the training time
SECONDS = "train_seconds"
#: the metric that selects the best epoch where no objective can
FALLBACK = "ndcg@10"
SAMPLERS = ("tpe", "cmaes", "gp", "random", "grid", "nsga2")
PRUNERS = ("none", "median", "hyperband", "halving", "wilcoxon")
#: trials drawn at random before a model of the space is used, and complete ones before any is pruned
N_RANDOM, N_BEFORE_PRUNING = 10, 5
#: share of the epochs that the median pruner leaves to every trial: in the first ones a low learning rate looks bad
_WARM_UP = 0.1
#: of users, for the Wilcoxon pruner, and those that each trial is given
N_BLOCKS, N_FIRST_BLOCKS = 20, 6


def canonical(name: str) -> str:
    """An objective's full name: ``"coverage@20"`` -> ``"catalogue_coverage@20"``.

    Raises:
        ValueError: not ``"train_seconds"`` and not ``metric@k``, or no such metric.
        ConfigError: a metric that needs more than a ranking of the validation part.
    """
    if name == SECONDS:
        return name
    if "features" in metric_class(split_metric(name)[0])().needs:
        raise ConfigError(f"metric {name!r} needs features of items and cannot be tuned for; take another one")
    return full_name(name)


def direction(name: str) -> Literal["minimize", "maximize"]:
    """Which way an objective, by its full name, is better; those that are no metrics are maximised."""
    metric = _metric(name)
    lower = name == SECONDS or (metric is not None and not metric.higher_is_better)
    return "minimize" if lower else "maximize"


def selecting(names: Sequence[str]) -> str:
    """The metric that selects the best epoch of a training: the first objective that is about relevant items.

    One that is not (coverage, novelty) is best for a model that has learnt nothing; one that is better when it is
    lower selects no epoch, either.
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
    """The objectives of a fitted run, in its best epoch, on the validation part.

    Args:
        names: full names.
        run: holds the weights of its best epoch.
        split: of the run.
    """
    best = run.record.get("best_epoch")
    measured = dict(run.history[best - 1]) if best is not None else {}
    measured[SECONDS] = run.record["cost"]["seconds"]
    missing = [name for name in names if name not in measured]
    if missing:
        metrics, lengths = (tuple(dict.fromkeys(each)) for each in zip(*map(split_metric, missing), strict=True))
        cutoffs = [k for k in lengths if k is not None] or [1]
        seen = run.record["training"]["select_seen"]
        found = evaluate(run.model, split.valid, seen=(seen,), cutoffs=cutoffs, metrics=metrics, fit_part=split.train)
        measured |= {name: value_of(found[0].metrics, name) for name in missing}
    return [float(measured[name]) for name in names]


def blocks_of_users(trial: Trial, run: Run, split: SealedSplit, metric: str, seed: int) -> None:
    """Report the metric of each block of users; the blocks are the same in every trial.

    Raises:
        TrialPruned: the trial is surely worse than the best.
    """
    import optuna

    name, k = split_metric(metric)
    order = torch.from_numpy(numpy_generator(seed, "wilcoxon").permutation(len(split.valid)))
    blocks = [block for block in order.chunk(N_BLOCKS) if len(block)]
    seen = run.record["training"]["select_seen"]
    for number, block in enumerate(blocks):
        cases = split.valid.take(block.sort().values)
        found = evaluate(run.model, cases, seen=(seen,), cutoffs=(k or 1,), metrics=(name,), fit_part=split.train)
        trial.report(value_of(found[0].metrics, metric), number)
        if number + 1 < len(blocks) and trial.should_prune():
            raise optuna.TrialPruned(f"pruned after {number + 1} of {len(blocks)} blocks of users")


def check_names(sampler: str, pruner: str, space: SearchSpace, n_objectives: int, n_trials: int) -> None:
    """Refuse a sampler and a pruner that there are not, or that are for one objective, and a grid that is too small."""
    for what, name, names in (("sampler", sampler, SAMPLERS), ("pruner", pruner, PRUNERS)):
        if name not in names:
            raise ConfigError(f"{what} = {name!r} does not exist; {proposal(name, names)}")
    if n_objectives > 1 and pruner != "none":
        raise ConfigError(f"pruner = {pruner!r}: trials with {n_objectives} objectives are not pruned; use 'none'")
    if n_objectives > 1 and sampler == "cmaes":
        raise ConfigError("sampler = 'cmaes' is for one objective; use 'nsga2'")
    if sampler == "grid" and n_trials > (size := math.prod(len(each.grid()) for each in space.dimensions.values())):
        raise ConfigError(f"n_trials = {n_trials} is more than the {size} points of the grid; ask for {size}")


def make_sampler(name: str, seed: int, space: SearchSpace, number: int) -> BaseSampler:
    """A sampler by name, for one proposal. Each has a seed of its own, so that no two workers draw the same trial.

    Args:
        name: one of :data:`SAMPLERS`.
        seed: of the study.
        space: what is searched.
        number: how many proposals were made before.
    """
    from optuna import samplers

    own = derive(seed, "sampler", number) % 2**32
    if name == "tpe":
        return samplers.TPESampler(seed=own, n_startup_trials=N_RANDOM, multivariate=True, constant_liar=True)
    if name == "cmaes":
        return samplers.CmaEsSampler(seed=own, n_startup_trials=N_RANDOM, warn_independent_sampling=False)
    if name == "gp":
        return samplers.GPSampler(seed=own, n_startup_trials=N_RANDOM, warn_independent_sampling=False)
    if name == "nsga2":
        return samplers.NSGAIISampler(seed=own, population_size=20)
    if name == "grid":
        # every worker must number the points in the same order
        grid: dict[str, Sequence[Any]] = {each.name: each.grid() for each in space.dimensions.values()}
        return samplers.GridSampler(grid, seed=derive(seed, "grid") % 2**32)
    return samplers.RandomSampler(seed=own)


def make_pruner(name: str, max_epochs: int) -> BasePruner:
    """A pruner that reads each epoch's validation metric (``wilcoxon``: the metric on blocks of users).

    Args:
        name: one of :data:`PRUNERS`.
        max_epochs: of a trial.
    """
    from optuna import pruners

    if name == "median":
        warm_up = math.ceil(_WARM_UP * max_epochs)
        return pruners.MedianPruner(n_startup_trials=N_BEFORE_PRUNING, n_warmup_steps=warm_up, n_min_trials=2)
    if name == "hyperband":
        return pruners.HyperbandPruner(min_resource=1, max_resource=max(1, max_epochs), reduction_factor=3)
    if name == "halving":
        return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    if name == "wilcoxon":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is experimental
            return pruners.WilcoxonPruner(p_threshold=0.05, n_startup_steps=N_FIRST_BLOCKS)
    return pruners.NopPruner()
