"""Samplers and pruners by name, with every setting that matters written out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from recgraph.config import ConfigError
from recgraph.registry import proposal
from recgraph.rng import derive
from recgraph.tuning.cma_es import cma_es
from recgraph.tuning.space import SearchSpace
from recgraph.tuning.wilcoxon import blocks_pruner

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

__all__ = ["GONE", "PRUNERS", "SAMPLERS", "check", "make_pruner", "make_sampler"]

SAMPLERS = ("tpe", "cmaes", "gp", "random", "grid", "nsga2")
PRUNERS = ("none", "median", "hyperband", "halving", "wilcoxon")
#: the reason of a trial whose worker was killed; its parameters are queued again, or given up
GONE = "its worker is gone"
#: trials drawn at random before a model of the space is used, and complete ones before any is pruned
N_RANDOM, N_BEFORE_PRUNING = 10, 5
#: share of the epochs that the median pruner leaves to every trial: in the first ones a low learning rate looks bad
_WARM_UP = 0.1


def check(sampler: str, pruner: str, space: SearchSpace, n_objectives: int, n_trials: int) -> None:
    """Refuse a sampler and a pruner that cannot work together, or with the space.

    Raises:
        ConfigError: no such sampler or pruner; two objectives with a pruner or with a sampler for one; a grid that is
            smaller than the number of trials.
    """
    if sampler not in SAMPLERS:
        raise ConfigError(f"sampler = {sampler!r} does not exist; {proposal(sampler, SAMPLERS)}")
    if pruner not in PRUNERS:
        raise ConfigError(f"pruner = {pruner!r} does not exist; {proposal(pruner, PRUNERS)}")
    if n_objectives > 1 and pruner != "none":
        raise ConfigError(f"pruner = {pruner!r}: trials with {n_objectives} objectives are not pruned; use 'none'")
    if n_objectives > 1 and sampler == "cmaes":
        raise ConfigError("sampler = 'cmaes' is for one objective; use 'nsga2'")
    if sampler == "grid":
        size = math.prod(map(len, _points(space).values()))
        if n_trials > size:
            raise ConfigError(f"n_trials = {n_trials} is more than the {size} points of the grid; ask for {size}")


def make_sampler(name: str, seed: int, space: SearchSpace, number: int, worker: str) -> BaseSampler:
    """A sampler by name, for one proposal. Each has a seed of its own, so that workers draw different trials.

    Args:
        name: one of :data:`SAMPLERS`.
        seed: of the study.
        space: what is searched.
        number: how many proposals were made before.
        worker: who asks, different for those who ask at the same time.
    """
    from optuna import samplers

    own = derive(seed, "sampler", number, worker) % 2**32
    if name == "tpe":
        return samplers.TPESampler(seed=own, n_startup_trials=N_RANDOM, multivariate=True, constant_liar=True)
    if name == "cmaes":
        return cma_es(own, space.distributions, N_RANDOM, number)
    if name == "gp":
        return samplers.GPSampler(seed=own, n_startup_trials=N_RANDOM, warn_independent_sampling=False)
    if name == "nsga2":
        return samplers.NSGAIISampler(seed=own, population_size=20)
    if name == "grid":
        return _grid(seed, space)
    return samplers.RandomSampler(seed=own)


def _points(space: SearchSpace) -> dict[str, list[Any]]:
    """The values of each dimension of a grid; one that is given twice is one, but True is not 1."""
    values = {name: dimension.grid() for name, dimension in space.dimensions.items()}
    return {
        name: [*{(isinstance(each, bool), each): each for each in found}.values()] for name, found in values.items()
    }


def _grid(seed: int, space: SearchSpace) -> BaseSampler:
    from optuna.samplers import GridSampler

    # every worker must number the points in the same order
    points = _points(space)
    n_points = math.prod(map(len, points.values()))

    class Grid(GridSampler):
        """Does not end the study itself: the workers count the trials. A point is free again after an error."""

        def after_trial(self, *_: object) -> None:
            pass

        def _get_unvisited_grid_ids(self, study: Study) -> list[int]:
            # of the storage: under a pruner such as hyperband the study shows some of its trials only
            trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
            taken = {trial.system_attrs.get("grid_id") for trial in trials if not _was_an_error(trial)}
            return [number for number in range(n_points) if number not in taken]

    return Grid(points, seed=derive(seed, "grid") % 2**32)


def _was_an_error(trial: FrozenTrial) -> bool:
    """Whether a trial ended with an error: its parameters are free to be tried again once the cause is mended."""
    return trial.state.name == "FAIL" and trial.user_attrs.get("reason") != GONE


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
        return blocks_pruner(p_threshold=0.05, n_startup_steps=6)
    return pruners.NopPruner()
