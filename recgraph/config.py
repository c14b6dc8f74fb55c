"""Settings are a tree: frozen values, checked by type and range, with the search range written on the field.

A field holds a plain value, another :class:`Config`, or a :class:`PartConfig`: the settings of a member of the
registry. A part is given as a value, as its name, or as a table of its name and settings; a table without a name
changes the part that is the default. A field with ``exclude=True`` is not a setting: the caller of a part decides it.
"""

from __future__ import annotations

import difflib
import inspect
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, InstanceOf, TypeAdapter, ValidationError, model_serializer, model_validator
from pydantic.fields import FieldInfo

from recgraph.files import CorruptFileError, read_toml

#: what other libraries call a setting -> its name here
_ELSEWHERE = {
    "lr": "learning_rate",
    "wd": "weight_decay",
    "embedding_size": "hidden_dim",
    "hidden_size": "hidden_dim",
    "factors": "hidden_dim",
    "reg_weight": "l2",
    "stopping_step": "patience",
}


class ConfigError(ValueError):
    """A setting that does not exist or whose value is not allowed."""


@dataclass(frozen=True)
class Search:
    """The range that a tuner explores for a field; put it on the field with ``Annotated``."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] | None = None

    def __str__(self) -> str:
        if self.choices is not None:
            return ", ".join("none" if choice is None else str(choice) for choice in self.choices)
        return f"{self.low} to {self.high}" + (" (log)" if self.log else "")


@dataclass(frozen=True)
class Setting:
    """One field as it is shown to people and to tuners; the name is dotted within a part."""

    name: str
    type: str
    default: Any
    allowed: str
    description: str
    search: Search | None


class Config(BaseModel):
    """Base of every configuration. Unknown keys and values out of range raise :class:`ConfigError`; so do infinities
    and NaN, but for a field with ``allow_inf_nan=True``."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_explain(type(self), error)) from None

    # as pydantic marks its own, so that parts of a configuration are validated with it and errors name their place
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="before")
    @classmethod
    def _change_defaults(cls, values: Any) -> Any:
        """A table for a field whose default is a configuration changes that."""
        if not isinstance(values, Mapping):
            return values
        read = dict(values)
        for name in values.keys() & cls.model_fields.keys():
            default, value = _default(cls.model_fields[name]), values[name]
            is_another = isinstance(default, PartConfig) and isinstance(value, Mapping) and "name" in value
            if isinstance(default, Config) and isinstance(value, Mapping) and not is_another:
                read[name] = merged(default.model_dump(exclude_unset=True), value)
        return read

    @classmethod
    def of(cls, values: Mapping[str, Any] | None = None, /, **settings: Any) -> Self:
        """Build from a mapping and keyword settings, with errors that name the field and what it allows."""
        try:
            return cls(**{**(values or {}), **settings})
        except TypeError as error:
            raise ConfigError(f"{cls.__name__}: settings are a table of names and values: {error}") from None

    @classmethod
    def describe(cls, whole: bool = False) -> list[Setting]:
        """Every field with its type, default, allowed range, description and search range.

        Args:
            whole: with the fields of the default parts, under dotted names.
        """
        found = []
        for name, field, value in walk(cls):
            if whole or "." not in name:
                is_part = isinstance(value, PartConfig)
                kind = next(
                    (each.kind for each in field.metadata if hasattr(each, "kind")), _type_name(field.annotation)
                )
                default = "required" if field.is_required() else value.part_name if is_part else value
                found.append(Setting(name, kind, default, _allowed(field), field.description or "", search_of(field)))
        return found


class PartConfig(Config):
    """The settings of a member of the registry, ``rg.encoders.BSA(alpha=0.7)``; see :func:`recgraph.registry.part`."""

    # a constructor may take a tensor
    model_config = ConfigDict(arbitrary_types_allowed=True)
    part_kind: ClassVar[str]
    part_name: ClassVar[str]
    member: ClassVar[type[Any]]
    #: the names of what a constructor takes beside its settings
    arguments: ClassVar[frozenset[str] | None] = None

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    @model_serializer(mode="wrap")
    def _with_name(self, inner: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        return {"name": self.part_name, **inner(self)}

    def build(self, **given: Any) -> Any:
        """The member with these settings.

        Args:
            given: what the caller decides; the member gets what it has an argument or a field for.
        """
        fields = type(self).model_fields
        own = {name: value for name, value in given.items() if name in fields or name in (self.arguments or ())}
        if self.arguments is None:
            return self.member(self.model_copy(update=own))
        return self.member(**{**{name: getattr(self, name) for name in fields}, **own})


# -- trees of settings


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True, validated_data={})


