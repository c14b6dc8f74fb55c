"""Configuration: frozen values, checked by type and range, with the search range written on the field."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    Self,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import BaseModel, ConfigDict, InstanceOf, TypeAdapter, ValidationError, create_model, model_validator
from pydantic.errors import PydanticUserError
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
#: characters of a value that a message repeats, at most
_LONGEST = 200


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
class Added:
    """Marks a field that came after the first records were made; put it on the field with ``Annotated``.

    At its default such a field is no part of :meth:`Config.identity`, so that records, bundles and studies from before
    it keep their addresses.
    """


@dataclass(frozen=True)
class Setting:
    """One configuration field as it is shown to people and to tuners."""

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
    #: earlier name of a field -> its name; both are read, and :meth:`identity` writes the earlier one
    renamed: ClassVar[dict[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_names(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not set(values) & set(cls.renamed):
            return values
        read = {cls.renamed.get(name, name): value for name, value in values.items()}
        if len(read) < len(values):
            twice = [f"{old} and {new}" for old, new in cls.renamed.items() if old in values and new in values]
            raise ValueError(f"{', '.join(twice)} are one setting; give the latter")
        return read

    def identity(self) -> dict[str, Any]:
        """The values that identify a configuration, as plain JSON values: what addresses and checks are made from."""
        earlier = {new: old for old, new in self.renamed.items()}
        fields = type(self).model_fields
        return {
            earlier.get(name, name): value
            for name, value in self.model_dump(mode="json").items()
            if not (Added() in fields[name].metadata and getattr(self, name) == _default(fields[name]))
        }

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_explain(type(self), error)) from None

    # as pydantic marks its own, so that parts of a configuration are validated with it and errors name their place
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def of(cls, values: Mapping[str, Any] | None = None, /, **settings: Any) -> Self:
        """Build from a mapping and keyword settings, with errors that name the field and what it allows."""
        if not isinstance(values, Mapping | None):
            raise ConfigError(f"{cls.__name__}: settings are a mapping of names and values, not {values!r}")
        merged = {**(values or {}), **settings}
        if odd := [key for key in merged if not isinstance(key, str)]:
            raise ConfigError(unknown_key(f"{odd[0]}", cls.model_fields))
        return cls(**merged)

    @classmethod
    def describe(cls) -> list[Setting]:
        """Every field with its type, default, allowed range, description and search range."""
        return [_setting(name, field) for name, field in cls.model_fields.items()]


def _allowed(field: FieldInfo) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "a multiple of"}
    parts = [
        f"{sign} {getattr(meta, key)}"
        for meta in field.metadata
        for key, sign in signs.items()
        if getattr(meta, key, None) is not None
    ]
    return " and ".join(parts)


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True, validated_data={})


def _type_name(annotation: Any) -> str:
    if isinstance(annotation, type) and not getattr(annotation, "__args__", None):
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("NoneType", "None")


def _setting(name: str, field: FieldInfo) -> Setting:
    search = next((meta for meta in field.metadata if isinstance(meta, Search)), None)
    default = "required" if field.is_required() else _default(field)
    return Setting(name, _type_name(field.annotation), default, _allowed(field), field.description or "", search)


def nearest_names(
    name: str, among: Iterable[str], n: int = 3, key: Callable[[str], str] = str, cutoff: float = 0.6
) -> list[str]:
    """The names that are nearly ``name``, the nearest first.

    Args:
        among: the names that there are.
        n: how many at most.
        key: the form in which names are compared.
        cutoff: the least likeness, between 0 and 1, as :func:`difflib.get_close_matches` has it.
    """
    by_key = {key(each): each for each in among}
    return [by_key[each] for each in difflib.get_close_matches(key(name), by_key, n=n, cutoff=cutoff)]


def did_you_mean(close: Sequence[str]) -> str:
    """The question of an error about a name that does not exist; nothing where no name is near."""
    return f"did you mean {' or '.join(close)}?" if close else ""


def unknown_key(key: str, known: Iterable[str], within: str = "") -> str:
    """The message for a key that no field has, with the nearest names; ``within`` leads to it, as ``boost.0.``."""
    names = sorted(known)
    if (options := f"{key.partition('.')[0]}_options") in names:
        close = [options]  # a dotted name, or that of the options without a setting that chooses what they are of
    else:
        close = [_ELSEWHERE[key]] if _ELSEWHERE.get(key) in names else nearest_names(key, names)
    meant = did_you_mean(close) or f"known settings: {', '.join(names) or 'none'}"
    return f"unknown setting {within + key!r}; {meant}"


def _explain(cls: type[Config], error: ValidationError) -> str:
    lines = []
    found = error.errors()
    for item in found:
        inside = (other["loc"] for other in found if len(other["loc"]) > len(item["loc"]))
        if item["type"] == "too_short" and any(loc[: len(item["loc"])] == item["loc"] for loc in inside):
            continue  # pydantic does not count entries that are wrong
        where = ".".join(str(part) for part in item["loc"])
        head = str(item["loc"][0]) if item["loc"] else ""
        if item["type"] == "extra_forbidden":
            *outer, name = item["loc"]
            within = "".join(f"{part}." for part in outer)
            lines.append(unknown_key(str(name), _class_at(cls, outer).model_fields, within))
            continue
        field = cls.model_fields.get(head)
        allowed = _allowed(field) if field else ""
        message = item["msg"].removeprefix("Value error, ")
        message += _hint(cls, where, item["type"], item["input"])
        value = "" if item["type"] == "missing" else f" = {shown(item['input'])}"
        lines.append(f"{where or cls.__name__}{value}: {message}" + (f" (allowed: {allowed})" if allowed else ""))
    return "\n".join(lines)


def _hint(cls: type[Config], where: str, kind: str, value: object) -> str:
    """How a value of another type is written; ``kind`` is that of pydantic's error."""
    if kind == "dict_type":
        return ', as {"name": value}'
    if kind == "tuple_type" and isinstance(value, str | int | float):
        parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else [value]
        return f", as {json.dumps(parts)}"
    if kind == "tuple_type" and isinstance(value, Mapping):
        return ', as [{"name": value}]'
    options = f"{where.partition('.')[0]}_options"
    if isinstance(value, Mapping) and options in cls.model_fields:
        given = [f"{options}.{name}={json.dumps(each, default=str)}" for name, each in value.items() if name != "name"]
        return f"; its options are in {options}" + (f": {cut(' '.join(given))}" if given else "")
    return ""


