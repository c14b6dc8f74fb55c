"""A number over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Stat"]


@dataclass(frozen=True)
class Stat:
    """A number that each seed gave once.

    Attributes:
        by_seed: seed -> its value; at least one.
    """

    by_seed: Mapping[int, float]

    @property
    def n(self) -> int:
        """How many seeds."""
        return len(self.by_seed)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.by_seed.values())

    @property
    def sd(self) -> float | None:
        """The standard deviation over seeds (n - 1); None of one seed."""
        return statistics.stdev(self.by_seed.values()) if self.n > 1 else None

    def text(self, digits: int = 4) -> str:
        """``0.0551 ± 0.0003``, without the deviation where there is one seed."""
        spread = "" if self.sd is None else f" ± {self.sd:.{digits}f}"
        return f"{self.mean:.{digits}f}{spread}"
