"""Do two attributions agree: rank correlation, and overlap of what they put first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

__all__ = ["kendall", "ordered", "overlap", "spearman"]


def ordered(values: ArrayLike) -> list[int]:
    """The places of values, the highest first; among equal ones the last place (the newest event) comes first."""
    found = np.asarray(values, dtype=np.float64)
    return (len(found) - 1 - np.argsort(-found[::-1], kind="stable")).tolist()  # type: ignore[no-any-return]


def spearman(a: ArrayLike, b: ArrayLike) -> float | None:
    """Spearman's rank correlation of two lists of values, equal ones with their mean rank; None where one is constant.

    That two explanations correlate does not prove either (Neely, Schouten, Bleeker and Lucic, A Song of
    (Dis)agreement: Evaluating the Evaluation of Explainable Artificial Intelligence in Natural Language Processing,
    2022): both may be wrong, or right for different questions. Report it beside faithfulness.
    """
    return _correlation(stats.spearmanr, a, b)


def kendall(a: ArrayLike, b: ArrayLike) -> float | None:
    """Kendall's tau-b of two lists of values; None where one is constant. See :func:`spearman`."""
    return _correlation(stats.kendalltau, a, b)


def _correlation(of: Callable[..., Any], a: ArrayLike, b: ArrayLike) -> float | None:
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    found = float(of(first, second).statistic)
    return None if np.isnan(found) else found


def overlap(a: ArrayLike, b: ArrayLike, k: int) -> float:
    """The share of the first k places (:func:`ordered`) that both have: 1 where there are no more than k places.

    Two random orders of H places share ``k / H`` of them.

    Raises:
        ValueError: k is below 1.
    """
    if k < 1:
        raise ValueError(f"k = {k} must be at least 1")
    first, second = ordered(a)[:k], ordered(b)[:k]
    return len(set(first) & set(second)) / len(first)