def walk(config: Config | type[Config], within: str = "") -> Iterator[tuple[str, FieldInfo, Any]]:
    """Dotted name, field and value of all settings of a tree, or of the defaults of a class; of several parts in one
    field by their names, as ``augmentations.crop.ratio``."""
    cls = config if isinstance(config, type) else type(config)
    for name, field in cls.model_fields.items():
        if field.exclude:
            continue
        value, place = _default(field) if config is cls else getattr(config, name), f"{within}{name}"
        yield place, field, value
        if isinstance(value, Config):
            yield from walk(value, f"{place}.")
        elif isinstance(value, tuple):
            for part in value:
                if isinstance(part, PartConfig):
                    yield from walk(part, f"{place}.{part.part_name}.")


def put(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set one setting of a tree of tables; on its way, a name becomes a table with it, and a table is copied. A name
    for a table without one is put into it.

    Raises:
        ValueError: on the way is neither a table nor a name.
    """
    name, *rest = path
    held = tree.get(name)
    if not rest:
        joins = isinstance(value, str) and isinstance(held, Mapping) and "name" not in held
        tree[name] = {"name": value, **held} if joins else value  # type: ignore[dict-item]
        return
    if isinstance(held, list | tuple):
        tree[name] = several = [_as_table(each) for each in held]
        inner = next((each for each in several if each.get("name") == rest[0]), None)
        if inner is None or len(rest) == 1:
            raise ValueError(f"{'.'.join(path)}: {rest[0]!r} is not among {name}")
        rest = rest[1:]
    else:
        tree[name] = inner = _as_table(held)
    put(inner, rest, value)


def _as_table(value: Any) -> dict[str, Any]:
    if isinstance(value, Config):
        return value.model_dump(mode="json")
    if not isinstance(value, Mapping | str | None):
        raise ValueError(f"{shown(value)} has no settings")
    return {"name": value} if isinstance(value, str) else dict(value or {})


def assignments(settings: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of all settings of a tree of tables, as :func:`put` sets them one after another."""
    for name, value in settings.items():
        if not isinstance(value, Mapping) or not value:
            yield f"{within}{name}", value
            continue
        if "name" in value:
            yield f"{within}{name}", value["name"]
        yield from assignments({key: each for key, each in value.items() if key != "name"}, f"{within}{name}.")


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of settings with changes; a table with a name takes the place of what there is."""
    found = dict(settings)
    for name, value in changes.items():
        held = found.get(name)
        both = isinstance(held, Mapping) and isinstance(value, Mapping) and "name" not in value
        found[name] = merged(held, value) if both else value  # type: ignore[arg-type]
    return found


C = TypeVar("C", bound=Config)


def configure(owner: object, cls: type[C], config: C | None, settings: Mapping[str, Any]) -> C:
    """The configuration of something that is made by ``Owner(config)`` or by ``Owner(key=value, ...)``."""
    if config is None:
        return cls.of(settings)
    if settings or not isinstance(config, cls):
        raise ConfigError(f"{type(owner).__name__}: give a {cls.__name__} or settings by name, not {shown(config)}")
    return config


def distribute(values: Mapping[str, Any], parts: Mapping[str, type[Config]]) -> dict[str, dict[str, Any]]:
    """Divide one mapping of settings among several configurations, by the names of their fields.

    Raises:
        ConfigError: no configuration has the field, or several have it.
    """
    shared: dict[str, dict[str, Any]] = {part: {} for part in parts}
    for key, value in values.items():
        owners = [part for part, cls in parts.items() if key in cls.model_fields]
        if len(owners) != 1:
            several = f"setting {key!r} is of several of {', '.join(owners)}; rename one"
            known = (name for cls in parts.values() for name in known_settings(cls))
            raise ConfigError(several if owners else unknown_key(key, known))
        shared[owners[0]][key] = value
    return shared


# -- what is shown, and messages


def known_settings(cls: type[Config]) -> list[str]:
    """The names of all settings of a configuration, and those of its default parts, dotted."""
    return [name for name, _, _ in walk(cls)]


def search_of(field: FieldInfo) -> Search | None:
    """The search range of a field."""
    return next((meta for meta in field.metadata if isinstance(meta, Search)), None)


def _allowed(field: FieldInfo) -> str:
    """The range of a field in words."""
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "a multiple of"}
    bounds = ((sign, getattr(meta, key, None)) for meta in field.metadata for key, sign in signs.items())
    return " and ".join(f"{sign} {bound}" for sign, bound in bounds if bound is not None)


def _type_name(annotation: Any) -> str:
    if isinstance(annotation, type) and not getattr(annotation, "__args__", None):
        return annotation.__name__
    text = re.sub(r"Annotated\[[\w.]+PartConfig, part\(kind='(\w+)'\)\]", r"\1", str(annotation))
    return text.replace("typing.", "").replace("NoneType", "None")


def nearest_names(name: str, among: Iterable[str], key: Callable[[str], str] = str) -> list[str]:
    """The three names that are most nearly ``name``, the nearest first, compared by their ``key``."""
    by_key = {key(each): each for each in among}
    return [by_key[each] for each in difflib.get_close_matches(key(name), by_key)]


def did_you_mean(close: Sequence[str]) -> str:
    """The question of an error about a name that does not exist; nothing where no name is near."""
    return f"did you mean {' or '.join(close)}?" if close else ""


def unknown_key(key: str, known: Iterable[str], within: str = "") -> str:
    """The message for a key that no field has, with the nearest names; ``within`` leads to it, as ``boost.0.``."""
    names = sorted(known)
    inner = [name for name in names if name.rpartition(".")[2] == key]
    close = inner or ([_ELSEWHERE[key]] if _ELSEWHERE.get(key) in names else nearest_names(key, names))
    meant = did_you_mean(close) or f"known settings: {', '.join(name for name in names if '.' not in name) or 'none'}"
    return f"unknown setting {within + key!r}; {meant}"


def _explain(cls: type[Config], error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        *outer, name = item["loc"] or (cls.__name__,)
        within, inner = "".join(f"{part}." for part in outer), _class_at(cls, outer)
        if item["type"] == "extra_forbidden":
            lines.append(unknown_key(str(name), known_settings(inner), within))
            continue
        value = "" if item["type"] == "missing" else f" = {shown(item['input'])}"
        allowed = _allowed(inner.model_fields[name]) if name in inner.model_fields else ""
        message = item["msg"].removeprefix("Value error, ") + (f" (allowed: {allowed})" if allowed else "")
        lines.append(f"{within}{name}{value}: {message}")
    return "\n".join(lines)


def _class_at(cls: type[Config], place: Sequence[int | str]) -> type[Config]:
    """The configuration, within another, that the location of an error is in; the outer one where that is not clear."""
    for name in place:
        if name in cls.model_fields:
            field = cls.model_fields[str(name)]
            cls = next(_classes_in((type(_default(field)), field.annotation)), cls)
    return cls


def _classes_in(annotations: Iterable[Any]) -> Iterator[type[Config]]:
    for each in annotations:
        if isinstance(each, type) and issubclass(each, Config):
            yield each
        yield from _classes_in(get_args(each))


def shown(value: object) -> str:
    """A value in a message, cut where it is long, so that what is wrong with it is not lost behind it."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


# -- settings as texts


def load_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file of settings.

    Raises:
        ConfigError: the file is missing or is not TOML; names the file and, where known, the line.
    """
    try:
        return read_toml(Path(path))
    except (FileNotFoundError, CorruptFileError) as error:
        raise ConfigError(f"configuration file {error}") from None


def parse_settings(
    pairs: Iterable[str], base: Mapping[str, Any] | None = None, option: str = "--set"
) -> dict[str, Any]:
    """Read ``key=value`` texts as a command line gives them; a value is JSON, TOML, or else a plain string.

    ``encoder.alpha=0.7`` sets one setting of a part, and keeps the others that ``base`` or a text before has.

    Args:
        base: settings that these add to or replace, as those of a file.
        option: what gives the texts, for messages.
    """
    values = dict(base or {})
    for pair in pairs:
        key, sign, text = pair.partition("=")
        path = key.strip().split(".")
        try:
            if not sign or not all(path):
                raise ValueError("it is not of the form key=value")
            put(values, path, _read(text.strip()))
        except ValueError as error:
            raise ConfigError(f"{option} {shown(pair)}: {error}") from None
    return values


def with_none(value: Any) -> Any:
    """What a TOML file holds, which has no word for it, with None where the text none stands, as in ``--set``."""
    if isinstance(value, Mapping):
        return {name: with_none(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [with_none(each) for each in value]
    return None if _is_none(value) else value


def _is_none(value: Any) -> bool:
    return isinstance(value, str) and value.lower() in ("none", "null")


def _read(text: str) -> Any:
    if _is_none(text):
        return None
    with suppress(ValueError, RecursionError):
        return json.loads(text, parse_constant=int)  # which refuses NaN and Infinity: they are no JSON
    with suppress(ValueError, RecursionError):
        return tomllib.loads(f"x = {text}")["x"]
    if text.startswith(("{", "[")):
        raise ValueError("the value is neither JSON nor TOML, as {name = 1} or [1, 2]")
    return text


def setting_text(name: str, value: Any) -> str:
    """``key=value`` as :func:`parse_settings` reads it; a plain text is not quoted."""
    text = value if isinstance(value, str) else toml_text(value)
    try:
        is_read = _read(text) == value
    except ValueError:  # a text that begins like a list or dictionary, or one of these with a None in it
        is_read = False
    return f"{name}={text if is_read else json.dumps(value, ensure_ascii=False)}"


def toml_text(value: Any) -> str:
    """A value as TOML; None, which TOML has not, as ``none``."""
    if value is None or isinstance(value, bool):
        return f"{value}".lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(name)} = {toml_text(held)}" for name, held in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_text, value)) + "]"
    return f"{value}"


# -- arguments of the public functions

F = TypeVar("F", bound=Callable[..., Any])


def checked(function: F) -> F:
    """A function that refuses arguments of another type than their annotations say.

    Numbers of NumPy become Python's, and arrays and series where a sequence is asked for become lists. An annotation
    that type checkers alone know is not checked.

    Raises:
        ValueError: names the argument, its value and what may be given.
    """
    signature = inspect.signature(function)

    @cache
    def adapter(name: str) -> TypeAdapter[Any]:
        annotation = signature.parameters[name].annotation
        try:
            read = eval(annotation, dict(function.__globals__)) if isinstance(annotation, str) else annotation
        except NameError:
            read = Any
        return TypeAdapter(_by_instance(read))

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:  # it does not say of which function
            raise TypeError(f"{function.__qualname__}(): {error}") from None
        for name, value in bound.arguments.items():
            try:
                bound.arguments[name] = adapter(name).validate_python(value)
            except ValidationError as error:
                listed = getattr(value, "tolist", getattr(value, "to_list", None)) if is_list(value) else None
                try:
                    bound.arguments[name] = adapter(name).validate_python(listed() if listed else value)
                except ValidationError:
                    messages = "; ".join(dict.fromkeys(each["msg"] for each in error.errors()))
                    raise ValueError(f"{name} = {shown(value)}: {messages}") from None
        return function(*bound.args, **bound.kwargs)

    return cast(F, call)


def is_list(value: object) -> bool:
    """Whether values come one after another, as in a list, an array or a series: no text, mapping, frame or scalar."""
    one_dimension = len(getattr(value, "shape", (1,))) == 1 and not hasattr(value, "collect_schema")
    return hasattr(value, "__iter__") and one_dimension and not isinstance(value, str | bytes | Mapping)


def _by_instance(annotation: Any) -> Any:
    """An annotation in which every class but plain values and lists of them is checked by ``isinstance`` alone."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return Union[tuple(map(_by_instance, parts))]  # noqa: UP007 (made at run time)
    if origin in (Sequence, list, tuple):
        return origin[tuple(part if part is Ellipsis else _by_instance(part) for part in parts)]
    if origin in (Literal, Annotated) or annotation in (bool, int, float, str, Path, NoneType, None, Any):
        return annotation
    kind = origin or annotation
    is_class = isinstance(kind, type) and kind not in (type, inspect.Parameter.empty)
    return InstanceOf[kind] if is_class and not getattr(kind, "_is_protocol", False) else Any  # type: ignore[valid-type,misc]
