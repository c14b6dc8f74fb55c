"""CMA-ES that keeps no state in the storage.

Optuna's ``CmaEsSampler`` pickles its optimiser into the attributes of trials and unpickles it from there: whoever can
write to a storage runs code in every process that draws from it. Here each proposal makes a new optimiser, which gets
the finished trials generation by generation. It reads and checks a trial's parameters, value, time of its end and
number of its generation. With one worker the proposals are those of Optuna's sampler.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from cmaes import CMA
    from optuna import Study
    from optuna._transform import _SearchSpaceTransform
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

__all__ = ["cma_es"]

#: the attribute of a trial with the generation that it was drawn from; named as by Optuna's sampler, so that studies
#: made with it are gone on with
_GENERATION = "cma:generation"
#: where the search begins in the unit cube of the transformed space
_MEAN, _SIGMA = 0.5, 1 / 6


def cma_es(seed: int, distributions: Mapping[str, BaseDistribution], n_random: int, number: int) -> BaseSampler:
    """A sampler for one proposal, in a study with one objective.

    Args:
        seed: of this proposal.
        distributions: the search space. Parameters with choices are drawn at random.
        n_random: complete trials before the first generation; until then all parameters are drawn at random.
        number: how many proposals were made before; the trial's number, where the study was not interrupted.

    Source: N. Hansen, The CMA Evolution Strategy: A Tutorial, arXiv:1604.00772; the package ``cmaes``.
    """
    from optuna._transform import _SearchSpaceTransform
    from optuna.distributions import FloatDistribution, IntDistribution
    from optuna.samplers import RandomSampler
    from optuna.trial import TrialState

    ranges = {
        name: distribution
        for name, distribution in sorted(distributions.items())
        if isinstance(distribution, FloatDistribution | IntDistribution) and not distribution.single()
    }

    class CmaEs(RandomSampler):
        """Proposes the ranges together, and draws all other parameters at random."""

        def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
            return dict(ranges)

        def sample_relative(
            self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
        ) -> dict[str, Any]:
            complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if not search_space or len(complete) < n_random:
                return {}
            transform = _SearchSpaceTransform(search_space, transform_0_1=True)
            drawn = [one for one in complete if _is_of(one, search_space)]
            optimiser = _replay(transform, drawn, -1 if study.direction.name == "MAXIMIZE" else 1)
            study._storage.set_trial_system_attr(trial._trial_id, _GENERATION, optimiser.generation)
            draws = np.random.RandomState(seed)
            if not any(one.system_attrs[_GENERATION] > 0 for one in drawn):
                draws.randint(1, 2**31 - 2)  # Optuna's sampler draws once more where it finds no state
            optimiser.reseed_rng(draws.randint(1, 2**16) + number)
            return transform.untransform(optimiser.ask())

    return CmaEs(seed)


def _is_of(trial: FrozenTrial, space: Mapping[str, BaseDistribution]) -> bool:
    """Whether a complete trial was drawn from a generation in this space; its values are checked, not trusted."""
    if type(trial.system_attrs.get(_GENERATION)) is not int or not _is_number(trial.value):
        return False
    return all(
        trial.distributions.get(name) == distribution
        and _is_number(trial.params[name])
        and distribution.low <= trial.params[name] <= distribution.high  # type: ignore[attr-defined]
        for name, distribution in space.items()
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and -math.inf <= value <= math.inf


def _replay(transform: _SearchSpaceTransform, trials: Sequence[FrozenTrial], sign: int) -> CMA:
    """The optimiser after every generation that is complete.

    Args:
        transform: from parameters into the unit cube.
        trials: complete, with the number of their generation.
        sign: of the values, so that lower is better.
    """
    from cmaes import CMA

    n = len(transform.bounds)
    # the caller sets the seed before it asks
    optimiser = CMA(mean=np.full(n, _MEAN), sigma=_SIGMA, bounds=transform.bounds, n_max_resampling=10 * n, seed=0)
    generations: dict[int, list[tuple[np.ndarray, float]]] = {}
    # in the order in which they ended: a generation stays the same although workers finish more of its trials later
    for trial in sorted(trials, key=lambda one: (one.datetime_complete or dt.datetime.max, one.number)):
        assert trial.value is not None
        point = (transform.transform(trial.params), sign * trial.value)
        generations.setdefault(trial.system_attrs[_GENERATION], []).append(point)
    size = optimiser.population_size
    while len(points := generations.get(optimiser.generation, [])) >= size:
        optimiser.tell(points[:size])
    return optimiser
