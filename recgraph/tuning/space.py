"""One dimension of a search space: a field, and the values that it may take.

Search spaces: from the annotations on configuration fields, narrowed, extended and fixed by a space file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from recgraph.config import Config, ConfigError, Search, distribute, load_toml, unknown_key

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["SearchSpace"]


# Values that a storage keeps as they are; other choices (lists, tables) are kept as JSON.
_PLAIN = (bool, int, float, str, type(None))
_MOST_WHOLE_NUMBERS = 20


@dataclass(frozen=True)
class Dimension:
    """A range or a list of choices for one field.

    Attributes:
        name: of the field.
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
        if self.low is None or self.high is None:
            raise ConfigError(f"space of {self.name!r} needs low and high, or choices")
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
        """A sampled value as the field takes it."""
        if self.choices is None:
            return value
        return next(choice for choice in self.choices if _same(_encode(choice), value))

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


Parts = Mapping[str, type[Config]]
#: the key that keeps every field that the space does not name at its value
REST = "*"
_RANGE = ("low", "high", "log", "step", "choices")


@dataclass(frozen=True)
class SearchSpace:
    """What is searched and what is fixed, in one flat namespace of several configurations.

    Attributes:
        parts: name -> configuration class.
        dimensions: field -> its dimension.
        fixed: field -> its value; all others have their defaults.
    """

    parts: Parts
    dimensions: Mapping[str, Dimension]
    fixed: Mapping[str, Any]

    @classmethod
    def of(
        cls, parts: Parts, fixed: Mapping[str, Any], given: Mapping[str, Any] | str | Path | None = None
    ) -> SearchSpace:
        """The space of some configurations.

        Args:
            parts: name -> configuration class; no two have a field of the same name.
            fixed: settings that are not searched.
            given: a mapping or a TOML file. ``field = value`` fixes a field, ``field = [..]`` gives its choices,
                ``field = {low, high, log, step, choices}`` replaces these entries of the annotation, or makes a
                range for a field that has none; ``"*" = "fixed"`` keeps all that it does not name at its default.

        Raises:
            ConfigError: an unknown field, a value out of a field's range, nothing to search.
        """
        given = load_toml(given) if isinstance(given, str | Path) else dict(given or {})
        rest = given.pop(REST, "searched")
        if rest not in ("fixed", "searched"):
            raise ConfigError(f"space: {REST!r} = {rest!r} must be 'fixed' or 'searched'")
        fields = {name: field for part in parts.values() for name, field in part.model_fields.items()}
        distribute({**fixed, **given}, parts)
        twice = sorted(set(fixed) & set(given))
        if twice:
            raise ConfigError(f"setting {twice[0]!r} is both set and in the space; leave one out")
        settled, dimensions = dict(fixed), {}
        for name, field in fields.items():
            found = _dimension(name, field, given.get(name)) if name in given else None
            if name in given and found is None:
                settled[name] = given[name]
            elif found is None and name not in fixed and rest == "searched":
                found = _dimension(name, field, {}) if _search(field) else None
            if found is not None:
                _check(found, field)
                dimensions[name] = found
        if not dimensions:
            raise ConfigError("the space is empty: every field is fixed, or none has a range; give ranges in the space")
        space = cls(parts, dimensions, settled)
        for part, values in distribute(settled, parts).items():
            parts[part].of(values)
        return space

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """What Optuna samples, by field."""
        return {name: dimension.distribution for name, dimension in self.dimensions.items()}

    def settings(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The settings for sampled parameters (``trial.params``)."""
        sampled = {name: dimension.decode(params[name]) for name, dimension in self.dimensions.items()}
        return {**self.fixed, **sampled}

    def shared(self, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Settings shared out among the parts."""
        return distribute(settings, self.parts)

    def default(self) -> dict[str, Any] | None:
        """The parameters of the default configuration; None where a default is outside of the space."""
        fields = {name: field for part in self.parts.values() for name, field in part.model_fields.items()}
        try:
            return {
                name: dimension.encode(fields[name].get_default(call_default_factory=True, validated_data={}))
                for name, dimension in self.dimensions.items()
            }
        except ValueError:
            return None

    def to_dict(self) -> dict[str, Any]:
        """Plain values: field -> its range, and under ``fixed`` the settings."""
        return {
            "searched": {name: dimension.to_dict() for name, dimension in sorted(self.dimensions.items())},
            "fixed": dict(sorted(self.fixed.items())),
        }


def _search(field: FieldInfo) -> Search | None:
    return next((meta for meta in field.metadata if isinstance(meta, Search)), None)


def _is_whole(field: FieldInfo) -> bool:
    types = {field.annotation, *get_args(field.annotation)}
    return int in types and float not in types


def _dimension(name: str, field: FieldInfo, given: Any) -> Dimension | None:
    """The dimension of a field; None where ``given`` is a value that fixes it."""
    if isinstance(given, list | tuple):
        return Dimension(name, choices=tuple(given))
    if not isinstance(given, Mapping) or (given and not set(given) & set(_RANGE)):
        return None
    for key in given:
        if key not in _RANGE:
            raise ConfigError(f"space of {name!r}: {unknown_key(key, _RANGE)}")
    if "choices" in given:
        return Dimension(name, choices=tuple(given["choices"]))
    written = asdict(_search(field) or Search())
    if given:  # a range replaces choices, a log scale replaces steps
        written["choices"] = None
        written["step"] = None if given.get("log") else written["step"]
        written["log"] = written["log"] and "step" not in given
    merged = {**written, **given}
    choices = merged.pop("choices")
    if choices is not None:
        return Dimension(name, choices=tuple(choices))
    return Dimension(name, **merged, whole=_is_whole(field))


def _check(dimension: Dimension, field: FieldInfo) -> None:
    """Every end or choice must be a value that the field allows."""
    adapter: TypeAdapter[Any] = TypeAdapter(field.rebuild_annotation())
    for value in dimension.choices or (dimension.low, dimension.high):
        try:
            adapter.validate_python(int(value) if dimension.whole else value)
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise ConfigError(f"space of {dimension.name!r}: {value!r} is not allowed: {problem}") from None
