"""Which of an entry's trainings a record is of: its seed, and on a board with folds its fold."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import NamedTuple

__all__ = ["FoldSeed", "Repeat", "fold_of", "mean_of", "named", "repeat_of", "seed_of"]


class FoldSeed(NamedTuple):
    """A seed on a fold; ``1/2020`` is seed 2020 on fold 1."""

    fold: int
    seed: int

    def __str__(self) -> str:
        return f"{self.fold}/{self.seed}"


#: a seed, of a board without folds
Repeat = int | FoldSeed


def repeat_of(fold: int | None, seed: int) -> Repeat:
    """A training of an entry."""
    return seed if fold is None else FoldSeed(fold, seed)


def fold_of(repeat: Repeat) -> int | None:
    """Its fold; None of a board without folds."""
    return repeat.fold if isinstance(repeat, FoldSeed) else None


def seed_of(repeat: Repeat) -> int:
    """Its seed."""
    return repeat.seed if isinstance(repeat, FoldSeed) else repeat


def mean_of(values: Mapping[Repeat, float]) -> float:
    """The mean over an entry's trainings, each fold alike: a seed may be done on some of the folds alone."""
    folds: dict[int | None, list[float]] = {}
    for repeat, value in values.items():
        folds.setdefault(fold_of(repeat), []).append(value)
    return fmean(map(fmean, folds.values()))


def named(repeat: Repeat) -> str:
    """``seed 2020``, or ``fold 1, seed 2020``."""
    return f"fold {repeat.fold}, seed {repeat.seed}" if isinstance(repeat, FoldSeed) else f"seed {repeat}"
