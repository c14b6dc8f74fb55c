"""The Wilcoxon pruner: ends a trial that is worse than the best one on the same blocks of users.

It decides as Optuna's ``WilcoxonPruner`` does, by the exact distribution of the signed ranks. Optuna's asks SciPy,
which tries all 2^n signs where values are tied, as they are for blocks of few users: seconds for a block of a trial.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.trial import FrozenTrial

__all__ = ["blocks_pruner", "p_of_signed_ranks"]


def blocks_pruner(p_threshold: float, n_startup_steps: int) -> BasePruner:
    """A pruner that ends a trial which is worse than the best complete one, block by block.

    Args:
        p_threshold: the p-value below which a trial is surely worse.
        n_startup_steps: blocks that each trial is given.
    """
    from optuna.pruners import BasePruner

    class Blocks(BasePruner):
        def prune(self, study: Study, trial: FrozenTrial) -> bool:
            try:
                best = study.best_trial.intermediate_values
            except ValueError:  # none is complete
                return False
            own = trial.intermediate_values
            sign = 1 if study.direction.name == "MAXIMIZE" else -1
            gains = sign * np.array([value - best[step] for step, value in own.items() if step in best])
            if len(gains) < n_startup_steps or not np.isfinite(gains).all():
                return False
            # ranks may be low where the mean is not: the best trial would not be better
            if sign * np.mean([*own.values()]) >= sign * np.mean([*best.values()]):
                return False
            return p_of_signed_ranks(gains) < p_threshold

    return Blocks()


def p_of_signed_ranks(gains: np.ndarray) -> float:
    """The chance of a sum of the ranks of positive gains as low as this one, if each sign were drawn by a coin.

    Ties share their mean rank, and half a rank of each zero counts as positive (``zsplit`` in SciPy). The chance is
    exact: the sums that all signs make are counted rank by rank.
    """
    sizes = np.abs(gains)
    _, places, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    # twice the mean rank is a whole number
    doubled = (2 * np.cumsum(counts) - counts + 1)[places][sizes > 0]
    sums = np.zeros(doubled.sum() + 1)
    sums[0] = 1.0
    for rank in doubled:
        sums[rank:] = (sums[rank:] + sums[:-rank]) / 2
        sums[:rank] /= 2
    positive = int(doubled[gains[sizes > 0] > 0].sum())
    return float(sums[: positive + 1].sum())
