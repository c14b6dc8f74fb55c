"""Whether a difference between two models is more than chance: over users, over seeds, or over the users of folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recgraph.config import checked
from recgraph.evaluate.results import Result, comparable, load_users
from recgraph.evaluate.statistics import (
    FloatArray,
    Interval,
    TooFewPairs,
    bootstrap,
    cohen_d,
    differences_of,
    paired_t,
    randomisation,
)

Test = Literal["t", "randomisation"]
#: what the protocols of two folds differ in
OF_FOLD = ("split_hash", "split_facts")
#: a result, or a file that ``save_users`` wrote
Source = Result | str | Path


@dataclass(frozen=True)
class Comparison:
    """A paired comparison, ``b`` minus ``a``.

    Attributes:
        n: pairs.
        difference: of the means.
        interval: of the difference.
        p_values: test -> two-sided p-value.
        cohen_d: the mean difference over the deviation of the differences (Cohen's d for pairs).
    """

    n: int
    difference: float
    interval: Interval
    p_values: dict[Test, float]
    cohen_d: float


def compare_values(
    a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95, n_draws: int = 9999, seed: int = 0
) -> Comparison:
    """Compare paired values, e.g. of the same users, or of the same seeds.

    Pairs in which either is NaN (the user has no value) are left out; fewer than two raise ``TooFewPairs``.
    """
    values = _differences(np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64))
    if values.size < 2:
        raise TooFewPairs(f"there are {values.size} pairs; at least two are needed")
    return Comparison(
        values.size,
        float(values.mean()),
        bootstrap(values, confidence=confidence, n_draws=n_draws, seed=seed),
        {"t": paired_t(values), "randomisation": randomisation(values, n_draws=n_draws, seed=seed)},
        cohen_d(values),
    )


def _differences(own: FloatArray, other: FloatArray) -> FloatArray:
    """[M] ``other - own`` of the pairs with both."""
    return differences_of(own, other)[~np.isnan(own) & ~np.isnan(other)]


@checked
def over_users(
    a: Source | Sequence[Source],
    b: Source | Sequence[Source],
    metric: str,
    *,
    confidence: float = 0.95,
    n_draws: int = 9999,
    seed: int = 0,
) -> Comparison:
    """Compare two models over users: whether the difference is to be expected for other users of the same kind.

    Args:
        a, b: a result, or a file that :func:`~recgraph.evaluate.results.save_users` wrote. With several of a model (its
            seeds) each user counts with the mean over them.

    Raises:
        ProtocolMismatch: the numbers were made in different ways.
        ValueError: the users are not the same, or the metric has values of none or (``TooFewPairs``) one of them.
    """
    means = user_means(results_of(a), results_of(b), metric)
    return compare_values(*means, confidence=confidence, n_draws=n_draws, seed=seed)


def p_value(
    a: Sequence[Result], b: Sequence[Result], metric: str, *, test: Test, n_draws: int = 9999, seed: int = 0
) -> float:
    """The p-value of one test over users, without the rest of :func:`over_users`; 1 where no two users have values."""
    values = _differences(*user_means(a, b, metric))
    if values.size < 2:
        return 1.0
    return paired_t(values) if test == "t" else randomisation(values, n_draws=n_draws, seed=seed)


@checked
def over_seeds(
    a: Sequence[Source],
    b: Sequence[Source],
    metric: str,
    *,
    confidence: float = 0.95,
    n_draws: int = 9999,
    seed: int = 0,
) -> Comparison:
    """Compare two models over seeds: whether the difference is to be expected with other seeds.

    The i-th results of both, or files that :func:`~recgraph.evaluate.results.save_users` wrote, must be of the same
    seed (else the pairing is arbitrary, and the test too cautious at worst). With n seeds no randomisation test can
    give a p-value below 2 / 2^n.

    Raises:
        ProtocolMismatch: the numbers were made in different ways.
        ValueError: not as many results of each.
    """
    if len(a) != len(b):
        raise ValueError(f"there are {len(a)} results of a and {len(b)} of b; give one of each for every seed")
    both = results_of(a), results_of(b)
    for result in (*both[0], *both[1]):
        comparable(both[0][0], result)
    values = [[result[metric] for result in results] for results in both]
    return compare_values(*values, confidence=confidence, n_draws=n_draws, seed=seed)


def results_of(given: Source | Sequence[Source]) -> list[Result]:
    """The results of a model; files are read."""
    several = [given] if isinstance(given, Source) else given
    if not several:
        raise ValueError("results of a model or fold are empty; give at least one")
    return [one if isinstance(one, Result) else load_users(one) for one in several]


def user_means(a: Sequence[Result], b: Sequence[Result], metric: str) -> tuple[FloatArray, FloatArray]:
    """[U] each: the mean over the results of each user's values, the same in whatever order they are given.

    Raises:
        ProtocolMismatch: the numbers were made in different ways.
        ValueError: the metric has no values of users, or the users are not the same.
    """
    for result in (*a, *b):
        comparable(a[0], result)
        if metric not in result.per_user:
            raise ValueError(f"metric {metric!r} has no values of users here; there are {', '.join(result.per_user)}")
        ids = [None if one.user_ids is None else one.user_ids.to_list() for one in (result, a[0])]
        if not np.array_equal(result.users, a[0].users) or ids[0] != ids[1]:
            raise ValueError("the results are of different users; evaluate both models on the same cases")
    own, other = (np.sort([result.per_user[metric] for result in results], axis=0).mean(0) for results in (a, b))
    return own, other


@checked
def over_folds(
    a: Sequence[Source | Sequence[Source]],
    b: Sequence[Source | Sequence[Source]],
    metric: str,
    *,
    confidence: float = 0.95,
    n_draws: int = 9999,
    seed: int = 0,
) -> Comparison:
    """Compare two models over the users of a cross-validation (:func:`recgraph.data.interactions.folds`).

    Each user counts once, with all its values: those of several folds are no independent ones. Folds count alike,
    however many users have a value in them, so that the difference is that of the means over folds.

    Args:
        a, b: of each fold what :func:`over_users` takes, in the same order of folds.

    Raises:
        ProtocolMismatch: the numbers were made in different ways, or those at one place are of different folds.
        ValueError: not as many folds of each, one fold twice, folds of different logs, or as of :func:`over_users`.
    """
    if not a or len(a) != len(b):
        raise ValueError(f"a has {len(a)} folds and b has {len(b)}; give the same ones of each")
    folds = [(results_of(own), results_of(other)) for own, other in zip(a, b, strict=True)]
    first = [own[0] for own, _ in folds]
    for result in first:
        comparable(first[0], result, aside=OF_FOLD)
    if len({result.protocol.split_hash for result in first}) < len(first):
        raise ValueError("two of the folds have the same split; give each fold once, and seeds of a fold as a list")
    if len({result.log_hash for result in first if result.log_hash}) > 1:
        raise ValueError("the folds are of different logs; train and test all folds of one log")
    means = _over_all_folds([(own[0].users, *user_means(own, other, metric)) for own, other in folds])
    return compare_values(*means, confidence=confidence, n_draws=n_draws, seed=seed)


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
