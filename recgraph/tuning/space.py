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
from recgraph.train.config import distribute

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution

Parts = Mapping[str, type[Config]]
#: the key that says whether fields that the space does not name are searched
REST = "*"
_RANGE = ("low", "high", "log", "step", "choices")
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
                return CategoricalDistribution([_encode(choice) for choice in self.choices])
            if self.whole:
                low, high, step = (
                    self._whole(value) for value in (self.low, self.high, self.step or 1)
                )
                return IntDistribution(low, high, log=self.log, step=step)
            return FloatDistribution(
                float(self.low),  # type: ignore[arg-type]
                float(self.high),  # type: ignore[arg-type]
                log=self.log,
                step=self.step,
            )
        except (TypeError, ValueError) as error:
            raise ConfigError(f"space of {self.name!r}: {error}") from None

    def suggest(self, trial: Trial) -> Any:
        """A trial's value."""
        found: Any = self.distribution
        if self.choices is not None:
            return trial.suggest_categorical(self.name, found.choices)
        suggest: Any = trial.suggest_int if self.whole else trial.suggest_float
        return suggest(self.name, found.low, found.high, step=found.step, log=found.log)

    def _whole(self, value: Any) -> int:
        if value != int(value):
            raise ValueError(f"{value!r} is no whole number")
        return int(value)

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
            inside = isinstance(value, int | float) and bool(self.distribution._contains(value))
        if not inside:
            raise ValueError(f"{self.name} = {value!r} is outside of its space")
        return encoded

    def grid(self) -> list[Any]:
        """All values, for a grid search.

        Raises:
            ConfigError: the range is continuous, or of very many whole numbers.
        """
        if self.choices is not None:
            # one that is given twice is one, but True is not 1
            return [
                *{
                    (isinstance(each, bool), each): each for each in map(_encode, self.choices)
                }.values()
            ]
        assert self.low is not None
        assert self.high is not None
        few = self.whole and not self.log and self.high - self.low < _MOST_WHOLE_NUMBERS
        if self.step is None and not few:
            raise ConfigError(
                f"a grid needs choices or a step for {self.name!r}: {self.name} = [...] in the space"
            )
        step = self.step or 1
        values = np.arange(int((self.high - self.low) / step + 1e-9) + 1) * step + self.low
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
        settled = dict(fixed)
        is_set = {name for name, _ in assignments(fixed)}
        if twice := sorted(name for name in named if name in is_set):
            raise ConfigError(f"setting {twice[0]!r} is both set and in the space; leave one out")
        for name, value in named.items():
            if not _is_range(value):
                put(settled, name.split("."), value)
        made = {part: parts[part].of(values) for part, values in distribute(settled, parts).items()}
        tree = {
            name: (field, value) for config in made.values() for name, field, value in walk(config)
        }
        if unknown := [name for name in named if name not in tree]:
            raise ConfigError(f"space of {unknown[0]!r}: {unknown_key(unknown[0], *made.values())}")
        dimensions: dict[str, Dimension] = {}
        for name, (field, _) in tree.items():
            if name in named and _is_range(named[name]):
                dimensions[name] = _dimension(name, field, named[name])
            elif rest == "fixed" or search_of(field) is None or name in named or name in is_set:
                continue
            elif not _is_within(name, {*dimensions}):
                dimensions[name] = _dimension(name, field, {})
        if not dimensions:
            raise ConfigError("the space is empty: give ranges in the space (--space FILE)")
        for name in dimensions:
            _write_lists(settled, name, tree)
        space = cls(parts, dimensions, settled, {name: value for name, (_, value) in tree.items()})
        for name, dimension in dimensions.items():
            space._check(name, dimension)
        return space

    def settings(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The settings, as a tree, for sampled parameters (``trial.params``)."""
        found = dict(self.fixed)
        for name, dimension in self.dimensions.items():
            put(found, name.split("."), dimension.decode(params[name]))
        return found

    def default(self) -> dict[str, Any] | None:
        """The parameters of the default configuration; None where a default is outside of the
        space.
        """
        try:
            return {
                name: each.encode(_plain(self.defaults[name]))
                for name, each in self.dimensions.items()
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

    def _check(self, name: str, dimension: Dimension) -> None:
        """There must be such a range, and every end or choice must be a value that the field
        allows.
        """
        dimension.distribution  # noqa: B018 (it checks)
        for value in dimension.choices or (dimension.low, dimension.high):
            tree = dict(self.fixed)
            put(tree, name.split("."), int(value) if dimension.whole else value)
            try:
                for part, values in distribute(tree, self.parts).items():
                    self.parts[part].of(values)
            except ConfigError as error:
                raise ConfigError(f"space of {name!r}: {error}") from None


def _is_range(value: Any) -> bool:
    return isinstance(value, list | tuple) or (
        isinstance(value, Mapping) and set(value) <= set(_RANGE)
    )


def _flattened(table: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value, or range, of what a space holds; a table with a name is the value of a
    part.
    """
    for name, value in table.items():
        is_table = isinstance(value, Mapping) and "name" not in value and value
        if is_table and not _is_range(value):
            yield from _flattened(value, f"{within}{name}.")
        else:
            yield f"{within}{name}", value


def _is_within(name: str, names: set[str]) -> bool:
    """Whether a setting is one of these, or lies within one of them."""
    path = name.split(".")
    return any(".".join(path[:n]) in names for n in range(1, len(path) + 1))


def _write_lists(
    settings: dict[str, Any], name: str, tree: Mapping[str, tuple[FieldInfo, Any]]
) -> None:
    """Write the parts of a field that holds several into the settings, for one of theirs to be
    set.
    """
    path = name.split(".")
    for n in range(1, len(path)):
        place = ".".join(path[:n])
        if place in tree and isinstance(tree[place][1], tuple):
            put(settings, path[:n], [each.model_dump(mode="json") for each in tree[place][1]])


def _dimension(name: str, field: FieldInfo, given: Any) -> Dimension:
    """The dimension of a field by what the space says of it."""
    if isinstance(given, list | tuple):
        return Dimension(name, choices=tuple(given))
    written = asdict(search_of(field) or Search())
    if given:  # a range replaces choices, a log scale replaces steps
        written["choices"] = None
        written["step"] = None if given.get("log") else written["step"]
        written["log"] = written["log"] and "step" not in given
    merged = {**written, **given}
    if (choices := merged.pop("choices")) is not None:
        return Dimension(name, choices=tuple(choices))
    types = {field.annotation, *get_args(field.annotation)}
    return Dimension(name, **merged, whole=int in types and float not in types)


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings or a space as JSON keeps them: numbers of numpy as numbers, parts as tables."""

    def read(value: Any) -> Any:
        if isinstance(value, np.generic | np.ndarray):
            return value.tolist()
        if isinstance(value, Config):
            return value.model_dump(mode="json")
        if hasattr(value, "key") and isinstance(
            getattr(value, "config", None), Config
        ):  # a model among others
            return {"name": value.key(), **value.config.model_dump(mode="json")}
        raise ConfigError(
            f"settings: a study keeps numbers, texts, lists and tables, not {shown(value)}"
        )

    found: dict[str, Any] = json.loads(json.dumps(dict(settings), default=read))
    return found


def _plain(value: Any) -> Any:
    """A default as choices are written: a part that differs from its own defaults by nothing as its
    name.
    """
    if isinstance(value, PartConfig):
        return value.part_name if value == type(value)() else value.model_dump(mode="json")
    return list(value) if isinstance(value, tuple) else value
