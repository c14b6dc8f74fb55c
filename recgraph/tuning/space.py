"""Search spaces: from the annotations on the fields of a tree of settings, narrowed, extended and
fixed by a file.

A name is dotted within a part (``encoder.alpha``), and has the part's name where a field holds
several (``augmentations.crop.ratio``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from pydantic.fields import FieldInfo

from recgraph.config import (
    Config,
    ConfigError,
    PartConfig,
    Search,
    assignments,
    put,
    search_of,
    shown,
    unknown_key,
    walk,
    with_none,
)
from recgraph.models.base import Model
from recgraph.train.config import distribute

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution

Parts = Mapping[str, type[Config]]
#: dotted name of a setting -> its field and value
Fields = Mapping[str, tuple[FieldInfo, Any]]
#: the key that says whether fields that the space does not name are searched
REST = "*"
_RANGE = {"low", "high", "log", "step", "choices"}
#: types of choices that a storage takes as they are; others (lists, tables) are stored as JSON
_PLAIN = (bool, int, float, str, type(None))
_MOST_WHOLE_NUMBERS = 20


@dataclass(frozen=True)
class Dimension:
    """A range or a list of choices for one setting.

    Attributes:
        name: of the setting, dotted within a part.
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

    @property
    def distribution(self) -> BaseDistribution:
        """What Optuna samples.

        Raises:
            ConfigError: there is no such range.
        """
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        try:
            if self.choices is not None:
                return CategoricalDistribution(list(map(_encode, self.choices)))
            if self.whole:
                step = int(self.step or 1)
                return IntDistribution(self.low, self.high, log=self.log, step=step)  # type: ignore[arg-type]
            return FloatDistribution(self.low, self.high, log=self.log, step=self.step)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise ConfigError(f"space of {self.name!r}: {error}") from None

    @property
    def extremes(self) -> tuple[Any, ...]:
        """Both ends, or all choices."""
        return self.choices or (self.low, self.high)

    def suggest(self, trial: Trial) -> Any:
        """A trial's value."""
        found: Any = self.distribution
        if self.choices is not None:
            return trial.suggest_categorical(self.name, found.choices)
        suggest: Any = trial.suggest_int if self.whole else trial.suggest_float
        return suggest(self.name, found.low, found.high, step=found.step, log=found.log)

    def decode(self, value: Any) -> Any:
        """A sampled value as the field takes it."""
        if self.choices is None:
            return value
        encoded = list(map(_encode, self.choices))
        return self.choices[encoded.index(value)]

    def encode(self, value: Any) -> Any:
        """The inverse of :meth:`decode`.

        Raises:
            ValueError: the value is not in this dimension.
        """
        encoded = _encode(value)
        distribution = self.distribution
        if not distribution._contains(distribution.to_internal_repr(encoded)):
            raise ValueError(f"{self.name} = {value!r} is outside of its space")
        return encoded

    def grid(self) -> list[Any]:
        """All values, for a grid search.

        Raises:
            ConfigError: the range is continuous, or of very many whole numbers.
        """
        if self.choices is not None:
            return list(dict.fromkeys(map(_encode, self.choices)))
        found: Any = self.distribution
        width = found.high - found.low
        is_short = self.whole and width < _MOST_WHOLE_NUMBERS
        if self.step is None and not is_short:
            raise ConfigError(
                f"a grid needs choices or a step for {self.name!r}: {self.name} = [...] in the space"
            )
        values = np.arange(int(width / found.step + 1e-9) + 1) * found.step + found.low
        return [round(value, 12) for value in values.tolist()]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without what is not set."""
        defaults = asdict(Dimension(self.name, whole=self.whole))
        values = asdict(self)
        return {name: value for name, value in values.items() if value != defaults[name]}


def _encode(value: Any) -> Any:
    """A value as a storage takes it; a part that differs from its own defaults by nothing is its
    name, as choices are written.
    """
    if isinstance(value, PartConfig) and value == type(value)():
        return value.part_name
    if isinstance(value, _PLAIN):
        return value
    return json.dumps(value, sort_keys=True, default=_as_json)


@dataclass(frozen=True)
class SearchSpace:
    """What is searched and what is fixed of several configurations.

    Attributes:
        parts: name -> configuration class.
        dimensions: dotted name of a setting -> its dimension.
        fixed: the settings that are not searched, as a tree; all others have their defaults.
        defaults: dotted name -> its value where it is not searched.
    """

    parts: Parts
    dimensions: Mapping[str, Dimension]
    fixed: Mapping[str, Any]
    defaults: Mapping[str, Any]

    @classmethod
    def of(
        cls, parts: Parts, fixed: Mapping[str, Any], given: Mapping[str, Any] | None = None
    ) -> SearchSpace:
        """The space of some configurations.

        Args:
            parts: name -> configuration class; no two have a field of the same name.
            fixed: settings that are not searched, as a tree.
            given: a table, as of a TOML file. ``field = value`` fixes a field, ``field = [..]``
                gives its choices, ``field = {low, high, log, step, choices}`` replaces these
                entries of the annotation, or makes a range for a field that has none; ``"*" =
                "fixed"`` keeps all that it does not name at its default.

        Raises:
            ConfigError: an unknown field, a value out of a field's range, nothing to search.
        """
        table = with_none(given or {})
        rest = table.pop(REST, "searched")
        if rest not in ("fixed", "searched"):
            raise ConfigError(f"space: {REST!r} = {rest!r} must be 'fixed' or 'searched'")
        named = dict(_flattened(table))
        is_set = dict(assignments(fixed)).keys()
        twice = sorted(named.keys() & is_set)
        if twice:
            raise ConfigError(f"setting {twice[0]!r} is both set and in the space; leave one out")
        settings = dict(fixed)
        ranges = {}
        for name, value in named.items():
            if _is_range(value):
                ranges[name] = value
            else:
                put(settings, name.split("."), value)
        fields = _fields_of(_configs(settings, parts), named)
        annotated = set()
        if rest == "searched":
            annotated = _annotated(fields) - named.keys() - is_set
        dimensions: dict[str, Dimension] = {}
        for name, (field, _) in fields.items():
            if name in ranges:
                dimensions[name] = _dimension(name, field, ranges[name])
            elif name in annotated and not _is_within(name, dimensions):
                dimensions[name] = _dimension(name, field, {})
        if not dimensions:
            raise ConfigError("the space is empty: give ranges in the space (--space FILE)")
        for name in dimensions:
            _write_lists(settings, name, fields)
        defaults = {name: value for name, (_, value) in fields.items()}
        space = cls(parts, dimensions, settings, defaults)
        for dimension in dimensions.values():
            space._check(dimension)
        return space

    def settings(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The settings, as a tree, for sampled parameters (``trial.params``)."""
        settings = dict(self.fixed)
        for name, dimension in self.dimensions.items():
            put(settings, name.split("."), dimension.decode(params[name]))
        return settings

    def default(self) -> dict[str, Any] | None:
        """The parameters of the default configuration; None where a default is outside of the
        space.
        """
        try:
            return {
                name: dimension.encode(self.defaults[name])
                for name, dimension in self.dimensions.items()
            }
        except ValueError:
            return None

    def to_dict(self) -> dict[str, Any]:
        """Plain values that identify the space: the range of each parameter, and under ``fixed``
        the settings.
        """
        searched = {
            name: dimension.to_dict() for name, dimension in sorted(self.dimensions.items())
        }
        return {"searched": searched, "fixed": dict(self.fixed)}

    def _check(self, dimension: Dimension) -> None:
        """There must be such a range, and every end or choice must be a value that the field
        allows.
        """
        dimension.distribution  # noqa: B018 (it checks)
        for value in dimension.extremes:
            settings = dict(self.fixed)
            put(settings, dimension.name.split("."), value)
            try:
                _configs(settings, self.parts)
            except ConfigError as error:
                raise ConfigError(f"space of {dimension.name!r}: {error}") from None


