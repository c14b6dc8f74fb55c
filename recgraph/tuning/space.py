"""Search spaces: from the annotations on configuration fields, narrowed, extended and fixed by a space file.

``SETTING.OPTION`` is an option of the one part that a setting chooses (``loss.popularity_power``); it goes into
``SETTING_options``. ``SETTING.PART.OPTION`` is an option of one of several parts; it goes into the part's
specification, ``{name = "crop", ratio = ...}`` of ``augmentations.crop.ratio``, or ``alignment = {coefficient = ...}``
of ``regularisers.alignment.coefficient``.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from recgraph import registry
from recgraph.config import Config, ConfigError, Search, choices_with_none, distribute, load_toml, shown, unknown_key
from recgraph.parts import is_list, kind_of, options_of

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution

Parts = Mapping[str, type[Config]]
Fields = Mapping[str, FieldInfo]
#: the key that says whether fields that the space does not name are searched
REST = "*"
_RANGE = ("low", "high", "log", "step", "choices")
#: types of choices that a storage takes as they are; others (lists, tables) are stored as JSON
_PLAIN = (bool, int, float, str, type(None))
#: combinations of searched values that are tried beside what is fixed
_MOST_POINTS = 256
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
                low, high, step = (self._whole(value) for value in (self.low, self.high, self.step or 1))
                return IntDistribution(low, high, log=self.log, step=step)
            return FloatDistribution(float(self.low), float(self.high), log=self.log, step=self.step)  # type: ignore[arg-type]
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
            return [*{(isinstance(each, bool), each): each for each in map(_encode, self.choices)}.values()]
        assert self.low is not None
        assert self.high is not None
        few = self.whole and not self.log and self.high - self.low < _MOST_WHOLE_NUMBERS
        if self.step is None and not few:
            raise ConfigError(f"a grid needs choices or a step for {self.name!r}: {self.name} = [...] in the space")
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
    """What is searched and what is fixed, in one flat namespace of several configurations.

    Attributes:
        parts: name -> configuration class.
        dimensions: parameter of a trial, which is called as its field or option -> its dimension.
        fixed: field -> its value; all others have their defaults.
        fields: dimension's name -> its field.
    """

    parts: Parts
    dimensions: Mapping[str, Dimension]
    fixed: Mapping[str, Any]
    fields: Fields

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
                A dotted name is an option of a part, and is searched only where it is named.

        Raises:
            ConfigError: an unknown field, a value out of a field's range, nothing to search.
        """
        given = choices_with_none(load_toml(given)) if isinstance(given, str | Path) else dict(given or {})
        rest = given.pop(REST, "searched")
        if rest not in ("fixed", "searched"):
            raise ConfigError(f"space: {REST!r} = {rest!r} must be 'fixed' or 'searched'")
        fields = {name: field for part in parts.values() for name, field in part.model_fields.items()}
        given = _flatten(given, fields)
        own = {name: value for name, value in given.items() if "." not in name}
        distribute({**fixed, **own}, parts)
        if twice := sorted(fixed.keys() & own.keys()):
            raise ConfigError(f"setting {twice[0]!r} is both set and in the space; leave one out")
        settled, dimensions = dict(fixed), {}
        for name, field in [*fields.items()]:
            if name in own:
                found = _dimension(name, field, own[name])
            elif name not in fixed and rest == "searched" and _search(field) is not None:
                found = _dimension(name, field, {})
            else:
                continue
            if found is None:
                settled[name] = own[name]
            else:
                dimensions[name] = found
        for name, value in given.items():
            if "." not in name:
                continue
            fields[name] = _option_field(name, fields, settled)
            found = _dimension(name, fields[name], value)
            if found is None:
                _check(Dimension(name, choices=(value,)), fields[name])
                settled = merge({**settled, name: value})
            else:
                dimensions[name] = found
        for name, dimension in dimensions.items():
            _check(dimension, fields[name])
        if not dimensions:
            raise ConfigError("the space is empty: give ranges in the space (--space FILE)")
        for name, value in settled.items():
            _check_names(name, (value,))
        _check_together(parts, settled, [each for each in dimensions.values() if "." not in each.name])
        return cls(parts, dimensions, settled, fields)

    def settings(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The settings for sampled parameters (``trial.params``)."""
        sampled = {name: dimension.decode(params[name]) for name, dimension in self.dimensions.items()}
        return merge({**self.fixed, **sampled})

    def default(self) -> dict[str, Any] | None:
        """The parameters of the default configuration; None where a default is outside of the space."""
        try:
            return {
                name: each.encode(_default_of(name, self.fields[name], self.fixed))
                for name, each in self.dimensions.items()
            }
        except ValueError:
            return None

    def to_dict(self) -> dict[str, Any]:
        """Plain values that identify the space: the range of each parameter, and under ``fixed`` the settings."""
        searched = {name: dimension.to_dict() for name, dimension in sorted(self.dimensions.items())}
        return {"searched": searched, "fixed": dict(self.fixed)}


def _search(field: FieldInfo) -> Search | None:
    return next((meta for meta in field.metadata if isinstance(meta, Search)), None)


def _dimension(name: str, field: FieldInfo, given: Any) -> Dimension | None:
    """The dimension of a field; None where ``given`` is a value that fixes it."""
    if isinstance(given, list | tuple):
        return Dimension(name, choices=tuple(given))
    if not isinstance(given, Mapping) or (given and not set(given) & set(_RANGE)):
        return None
    if unknown := [key for key in given if key not in _RANGE]:
        raise ConfigError(f"space of {name!r}: {unknown_key(unknown[0], _RANGE)}")
    written = asdict(_search(field) or Search())
    if given:  # a range replaces choices, a log scale replaces steps
        written["choices"] = None
        written["step"] = None if given.get("log") else written["step"]
        written["log"] = written["log"] and "step" not in given
    merged = {**written, **given}
    if (choices := merged.pop("choices")) is not None:
        return Dimension(name, choices=tuple(choices))
    types = {field.annotation, *get_args(field.annotation)}
    return Dimension(name, **merged, whole=int in types and float not in types)


def _check_together(parts: Parts, settled: Mapping[str, Any], searched: list[Dimension]) -> None:
    """Refuse fixed settings that are allowed neither beside the defaults of what is searched nor beside any of the
    combinations of its ends and choices that are tried."""
    for part, values in distribute(settled, parts).items():
        try:
            parts[part].of(values)
        except ConfigError:
            own = [each for each in searched if each.name in parts[part].model_fields]
            points = itertools.product(*(each.choices or (each.low, each.high) for each in own))
            for point in itertools.islice(points, _MOST_POINTS):
                with suppress(ConfigError):
                    parts[part].of({**values, **{each.name: value for each, value in zip(own, point, strict=True)}})
                    break
            else:
                raise


def _check_names(name: str, values: Iterable[Any]) -> None:
    """Names of parts must be known: an unknown one would end the study when it is drawn."""
    if name not in registry.kinds() or name == "metric":  # the setting names a cutoff, too
        return
    for each in values:
        if isinstance(each, str):
            try:
                registry.load(name, each)
            except ValueError as error:
                raise ConfigError(f"space of {name!r}: {error}") from None


def _check(dimension: Dimension, field: FieldInfo) -> None:
    """There must be such a range, and every end or choice must be a value that the field allows."""
    _check_names(dimension.name, dimension.choices or ())
    dimension.distribution  # noqa: B018 (it checks)
    adapter: TypeAdapter[Any] = TypeAdapter(field.rebuild_annotation())
    for value in dimension.choices or (dimension.low, dimension.high):
        try:
            adapter.validate_python(int(value) if dimension.whole else value)
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise ConfigError(f"space of {dimension.name!r}: {value!r} is not allowed: {problem}") from None


# -- options of parts


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings or a space as JSON keeps them: numbers of numpy as numbers, models and parts by their specifications."""
    kept = dict(settings)
    for name, value in settings.items():
        try:
            json.dumps(value)
        except TypeError:
            kept[name] = json.loads(json.dumps(value, default=partial(_plain, name)))
    return kept


def _plain(setting: str, value: Any) -> Any:
    kind = kind_of(setting.partition(".")[0])
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if kind is not None and hasattr(value, "config"):
        return registry.specification(kind, value)
    raise ConfigError(f"setting {setting!r}: a study keeps numbers, texts, lists and dictionaries, not {shown(value)}")


def _flatten(given: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    """Dotted names for the tables that TOML makes of unquoted ones: ``{weight: {a: 1}}`` -> ``{"weight.a": 1}``."""
    flat: dict[str, Any] = {}
    for name, value in given.items():
        setting = name.partition(".")[0]
        n_names = 1 if setting not in fields or kind_of(setting) is None else 3 if is_list(setting) else 2
        is_table = isinstance(value, Mapping) and value and not set(value) & {*_RANGE, "name"}
        if is_table and name.count(".") + 1 < n_names:
            flat |= _flatten({f"{name}.{key}": each for key, each in value.items()}, fields)
        else:
            flat[name] = value
    return flat


def _option_field(name: str, fields: Fields, settings: dict[str, Any]) -> FieldInfo:
    """The field of a dotted name; the value of a setting with several parts is written into ``settings``."""
    setting, *rest = name.split(".")
    if setting not in fields:
        raise ConfigError(f"space of {name!r}: {unknown_key(setting, fields)}")
    kind, several = kind_of(setting), is_list(setting)
    if kind is None or not (several or f"{setting}_options" in fields):
        raise ConfigError(f"space of {name!r}: {setting} chooses no part that has options")
    if len(rest) != (2 if several else 1):
        raise ConfigError(f"space of {name!r}: must be of the form {setting}.{'PART.' if several else ''}OPTION")
    chosen = settings.get(setting, _default(fields[setting]))
    if several:
        settings[setting] = dict(chosen) if isinstance(chosen, Mapping) else list(chosen)
        parts = (
            [*map(registry.key, chosen)] if isinstance(chosen, Mapping) else [registry.key(_name(s)) for s in chosen]
        )
        if parts.count(registry.key(rest[0])) != 1:
            raise ConfigError(
                f"space of {name!r}: {rest[0]!r} is not once among {setting}: {', '.join(parts) or 'none'}"
            )
        chosen = rest[0]
    elif chosen is None:
        raise ConfigError(f"space of {name!r}: {setting} is none; fix it ({setting} = ..., or --set {setting}=...)")
    cls = registry.load(kind, chosen)
    if rest[-1] not in (known := options_of(cls)):
        raise ConfigError(f"space of {name!r}: {kind} {cls.__name__}: {unknown_key(rest[-1], known)}")
    return known[rest[-1]]


def _default_of(name: str, field: FieldInfo, settings: Mapping[str, Any]) -> Any:
    """The value of a field or an option where it is not searched: the one in the settings, else its default."""
    setting, *rest = name.split(".")
    given: Mapping[str, Any] = {}
    if len(rest) == 1:
        given = settings.get(f"{setting}_options", {})
    elif rest:
        given = next(spec for part, spec in _specs(settings[setting]).items() if _is_called(part, rest[0]))
    if rest and rest[-1] in given:
        return given[rest[-1]]
    if field.is_required():
        raise ValueError(f"{name} has no default")
    return _default(field)


def merge(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the values of dotted names in ``SETTING_options`` and in the specifications of parts."""
    merged = {name: value for name, value in settings.items() if "." not in name}
    for name, value in settings.items():
        setting, *rest = name.split(".")
        if len(rest) == 1:
            merged[f"{setting}_options"] = {**merged.get(f"{setting}_options", {}), rest[0]: value}
        elif len(rest) == 2:
            given = merged[setting]
            specs = {part: spec for part, spec in _specs(given).items() if _is_called(part, rest[0])}
            changed = {part: {**spec, rest[1]: value} for part, spec in specs.items()}
            if isinstance(given, Mapping):
                merged[setting] = {**given, **changed}
            else:
                merged[setting] = [changed.get(_name(spec), spec) for spec in given]
    return merged


def _specs(given: Any) -> dict[str, Mapping[str, Any]]:
    """Part -> its specification, of a list of names and specifications, or of a mapping by part: of regularisers,
    whose number is the coefficient."""
    if isinstance(given, Mapping):
        return {part: of if isinstance(of, Mapping) else {"coefficient": of} for part, of in given.items()}
    return {_name(spec): {"name": spec} if isinstance(spec, str) else spec for spec in given}


def _is_called(part: str, name: str) -> bool:
    return registry.key(part) == registry.key(name)


def _name(spec: str | Mapping[str, Any]) -> str:
    return spec if isinstance(spec, str) else str(spec.get("name"))


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True, validated_data={})
