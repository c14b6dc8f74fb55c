"""``folds``: the splits of a cross-validation."""

from __future__ import annotations

from typing import Any

from recgraph.arguments import checked
from recgraph.data.interactions import Interactions
from recgraph.data.split import Split
from recgraph.data.strategies import strategy_of

__all__ = ["folds"]


@checked
def folds(
    data: Interactions, n_folds: int, strategy: str = "leave-one-out", *, seed: int = 0, **params: Any
) -> list[Split]:
    """Split a log several times, each time with another test part; no interaction is in two of them.

    Split ``i`` is ``data.split(strategy, n_folds=n_folds, fold=i, ...)``, and ``--set 'split_options={n_folds=3,
    fold=0}'`` of a command. Each has a hash of its own.

    Args:
        data: the log.
        n_folds: how many, at least 2.
        strategy: ``"time"``: windows of time up to the end of the log, the newest first, and nothing of later ones is
            in a split; ``"leave-one-out"``: each user's last interaction, then the one before it and so on, without
            those after it; ``"ratio"`` and ``"users"``: all interactions, or all users, in ``n_folds`` parts at random.
        seed: of the strategies that draw; one for all folds.
        **params: of the strategy, see :mod:`recgraph.data.strategies`.

    Raises:
        ValueError: a strategy without folds, a parameter that it does not have or allow, or too short a log.
    """
    if given := {"n_folds", "fold"} & params.keys():
        raise ValueError(f"{min(given)} = {params[min(given)]!r} is set for each fold; leave it out")
    strategy_of(strategy, {**params, "n_folds": n_folds, "fold": 0})  # before a number of folds is counted up to
    return [data.split(strategy, seed=seed, n_folds=n_folds, fold=fold, **params) for fold in range(n_folds)]
