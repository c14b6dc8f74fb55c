"""Axes: where a value lies on a chart, and which ticks it gets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Axis", "Choices", "Scale", "number"]

#: share of an axis that is left free at each end
_MARGIN = 0.05


def number(value: float) -> str:
    """A value as short as it can be read."""
    if not math.isfinite(value):
        return f"{value}"
    if value == int(value) and abs(value) < 1e5:
        return f"{int(value)}"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}"
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"


@dataclass(frozen=True)
class Scale:
    """A numeric axis.

    Attributes:
        low, high: its ends.
        log: whether equal factors are equal distances.
        whole: whether its ticks are whole numbers.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    @classmethod
    def of(cls, values: Sequence[float], log: bool = False, whole: bool = False) -> Scale:
        """An axis that shows all values, with some room around them."""
        finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        log = log and min(finite) > 0
        low, high = min(finite), max(finite)
        if log:
            low, high = math.log10(low), math.log10(high)
        room = (high - low) * _MARGIN or abs(high) * _MARGIN or 0.5
        low, high = low - room, high + room
        return cls(10**low, 10**high, True) if log else cls(low, high, whole=whole)

    def place(self, value: Any) -> float:
        """Where a value lies, 0 to 1."""
        low, high, at = self.low, self.high, float(value)
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(at)
        return (at - low) / (high - low)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Place and text of each tick."""
        values = self._log_ticks() if self.log else self._steps()
        return [(self.place(value), number(value)) for value in values]

    def _steps(self) -> list[float]:
        rough = (self.high - self.low) / 4
        power = 10 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
        step = max(1, math.ceil(step)) if self.whole else step
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [float(f"{index * step:.12g}") for index in range(first, last + 1)]

    def _log_ticks(self) -> list[float]:
        low, high = math.log10(self.low), math.log10(self.high)
        factors = (1,) if high - low > 2 else (1, 3) if high - low > 1 else (1, 2, 5)
        powers = range(math.floor(low), math.ceil(high) + 1)
        values = [factor * 10.0**power for power in powers for factor in factors]
        return [value for value in values if self.low <= value <= self.high]


@dataclass(frozen=True)
class Choices:
    """An axis of choices, each at a place of its own."""

    values: tuple[Any, ...]

    def place(self, value: Any) -> float:
        """Where a choice lies, 0 to 1."""
        found = next(place for place, choice in enumerate(self.values) if repr(choice) == repr(value))
        return (found + 0.5) / len(self.values)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Place and text of each choice; of many choices some have none."""
        every = math.ceil(len(self.values) / 8)
        shown = [(self.place(value), f"{value}") for value in self.values[::every]]
        return [(place, text if len(text) <= 12 else f"{text[:11]}…") for place, text in shown]


Axis = Scale | Choices
