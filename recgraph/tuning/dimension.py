"""A dimension of a search space: a range or choices, and how a storage keeps their values."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from recgraph.config import ConfigError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["Dimension"]

# Types of choices that a storage takes as they are; others (lists, tables) are stored as JSON.
_PLAIN = (bool, int, float, str, type(None))
_MOST_WHOLE_NUMBERS = 20


@dataclass(frozen=True)
class Dimension:
    """A range or a list of choices for one field, or for one option of a part.

    Attributes:
        name: of the field, or dotted, of the option.
        low, high: both ends, included; None where there are ``choices``.
        log: whether the logarithm is searched.
        step: between two neighbours, or None.
        choices: the values, or None.
        whole: whether values are integers.
    """

    name: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        if self.choices is not None:
            if not self.choices:
                raise ConfigError(f"space of {self.name!r}: choices = [] has none")
            return
        if not isinstance(self.log, bool):
            raise ConfigError(f"space of {self.name!r}: log = {self.log!r} must be true or false")
        for end in ("low", "high", "step"):
            value = getattr(self, end)
            is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if value is not None and not is_number:
                raise ConfigError(f"space of {self.name!r}: {end} = {value!r} must be a number")
        if self.low is None or self.high is None:
            raise ConfigError(f"space of {self.name!r} needs low and high, or choices")
        if self.step is not None and self.step <= 0:
            raise ConfigError(f"space of {self.name!r}: step = {self.step} must be above 0")
        if self.low > self.high:
            raise ConfigError(f"space of {self.name!r}: low = {self.low} is above high = {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ConfigError(f"space of {self.name!r}: log = true needs low > 0 (it is {self.low}) and no step")
        if self.whole and any(value != int(value) for value in (self.low, self.high, self.step or 1)):
            raise ConfigError(f"space of {self.name!r}: low, high and step must be whole numbers")

    @property
    def distribution(self) -> BaseDistribution:
        """What Optuna samples."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices is not None:
            return CategoricalDistribution([_encode(choice) for choice in self.choices])
        assert self.low is not None
        assert self.high is not None
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(float(self.low), float(self.high), log=self.log, step=self.step)

    def decode(self, value: Any) -> Any:
        """A sampled value as the field takes it.

        Raises:
            ValueError: the value is not among the choices.
        """
        if self.choices is None:
            return value
        for choice in self.choices:
            if _same(_encode(choice), value):
                return choice
        raise ValueError(f"{self.name} = {value!r} is outside of its space")

    def encode(self, value: Any) -> Any:
        """The inverse of :meth:`decode`.

        Raises:
            ValueError: the value is not in this dimension.
        """
        encoded = _encode(value)
        if self.choices is not None:
            inside = any(_same(_encode(choice), encoded) for choice in self.choices)
        else:
            assert self.low is not None
            assert self.high is not None
            number = isinstance(value, int | float) and not isinstance(value, bool)
            inside = number and self.low <= value <= self.high
            if inside and self.step is not None:
                n_steps = (value - self.low) / self.step
                inside = math.isclose(n_steps, round(n_steps), abs_tol=1e-8)
        if not inside:
            raise ValueError(f"{self.name} = {value!r} is outside of its space")
        return encoded

    def grid(self) -> list[Any]:
        """All values, for a grid search.

        Raises:
            ConfigError: the range is continuous, or of very many whole numbers.
        """
        if self.choices is not None:
            return [_encode(choice) for choice in self.choices]
        assert self.low is not None
        assert self.high is not None
        if self.step is None and self.whole and not self.log and self.high - self.low < _MOST_WHOLE_NUMBERS:
            return list(range(int(self.low), int(self.high) + 1))
        if self.step is None:
            raise ConfigError(f"a grid needs choices or a step for {self.name!r}: {self.name} = [...] in the space")
        values = np.arange(int((self.high - self.low) / self.step + 1e-9) + 1) * self.step + self.low
        return [int(value) if self.whole else round(float(value), 12) for value in values]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without what is not set."""
        if self.choices is not None:
            return {"choices": list(self.choices)}
        shown = {"low": self.low, "high": self.high, "step": self.step, "log": self.log or None}
        return {name: value for name, value in shown.items() if value is not None}


def _encode(value: Any) -> Any:
    return value if isinstance(value, _PLAIN) else json.dumps(value, sort_keys=True)


def _same(one: Any, other: Any) -> bool:
    # True == 1, but they are two choices
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
