"""Whether a difference between models is more than chance, over the users of a cross-validation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recgraph.evaluate.significance import Comparison, Source, compare_values, results_of, user_means

__all__ = ["over_folds"]

FloatArray = NDArray[np.float64]


def over_folds(
    a: Sequence[Source | Sequence[Source]],
    b: Sequence[Source | Sequence[Source]],
    metric: str,
    *,
    confidence: float = 0.95,
    n_draws: int = 9999,
    seed: int = 0,
) -> Comparison:
    """Compare two models over the users of a cross-validation (:func:`recgraph.data.folds.folds`).

    Each user counts once, with the mean over the folds in which it has a value: its values in several folds are no
    independent ones.

    Args:
        a, b: of each fold what :func:`over_users` takes, in the same order of folds.

    Raises:
        ProtocolMismatch: the numbers were made in different ways, or those at one place are of different folds.
        ValueError: not as many folds of each, one fold twice, or as of :func:`over_users`.
    """
    if len(a) != len(b):
        raise ValueError(f"a has {len(a)} folds and b has {len(b)}; give the same ones of each")
    folds = [(results_of(one), results_of(other)) for one, other in zip(a, b, strict=True)]
    splits = [own[0].protocol.split_hash for own, _ in folds]
    if len(set(splits)) < len(splits):
        raise ValueError("two of the folds have the same split; give each fold once, and seeds of a fold as a list")
    means = _over_all_folds([(own[0].users, *user_means(own, other, metric)) for own, other in folds])
    return compare_values(*means, confidence=confidence, n_draws=n_draws, seed=seed)


def _over_all_folds(
    folds: Sequence[tuple[NDArray[np.int64], FloatArray, FloatArray]],
) -> tuple[FloatArray, FloatArray]:
    """[U] each: the mean of each user over the folds in which both have a value."""
    users, own, other = (np.concatenate(each) for each in zip(*folds, strict=True))
    has = ~np.isnan(own) & ~np.isnan(other)
    _, place, counts = np.unique(users[has], return_inverse=True, return_counts=True)
    return np.bincount(place, own[has]) / counts, np.bincount(place, other[has]) / counts
