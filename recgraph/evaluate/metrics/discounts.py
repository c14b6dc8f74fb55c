"""Gains of grades and discounts of ranks, as (normalised) discounted cumulative gain combines them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["EXPONENTIAL", "LATE", "LINEAR", "RANK", "Discount", "Gain", "geometric", "ranks", "reciprocal"]


@dataclass(frozen=True)
class Discount:
    """The weight of each rank.

    Attributes:
        name: shown in the metric's label.
        of_ranks: ranks from 1 on [k] float64 -> weights [k].
    """

    name: str
    of_ranks: Callable[[Tensor], Tensor]

    def __call__(self, k: int, like: Tensor) -> Tensor:
        """[k] float64: the weights of the first ``k`` ranks, on the device of ``like``; see :func:`ranks`."""
        return self.of_ranks(ranks(k, like))

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Gain:
    """What an item of a grade adds.

    Attributes:
        name: shown in the metric's label.
        of_grades: grades, 0 for a miss -> gains.
    """

    name: str
    of_grades: Callable[[Tensor], Tensor]

    def __call__(self, grades: Tensor) -> Tensor:
        return self.of_grades(grades)

    def __str__(self) -> str:
        return self.name


def ranks(k: int, like: Tensor) -> Tensor:
    """[k] float64: 1, 2, ... k.

    Args:
        like: lists [U, W], which end at rank W, so that there are no more weights than that; or anything else on the
            device.
    """
    k = min(k, like.shape[1]) if like.dim() == 2 else k
    return torch.arange(1, k + 1, dtype=torch.float64, device=like.device)


def reciprocal(k: int, like: Tensor) -> Tensor:
    """[k] float64: 1 / rank."""
    return ranks(k, like).reciprocal()


def geometric(patience: float, k: int, like: Tensor) -> Tensor:
    """[k] float64: patience^(rank - 1), the probability that a user gets to a rank."""
    return patience ** (ranks(k, like) - 1)


def _rank(rank: Tensor) -> Tensor:
    return (rank + 1).log2().reciprocal()


def _late(rank: Tensor) -> Tensor:
    return rank.clamp(min=2).log2().reciprocal()


def _linear(grades: Tensor) -> Tensor:
    return grades


def _exponential(grades: Tensor) -> Tensor:
    return grades.exp2() - 1


#: 1 / log2(rank + 1)
RANK = Discount("rank", _rank)
#: 1 / log2(max(rank, 2)), which weighs ranks 1 and 2 alike (Jarvelin and Kekalainen, TOIS 2002)
LATE = Discount("late", _late)
#: the grade
LINEAR = Gain("linear", _linear)
#: 2^grade - 1 (Burges et al., ICML 2005)
EXPONENTIAL = Gain("exponential", _exponential)