def _class_at(cls: type[Config], place: Sequence[int | str]) -> type[Config]:
    """The configuration, within another, that the location of an error is in; the outer one where that is not clear."""
    for part in place:
        field = cls.model_fields.get(part) if isinstance(part, str) else None
        if field is not None:
            cls = next(_classes_in(field.annotation), cls)
    return cls


def _classes_in(annotation: Any) -> Iterator[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
    for each in get_args(annotation):
        yield from _classes_in(each)


def shown(value: object) -> str:
    """A value in a message, cut where it is long, so that what is wrong with it is not lost behind it."""
    return cut(repr(value))


def cut(text: str) -> str:
    """A text in a message, without its end where it is long."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def load_toml(path: str | Path) -> dict[str, Any]:
    """Read a flat TOML file of settings.

    Raises:
        ConfigError: the file is missing or is not TOML; names the file and, where known, the line.
    """
    try:
        return read_toml(Path(path))
    except FileNotFoundError:
        raise ConfigError(f"configuration file {str(path)!r} does not exist") from None
    except CorruptFileError as error:
        raise ConfigError(f"configuration file {error}") from None


def distribute(values: Mapping[str, Any], parts: Mapping[str, type[Config]]) -> dict[str, dict[str, Any]]:
    """Share one flat namespace of settings out among several configurations.

    Args:
        values: the flat settings.
        parts: name -> configuration class; no two may have a field of the same name.

    Returns:
        name -> the settings that belong to it.

    Raises:
        ConfigError: two parts have a field of the same name, or no part has the key.
    """
    owner: dict[str, str] = {}
    for part, cls in parts.items():
        for field in cls.model_fields:
            if field in owner:
                raise ConfigError(f"setting {field!r} belongs to both {owner[field]} and {part}; rename one")
            owner[field] = part
    for part, cls in parts.items():
        owner |= {old: part for old in cls.renamed if old not in owner}
    shared: dict[str, dict[str, Any]] = {part: {} for part in parts}
    for key, value in values.items():
        if key not in owner:
            raise ConfigError(unknown_key(key, owner))
        shared[owner[key]][key] = value
    return shared


C = TypeVar("C", bound=Config)


def prefixed(cls: type[Config], prefix: str) -> type[Config]:
    """A configuration with the same fields under longer names, for a flat namespace where the short ones are taken."""
    fields: dict[str, Any] = {f"{prefix}{name}": (field.annotation, field) for name, field in cls.model_fields.items()}
    made: type[Config] = create_model(f"Prefixed{cls.__name__}", __base__=Config, **fields)
    return made


def unprefixed(cls: type[C], config: Config, prefix: str) -> C:
    """The configuration that one of :func:`prefixed` stands for."""
    return cls.of({name.removeprefix(prefix): value for name, value in config.model_dump().items()})


def configure(owner: object, cls: type[C], config: C | None, settings: Mapping[str, Any]) -> C:
    """The configuration of something that is made by ``Owner(config)`` or by ``Owner(key=value, ...)``.

    Raises:
        ValueError: both are given.
        ConfigError: a setting that does not exist, or its value is not allowed; or ``config`` is something else.
    """
    if config is None:
        return cls.of(settings)
    name = type(owner).__name__
    if not isinstance(config, cls):
        first = next(iter(cls.model_fields), None)
        example = f"give settings by name, as {name}({first}=...)" if first else "it has no settings"
        raise ConfigError(f"{name}({config!r}): not a {cls.__name__}; {example}")
    if settings:
        raise ValueError(f"give {name} a config or settings, not both (got {sorted(settings)})")
    return config


def arguments_of(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that are arguments of a constructor, converted by their annotations like fields of a :class:`Config`.

    A class with a ``Config`` converts its own. A value stays as it is where its annotation is known to type checkers
    alone, or is of a type that pydantic does not know.

    Raises:
        ConfigError: a value is of another type.
    """
    read = dict(values)
    if getattr(cls, "Config", None) is not None:
        return read
    try:
        annotations = get_type_hints(cls.__init__)
    except Exception:  # of a stranger's class
        return read
    for name in values.keys() & annotations.keys():
        try:
            read[name] = TypeAdapter(annotations[name]).validate_python(values[name])
        except PydanticUserError:
            continue
        except ValidationError as error:
            raise ConfigError(f"{name} = {values[name]!r}: {error.errors()[0]['msg']}") from None
    return read


def to_json(config: Config) -> str:
    """A configuration as stable JSON text (sorted keys)."""
    return json.dumps(config.model_dump(mode="json"), sort_keys=True, indent=2)


# -- arguments of the public functions

F = TypeVar("F", bound=Callable[..., Any])
_PLAIN = (bool, int, float, str, Path, NoneType)
_LISTS = (Sequence, list, tuple)


def checked(function: F) -> F:
    """A function that refuses arguments of another type than their annotations say.

    Numbers of NumPy become Python's, and arrays and series where a sequence is asked for become lists. An annotation
    that type checkers alone know is not checked.

    Raises:
        ValueError: names the argument, its value and what may be given.
    """
    signature = inspect.signature(function)

    @cache
    def adapters() -> dict[str, TypeAdapter[Any]]:
        scope = getattr(function, "__globals__", {})
        read = {name: _evaluated(each.annotation, scope) for name, each in signature.parameters.items()}
        return {name: TypeAdapter(_by_instance(each)) for name, each in read.items() if each is not Any}

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:  # it does not say of which function
            raise TypeError(f"{function.__qualname__}(): {error}") from None
        for name in adapters().keys() & bound.arguments.keys():
            bound.arguments[name] = _validated(name, bound.arguments[name], adapters()[name])
        return function(*bound.args, **bound.kwargs)

    return cast(F, call)


def is_list(value: object) -> bool:
    """Whether values come one after another, as in a list, an array or a series: no text, mapping, frame or scalar."""
    one_dimension = len(getattr(value, "shape", (1,))) == 1 and not hasattr(value, "collect_schema")
    return hasattr(value, "__iter__") and one_dimension and not isinstance(value, str | bytes | Mapping)


def _evaluated(annotation: Any, scope: Mapping[str, Any]) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, dict(scope))
    except NameError:
        return Any


def _by_instance(annotation: Any) -> Any:
    """An annotation in which every class but plain values and lists of them is checked by ``isinstance`` alone."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return Union[tuple(map(_by_instance, parts))]  # noqa: UP007 (made at run time)
    if origin in _LISTS:
        return origin[tuple(part if part is Ellipsis else _by_instance(part) for part in parts)]
    if origin in (Literal, Annotated) or annotation in _PLAIN or annotation in (None, Any):
        return annotation
    kind = origin or annotation
    is_class = isinstance(kind, type) and kind not in (type, Any) and not getattr(kind, "_is_protocol", False)
    return InstanceOf[kind] if is_class else Any  # type: ignore[valid-type,misc]


def _validated(name: str, value: Any, adapter: TypeAdapter[Any]) -> Any:
    if is_list(value) and not isinstance(value, Sequence):
        listed = getattr(value, "tolist", getattr(value, "to_list", None))
        candidates = [value, listed()] if callable(listed) else [value]
    else:
        candidates = [value]
    for candidate in candidates:
        try:
            return adapter.validate_python(candidate)
        except ValidationError as error:
            messages = dict.fromkeys(each["msg"] for each in error.errors())
    raise ValueError(f"{name} = {shown(value)}: {'; '.join(messages)}")
