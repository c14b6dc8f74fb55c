"""Whether a difference between models is more than chance, over the users of a cross-validation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recgraph.evaluate.results import Result, check_comparable
from recgraph.evaluate.significance import Comparison, Source, compare_values, results_of, user_means

__all__ = ["OF_FOLD", "over_folds"]

#: what the protocols of two folds differ in
OF_FOLD = ("split_hash", "split_facts")

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
        ValueError: no list of folds, not as many of each, one fold twice, or as of :func:`over_users`.
    """
    folds = [*zip(*(_of_folds(name, given) for name, given in (("a", a), ("b", b))), strict=False)]
    if len(a) != len(b):
        raise ValueError(f"a has {len(a)} folds and b has {len(b)}; give the same ones of each")
    check_comparable([own[0] for own, _ in folds], metric, aside=OF_FOLD)
    splits = [own[0].protocol.split_hash for own, _ in folds]
    if len(set(splits)) < len(splits):
        raise ValueError("two of the folds have the same split; give each fold once, and seeds of a fold as a list")
    means = _over_all_folds([(own[0].users, *user_means(own, other, metric)) for own, other in folds])
    return compare_values(*means, confidence=confidence, n_draws=n_draws, seed=seed)


def _of_folds(name: str, given: Sequence[Source | Sequence[Source]]) -> list[list[Result]]:
    """The results of each fold."""
    if isinstance(given, Source) or not len(given):
        raise ValueError(f"{name} = {given!r} must be a list with the result of each fold")
    found = [results_of(one) for one in given]
    if [] in found:
        raise ValueError(f"{name}[{found.index([])}] is empty; give the result of that fold, or those of its seeds")
    return found


def _over_all_folds(
    folds: Sequence[tuple[NDArray[np.int64], FloatArray, FloatArray]],
) -> tuple[FloatArray, FloatArray]:
    """[U] each: the mean of each user over the folds in which both have a value."""
    users, own, other = (np.concatenate(each) for each in zip(*folds, strict=True))
    has = ~np.isnan(own) & ~np.isnan(other)
    _, place, counts = np.unique(users[has], return_inverse=True, return_counts=True)
    return np.bincount(place, own[has]) / counts, np.bincount(place, other[has]) / counts