def _configs(settings: Mapping[str, Any], parts: Parts) -> list[Config]:
    """The configurations of all parts with their share of the settings."""
    return [parts[part].of(values) for part, values in distribute(settings, parts).items()]


def _fields_of(configs: list[Config], named: Mapping[str, Any]) -> Fields:
    """The fields of some configurations, among which the named ones must be."""
    fields = {}
    for config in configs:
        for name, field, value in walk(config):
            fields[name] = (field, value)
    for name in named:
        if name not in fields:
            raise ConfigError(f"space of {name!r}: {unknown_key(name, *configs)}")
    return fields


def _annotated(fields: Fields) -> set[str]:
    """The names of the fields with a search range."""
    return {name for name, (field, _) in fields.items() if search_of(field) is not None}


def _is_range(value: Any) -> bool:
    if isinstance(value, Mapping):
        return value.keys() <= _RANGE
    return isinstance(value, list | tuple)


def _flattened(table: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value, or range, of what a space holds; a table with a name is the value of a
    part.
    """
    for name, value in table.items():
        if isinstance(value, Mapping) and "name" not in value and not _is_range(value):
            yield from _flattened(value, f"{within}{name}.")
        else:
            yield f"{within}{name}", value


def _is_within(name: str, names: Mapping[str, Any]) -> bool:
    """Whether a setting lies within one of these."""
    return any(name.startswith(f"{other}.") for other in names)


def _write_lists(settings: dict[str, Any], name: str, fields: Fields) -> None:
    """Write the parts of a field that holds several into the settings, for one of theirs to be
    set.
    """
    path = name.split(".")
    for n in range(1, len(path)):
        _, value = fields.get(".".join(path[:n]), (None, None))
        if isinstance(value, tuple):
            put(settings, path[:n], [part.model_dump(mode="json") for part in value])


def _dimension(name: str, field: FieldInfo, given: Any) -> Dimension:
    """The dimension of a field by what the space says of it."""
    if isinstance(given, list | tuple):
        return Dimension(name, choices=tuple(given))
    values = asdict(search_of(field) or Search())
    if given:
        values["choices"] = None  # a range replaces them
    if given.get("log"):
        values["step"] = None
    if "step" in given:
        values["log"] = False
    values |= given
    if values["choices"] is not None:
        return Dimension(name, choices=tuple(values["choices"]))
    types = {field.annotation, *get_args(field.annotation)}
    return Dimension(name, **values, whole=int in types and float not in types)


def plain(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """Settings or a space as JSON keeps them: numbers of numpy as numbers, parts as tables."""
    text = json.dumps(dict(settings or {}), default=_as_json)
    return dict(json.loads(text))


def _as_json(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Config):
        return value.model_dump(mode="json")
    if isinstance(value, Model):  # one model among others
        return {"name": value.key(), **value.config.model_dump(mode="json")}
    raise ConfigError(
        f"settings: a study keeps numbers, texts, lists and tables, not {shown(value)}"
    )
