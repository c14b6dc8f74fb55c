"""Comparisons of two samples that are not paired, such as the trainings of two models with some seeds each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from recgraph.evaluate.paired import Interval

__all__ = ["Welch", "hedges_g", "welch"]


@dataclass(frozen=True)
class Welch:
    """Welch's t-test, ``b`` minus ``a``.

    Attributes:
        difference: of the means.
        interval: of the difference, by the same t distribution.
        p_value: two-sided.
        hedges_g: see :func:`hedges_g`.
    """

    difference: float
    interval: Interval
    p_value: float
    hedges_g: float


def welch(a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95) -> Welch:
    """Compare two samples whose deviations may differ.

    With the same seed two models share no chance, so that nothing is gained by pairing their trainings, and they may
    have different numbers of seeds (Colas, Sigaud and Oudeyer, A Hitchhiker's Guide to Statistical Comparisons of
    Reinforcement Learning Algorithms, 2019). Where neither sample deviates, p is 1 for equal means and else 0.

    Args:
        a, b: [N] and [M].

    Raises:
        ValueError: a sample has fewer than two values, or ``confidence`` lies outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence = {confidence} must lie between 0 and 1")
    own, other = _sample("a", a), _sample("b", b)
    difference = float(other.mean() - own.mean())
    if np.ptp(own) == 0 and np.ptp(other) == 0:
        return Welch(difference, Interval(difference, difference, confidence), float(difference == 0), hedges_g(a, b))
    found = stats.ttest_ind(other, own, equal_var=False)
    low, high = found.confidence_interval(confidence)
    return Welch(difference, Interval(float(low), float(high), confidence), float(found.pvalue), hedges_g(a, b))


def hedges_g(a: ArrayLike, b: ArrayLike) -> float:
    """The difference ``b - a`` over the pooled deviation, corrected for small samples (Hedges 1981).

    Infinite where nothing deviates and the means differ.
    """
    own, other = _sample("a", a), _sample("b", b)
    free = own.size + other.size - 2
    pooled = np.sqrt((own.var(ddof=1) * (own.size - 1) + other.var(ddof=1) * (other.size - 1)) / free)
    difference = float(other.mean() - own.mean())
    if np.ptp(own) == 0 and np.ptp(other) == 0:
        return float(np.sign(difference) * np.inf) if difference else 0.0
    return float(difference / pooled * (1 - 3 / (4 * free - 1)))


def _sample(name: str, values: ArrayLike) -> NDArray[np.float64]:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or sample.size < 2 or not np.isfinite(sample).all():
        raise ValueError(f"{name} must be a list of at least two finite numbers")
    return sample
