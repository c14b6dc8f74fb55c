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
    """Compare two models over the users of a cross-validation (:func:`recgraph.folds`).

    Each user counts once, with all its values: those of several folds are no independent ones. Folds count alike,
    however many users have a value in them, so that the difference is that of the means over folds.

    Args:
        a, b: of each fold what :func:`over_users` takes, in the same order of folds.

    Raises:
        ProtocolMismatch: the numbers were made in different ways, or those at one place are of different folds.
        ValueError: no list of folds, not as many of each, one fold twice, folds of different logs, or as of
            :func:`over_users`.
    """
    folds = [*zip(*(_of_folds(name, given) for name, given in (("a", a), ("b", b))), strict=False)]
    if len(a) != len(b):
        raise ValueError(f"a has {len(a)} folds and b has {len(b)}; give the same ones of each")
    check_comparable([own[0] for own, _ in folds], metric, aside=OF_FOLD)
    splits = [own[0].protocol.split_hash for own, _ in folds]
    if len(set(splits)) < len(splits):
        raise ValueError("two of the folds have the same split; give each fold once, and seeds of a fold as a list")
    _check_one_log([own[0] for own, _ in folds])
    means = _over_all_folds([(own[0].users, *user_means(own, other, metric)) for own, other in folds])
    return compare_values(*means, confidence=confidence, n_draws=n_draws, seed=seed)


def _of_folds(name: str, given: Sequence[Source | Sequence[Source]]) -> list[list[Result]]:
    """The results of each fold."""
    if isinstance(given, Source) or not len(given):
        raise ValueError(f"{name} = {given!r} must be a list with the result of each fold")
    return [results_of(one, f"{name}[{fold}]") for fold, one in enumerate(given)]


def _check_one_log(results: Sequence[Result]) -> None:
    """Refuse folds of different logs, as of one that has grown between two trainings."""
    known = [(place, result) for place, result in enumerate(results) if result.log_hash]
    for place, result in known:
        first, before = known[0]
        if result.log_hash != before.log_hash:
            raise ValueError(
                f"a[{first}] and a[{place}] are folds of different logs, {before.log_hash[:12]} and "
                f"{result.log_hash[:12]} ({before.protocol.split_facts} and {result.protocol.split_facts}): train and "
                "test all folds of one log, which does not change in between"
            )


def _over_all_folds(
    folds: Sequence[tuple[NDArray[np.int64], FloatArray, FloatArray]],
) -> tuple[FloatArray, FloatArray]:
    """[U] each: of each user what it adds to the mean over folds of the means over users, times U."""
    has = [~np.isnan(own) & ~np.isnan(other) for _, own, other in folds]
    counts = [int(one.sum()) for one in has]
    users, own, other = (np.concatenate([fold[k][one] for fold, one in zip(folds, has, strict=True)]) for k in range(3))
    found, place = np.unique(users, return_inverse=True)
    shares = np.repeat([1 / max(1, n) for n in counts], counts)
    scale = np.full(len(found), len(found) / max(1, sum(n > 0 for n in counts)))
    return scale * np.bincount(place, own * shares), scale * np.bincount(place, other * shares)
