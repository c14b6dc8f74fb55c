"""Whether a difference between two models is more than chance: over users, or over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recgraph.arguments import checked
from recgraph.evaluate.results import Result, check_comparable, load_users
from recgraph.evaluate.statistics import (
    Interval,
    TooFewPairs,
    bootstrap,
    check_draws,
    cohen_d,
    differences_of,
    paired_t,
    randomisation,
    rank_biserial,
    wilcoxon,
)

__all__ = [
    "Comparison",
    "Interval",
    "Source",
    "Test",
    "compare_values",
    "over_seeds",
    "over_users",
    "p_value",
    "results_of",
    "user_means",
]

FloatArray = NDArray[np.float64]
Test = Literal["t", "wilcoxon", "randomisation"]
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
        rank_biserial: the matched-pairs rank-biserial correlation, in [-1, 1]: the rank sum in favour of ``b`` less
            that in favour of ``a``, over both.
    """

    n: int
    difference: float
    interval: Interval
    p_values: dict[Test, float]
    cohen_d: float
    rank_biserial: float


def compare_values(
    a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95, n_draws: int = 9999, seed: int = 0
) -> Comparison:
    """Compare paired values, e.g. of the same users, or of the same seeds.

    Args:
        a, b: [N]; pairs in which either is NaN (the user has no value) are left out.

    Raises:
        ValueError: not of the same length, or (``TooFewPairs``) fewer than two pairs.
    """
    own, other = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if own.shape != other.shape or own.ndim != 1:
        raise ValueError(f"a and b must be paired: one list of values each, not {own.shape} and {other.shape}")
    values = _differences(own, other)
    if values.size < 2:
        raise TooFewPairs(f"there are {values.size} pairs; at least two are needed")
    return Comparison(
        values.size,
        float(values.mean()),
        bootstrap(values, confidence=confidence, n_draws=n_draws, seed=seed),
        {
            "t": paired_t(values),
            "wilcoxon": wilcoxon(values),
            "randomisation": randomisation(values, n_draws=n_draws, seed=seed),
        },
        cohen_d(values),
        rank_biserial(values),
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
    means = user_means(results_of(a, "a"), results_of(b, "b"), metric)
    return compare_values(*means, confidence=confidence, n_draws=n_draws, seed=seed)


@checked
def p_value(
    a: Source | Sequence[Source],
    b: Source | Sequence[Source],
    metric: str,
    *,
    test: Test = "randomisation",
    n_draws: int = 9999,
    seed: int = 0,
) -> float:
    """The p-value of one test over users, without the rest of :func:`over_users`; 1 where no two users have values."""
    own, other = user_means(results_of(a, "a"), results_of(b, "b"), metric)
    check_draws(n_draws, seed)
    values = _differences(own, other)
    if values.size < 2:
        return 1.0
    if test == "randomisation":
        return randomisation(values, n_draws=n_draws, seed=seed)
    return paired_t(values) if test == "t" else wilcoxon(values)


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
    both = results_of(a, "a"), results_of(b, "b")
    check_comparable([*both[0], *both[1]], metric)
    values = [[result[metric] for result in results] for results in both]
    return compare_values(*values, confidence=confidence, n_draws=n_draws, seed=seed)


def results_of(given: Source | Sequence[Source], name: str) -> list[Result]:
    """The results of a model; files are read.

    Raises:
        ValueError: there is none; names the argument.
    """
    several = [given] if isinstance(given, Source) else given
    if not several:
        raise ValueError(f"{name} is empty: give at least one result")
    return [one if isinstance(one, Result) else load_users(one) for one in several]


def user_means(a: Sequence[Result], b: Sequence[Result], metric: str) -> tuple[FloatArray, FloatArray]:
    """[U] each: the mean over the results of each user's values, the same in whatever order they are given."""
    check_alike([*a, *b], metric)
    own, other = (np.sort([result.per_user[metric] for result in results], axis=0).mean(0) for results in (a, b))
    return own, other


def check_alike(results: Sequence[Result], metric: str) -> None:
    """Refuse results that cannot be compared user by user.

    Raises:
        ProtocolMismatch: the numbers were made in different ways.
        ValueError: the metric has no values of users, or the users are not the same.
    """
    check_comparable(results, metric)
    for result in results:
        if metric not in result.per_user:
            raise ValueError(f"metric {metric!r} has no values of users here; there are {', '.join(result.per_user)}")
        ids = [None if one.user_ids is None else one.user_ids.to_list() for one in (result, results[0])]
        if not np.array_equal(result.users, results[0].users) or ids[0] != ids[1]:
            raise ValueError("the results are of different users; evaluate both models on the same cases")
