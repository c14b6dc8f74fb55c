"""Search spaces: from the annotations on configuration fields, narrowed, extended and fixed by a space file."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from recgraph import registry
from recgraph.config import Config, ConfigError, Search, distribute, load_toml, unknown_key
from recgraph.setting_texts import choices_with_none
from recgraph.tuning.dimension import Dimension
from recgraph.tuning.options import default_of, flatten, merge, option_field

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["SearchSpace"]

#: combinations of searched values that are tried beside what is fixed
_MOST_POINTS = 256


Parts = Mapping[str, type[Config]]
#: the key that says whether fields that the space does not name are searched
REST = "*"
_RANGE = ("low", "high", "log", "step", "choices")


@dataclass(frozen=True)
class SearchSpace:
    """What is searched and what is fixed, in one flat namespace of several configurations.

    Attributes:
        parts: name -> configuration class.
        dimensions: parameter of a trial -> its dimension. A parameter is called as its field, or as the earlier name of
            a field that was renamed, so that studies from before go on; an option has its dotted name.
        fixed: field -> its value; all others have their defaults.
        fields: dimension's name -> its field.
    """

    parts: Parts
    dimensions: Mapping[str, Dimension]
    fixed: Mapping[str, Any]
    fields: Mapping[str, FieldInfo]

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
                A dotted name is an option of a part, see :mod:`recgraph.tuning.options`, and is searched only where
                it is named.

        Raises:
            ConfigError: an unknown field, a value out of a field's range, nothing to search.
        """
        given = choices_with_none(load_toml(given)) if isinstance(given, str | Path) else dict(given or {})
        rest = given.pop(REST, "searched")
        if rest not in ("fixed", "searched"):
            raise ConfigError(f"space: {REST!r} = {rest!r} must be 'fixed' or 'searched'")
        fields = {name: field for part in parts.values() for name, field in part.model_fields.items()}
        current = {old: new for part in parts.values() for old, new in part.renamed.items()}
        fixed = _current_names(fixed, current)
        given = flatten(_current_names(given, current), fields, _RANGE)
        options = {name: value for name, value in given.items() if "." in name}
        given = {name: value for name, value in given.items() if name not in options}
        distribute({**fixed, **given}, parts)
        twice = sorted(set(fixed) & set(given))
        if twice:
            raise ConfigError(f"setting {twice[0]!r} is both set and in the space; leave one out")
        settled, dimensions = dict(fixed), {}
        for name, field in fields.items():
            found = _dimension(name, field, given.get(name)) if name in given else None
            if name in given and found is None:
                settled[name] = given[name]
            elif name not in {*given, *fixed} and rest == "searched" and _search(field) is not None:
                found = _dimension(name, field, {})
            if found is not None:
                _check(found, field)
                dimensions[name] = found
        for name, value in options.items():
            setting = name.partition(".")[0]
            for whole in (setting, f"{setting}_options"):
                if whole in dimensions:
                    raise ConfigError(f"space of {name!r}: {whole} is searched, too; fix it or leave this option out")
            fields[name] = option_field(name, fields, settled)
            found = _dimension(name, fields[name], value)
            if found is None:
                _check(Dimension(name, choices=(value,)), fields[name])
                settled = merge({**settled, name: value})
            else:
                _check(found, fields[name])
                dimensions[name] = found
        # those that the space names come last: the product changes them first
        searched = sorted((each for each in dimensions.values() if "." not in each.name), key=lambda d: d.name in given)
        if not dimensions:
            raise ConfigError(
                "the space is empty: every field is fixed, or none has a range; give ranges in the space (--space FILE)"
            )
        searched = [each for each in searched if each.name in dimensions]
        for name, value in settled.items():
            _check_names(name, (value,))
        for part, values in distribute(settled, parts).items():
            try:
                _check_together(parts[part], values, searched)
            except ConfigError as error:
                raise ConfigError(f"{error}{_searched(fixed, str(error))}") from None
        earlier = _earlier_names(parts, dimensions)
        return cls(parts, {earlier.get(name, name): each for name, each in dimensions.items()}, settled, fields)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """What Optuna samples, by parameter."""
        return {name: dimension.distribution for name, dimension in self.dimensions.items()}

    def settings(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The settings for sampled parameters (``trial.params``)."""
        sampled = {each.name: each.decode(params[parameter]) for parameter, each in self.dimensions.items()}
        return merge({**self.fixed, **sampled})

    def shared(self, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Settings shared out among the parts."""
        return distribute(settings, self.parts)

    def default(self) -> dict[str, Any] | None:
        """The parameters of the default configuration; None where a default is outside of the space."""
        try:
            return {
                parameter: each.encode(default_of(each.name, self.fields[each.name], self.fixed))
                for parameter, each in self.dimensions.items()
            }
        except ValueError:
            return None

    def to_dict(self) -> dict[str, Any]:
        """Plain values that identify the space: the range of each parameter, and under ``fixed`` the settings."""
        earlier = _earlier_names(self.parts, [each.name for each in self.dimensions.values()])
        return {
            "searched": {name: dimension.to_dict() for name, dimension in sorted(self.dimensions.items())},
            "fixed": {earlier.get(name, name): value for name, value in self.fixed.items()},
        }


def _searched(fixed: Mapping[str, Any], error: str) -> str:
    """What to do where a list of values, which is refused, was meant to be searched."""
    lists = (name for name, value in fixed.items() if isinstance(value, list))
    name = next((name for name in lists if error.startswith(f"{name} = [")), None)
    return "" if name is None else f"; values to search are given in the space (--space FILE): {name} = {fixed[name]}"


def _current_names(values: Mapping[str, Any], current: Mapping[str, str]) -> dict[str, Any]:
    """The same with the names that fields have now."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        setting, dot, rest = name.partition(".")
        new = current.get(setting, setting) + dot + rest
        if new in found:
            raise ConfigError(f"settings {name!r} and {new!r} are one setting; give the latter")
        found[new] = value
    return found


def _earlier_names(parts: Parts, names: Iterable[str]) -> dict[str, str]:
    """Field -> its earlier name, which studies have; a study that searches a field's options is from after it."""
    later = {name.partition(".")[0] for name in names if "." in name}
    return {new: old for part in parts.values() for old, new in part.renamed.items() if new not in later}


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
        if not isinstance(given["choices"], list | tuple):
            raise ConfigError(f"space of {name!r}: choices = {given['choices']!r} must be a list")
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


def _points(dimensions: Sequence[Dimension]) -> Iterator[dict[str, Any]]:
    """The combinations of ends and choices, as many as are tried."""
    for point in itertools.islice(itertools.product(*(d.choices or (d.low, d.high) for d in dimensions)), _MOST_POINTS):
        yield {each.name: value for each, value in zip(dimensions, point, strict=True)}


def _check_together(config: type[Config], settled: Mapping[str, Any], searched: Iterable[Dimension]) -> None:
    """Refuse fixed settings that are allowed neither beside the defaults of what is searched nor beside any of the
    combinations of its ends and choices that are tried."""
    try:
        config.of(settled)
    except ConfigError:
        for point in _points([each for each in searched if each.name in config.model_fields]):
            with suppress(ConfigError):
                config.of({**settled, **point})
                return
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
    """Every end or choice must be a value that the field allows."""
    _check_names(dimension.name, dimension.choices or ())
    adapter: TypeAdapter[Any] = TypeAdapter(field.rebuild_annotation())
    for value in dimension.choices or (dimension.low, dimension.high):
        try:
            adapter.validate_python(int(value) if dimension.whole else value)
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise ConfigError(f"space of {dimension.name!r}: {value!r} is not allowed: {problem}") from None
