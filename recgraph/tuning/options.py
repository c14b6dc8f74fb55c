"""Options of parts that a setting chooses by name, as dimensions of a search space: ``weight.n_clusters``.

``SETTING.OPTION`` is an option of the one part that a setting chooses (``loss.popularity_power``); it goes into
``SETTING_options``. ``SETTING.PART.OPTION`` is an option of one of several parts; it goes into the part's
specification, ``{name = "crop", ratio = ...}`` of ``augmentations.crop.ratio``, or ``alignment = {coefficient = ...}``
of ``regularisers.alignment.coefficient``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from pydantic.fields import FieldInfo

from recgraph import registry
from recgraph.config import ConfigError, nearest_names, shown, unknown_key
from recgraph.parts import is_list, kind_of, options_of

__all__ = ["default_of", "flatten", "merge", "option_field", "plain"]

Fields = Mapping[str, FieldInfo]


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings or a space as JSON keeps them: numbers of numpy as numbers, models and parts by their specifications.

    Raises:
        ConfigError: an object that is neither.
        ValueError: a model or a part whose class is not registered.
    """
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


def flatten(given: Mapping[str, Any], fields: Fields, ranges: tuple[str, ...]) -> dict[str, Any]:
    """Dotted names for the tables that TOML makes of unquoted ones: ``{weight: {a: 1}}`` -> ``{"weight.a": 1}``.

    Args:
        given: a space.
        fields: of the configurations.
        ranges: the keys of a range, which is no table of options.
    """
    flat: dict[str, Any] = {}
    for name, value in given.items():
        setting = name.partition(".")[0]
        n_names = 1 if setting not in fields or kind_of(setting) is None else 3 if is_list(setting) else 2
        is_table = isinstance(value, Mapping) and value and not set(value) & {*ranges, "name"}
        if is_table and name.count(".") + 1 < n_names:
            flat |= flatten({f"{name}.{key}": each for key, each in value.items()}, fields, ranges)
        else:
            flat[name] = value
    return flat


def option_field(name: str, fields: Fields, settings: dict[str, Any]) -> FieldInfo:
    """The field of a dotted name; the value of a setting with several parts is written into ``settings``.

    Args:
        name: ``SETTING.OPTION`` or ``SETTING.PART.OPTION``.
        fields: of the configurations.
        settings: that are not searched.

    Raises:
        ConfigError: no such setting, part or option; names the nearest ones.
    """
    setting, *rest = name.split(".")
    if setting not in fields:
        raise ConfigError(f"space of {name!r}: {unknown_key(setting, fields)}")
    kind = kind_of(setting)
    if kind is None or (not is_list(setting) and f"{setting}_options" not in fields):
        raise ConfigError(f"space of {name!r}: {setting} chooses no part that has options")
    chosen = settings.get(setting, _default(fields[setting]))
    if not is_list(setting):
        if len(rest) != 1:
            raise ConfigError(f"space of {name!r}: must be of the form {setting}.OPTION")
        if chosen is None:
            raise ConfigError(f"space of {name!r}: {setting} is none; fix it ({setting} = ..., or --set {setting}=...)")
        return _option(name, kind, chosen, rest[0])
    if len(rest) != 2:
        raise ConfigError(f"space of {name!r}: must be of the form {setting}.PART.OPTION")
    settings[setting] = dict(chosen) if isinstance(chosen, Mapping) else list(chosen)
    parts = list(chosen) if isinstance(chosen, Mapping) else [_name(spec) for spec in chosen]
    if sum(registry.key(part) == registry.key(rest[0]) for part in parts) > 1:
        raise ConfigError(
            f"space of {name!r}: {rest[0]!r} is among {setting} more than once; search whole lists: {setting} = "
            "[[...], [...]]"
        )
    if registry.key(rest[0]) not in map(registry.key, parts):
        close = nearest_names(rest[0], parts) or parts
        raise ConfigError(
            f"space of {name!r}: {rest[0]!r} is not among {setting}; there is {', '.join(close) or 'none'}"
        )
    return _option(name, kind, rest[0], rest[1])


def _option(name: str, kind: str, part: str, option: str) -> FieldInfo:
    cls = registry.load(kind, part)
    known = options_of(cls)
    if option not in known:
        raise ConfigError(f"space of {name!r}: {kind} {cls.__name__}: {unknown_key(option, known)}")
    return known[option]


def default_of(name: str, field: FieldInfo, settings: Mapping[str, Any]) -> Any:
    """The value of a field or an option where it is not searched: the one in the settings, else its default.

    Raises:
        ValueError: it has none.
    """
    setting, *rest = name.split(".")
    given: Any = {}
    if len(rest) == 1:
        given = settings.get(f"{setting}_options", {})
    elif rest:
        specs = _specs(settings[setting])
        given = next(spec for part, spec in specs.items() if registry.key(part) == registry.key(rest[0]))
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
            changed = {
                part: {**spec, rest[1]: value}
                for part, spec in _specs(given).items()
                if registry.key(part) == registry.key(rest[0])
            }
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


def _name(spec: str | Mapping[str, Any]) -> str:
    return spec if isinstance(spec, str) else str(spec.get("name"))


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True, validated_data={})
