"""Settings are a tree: frozen values, checked by type and range, with the search range written on
the field.

A field holds a plain value, another :class:`Config`, or a :class:`PartConfig`: the settings of a
member of the registry. A part is given as a value, as its name, or as a table of its name and
settings; a table without a name changes the part that is the default. A field with ``exclude=True``
is not a setting: the caller of a part decides it.
"""

from __future__ import annotations

import difflib
import inspect
import json
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    model_serializer,
    model_validator,
    validate_call,
)
from pydantic.fields import FieldInfo

#: what other libraries call a setting -> its name here
ELSEWHERE = {
    "lr": "learning_rate",
    "epochs": "max_epochs",
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


class Config(BaseModel):
    """Base of every configuration. Unknown keys and values out of range raise :class:`ConfigError`;
    so do infinities and NaN, but for a field with ``allow_inf_nan=True``."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_message(type(self).__name__, error.errors())) from None

    # as pydantic marks its own, so that parts of a configuration are validated with it and errors
    # name their place
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="before")
    @classmethod
    def _read_table(cls, values: Any) -> Any:
        """Refuse unknown settings; a table for a field whose default is a configuration changes
        that.
        """
        if not isinstance(values, Mapping):
            return values
        defaults = {}
        for name in values:
            if name not in cls.model_fields:
                raise ValueError(unknown_key(name, cls))
            default = cls.model_fields[name].get_default(call_default_factory=True)
            if isinstance(default, Config):
                defaults[name] = default.model_dump(exclude_unset=True)
        return merged(defaults, values)

    @classmethod
    def of(cls, values: Mapping[str, Any] | None = None, /, **settings: Any) -> Self:
        """Build from a mapping and keyword settings."""
        return cls(**{**(values or {}), **settings})


class PartConfig(Config):
    """The settings of a member of the registry, ``rg.encoders.BSA(alpha=0.7)``; see
    :func:`recgraph.registry.part`.
    """

    # a constructor may take a tensor
    model_config = ConfigDict(arbitrary_types_allowed=True)
    part_kind: ClassVar[str]
    part_name: ClassVar[str]
    member: ClassVar[type[Any]]
    #: the names of what the member takes, settings and others
    accepts: ClassVar[frozenset[str]]

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    @model_serializer(mode="wrap")
    def _with_name(self, inner: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        return {"name": self.part_name, **inner(self)}

    def build(self, **arguments: Any) -> Any:
        """The member with these settings and, of ``arguments``, what it has an argument or a field
        for.
        """
        values = dict(self)
        for name in arguments.keys() & self.accepts:
            values[name] = arguments[name]
        if hasattr(self.member, "Config"):
            return self.member(self.model_copy(update=values))
        return self.member(**values)


def walk(
    config: BaseModel | type[BaseModel], within: str = ""
) -> Iterator[tuple[str, FieldInfo, Any]]:
    """Dotted name, field and value of all settings of a tree, or of the defaults of a class; of
    several parts in one field by their names, as ``augmentations.crop.ratio``. The value of a
    setting without a default is None in a class."""
    if isinstance(config, type):
        config = config.model_construct()
    for name, field in type(config).model_fields.items():
        if field.exclude:
            continue
        value = getattr(config, name, None)
        yield f"{within}{name}", field, value
        if isinstance(value, Config):
            yield from walk(value, f"{within}{name}.")
        elif isinstance(value, tuple):
            for part in value:
                if isinstance(part, PartConfig):
                    yield from walk(part, f"{within}{name}.{part.part_name}.")


def put(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set one setting of a tree of tables. On the path to it the name of a part becomes a table
    that has the name, and tables are copied. A name that is set where a table without one stands is
    added to that table."""
    name, *rest = path
    current = tree.get(name)
    if not rest:
        if isinstance(value, str) and isinstance(current, Mapping) and "name" not in current:
            value = {"name": value, **current}
        tree[name] = value
    elif isinstance(current, list | tuple):
        tables = [_as_table(part) for part in current]
        tree[name] = tables
        # of two parts of one name the first
        by_name = {table.get("name"): table for table in reversed(tables)}
        part_name, *rest = rest
        if part_name not in by_name or not rest:
            raise ValueError(f"{'.'.join(path)}: {part_name!r} is not among {name}")
        put(by_name[part_name], rest, value)
    else:
        table = _as_table(current)
        tree[name] = table
        put(table, rest, value)


def _as_table(value: Any) -> dict[str, Any]:
    """A copy of the settings of a part, which has its name, no value yet, or a table."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, Config):
        return value.model_dump(mode="json")
    if not isinstance(value, Mapping):
        raise ValueError(f"{shown(value)} has no settings")
    return dict(value)


def assignments(settings: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of all settings of a tree of tables, as :func:`put` sets them one after
    another.
    """
    for name, value in settings.items():
        if not isinstance(value, Mapping) or not value:
            yield f"{within}{name}", value
            continue
        table = dict(value)
        if "name" in table:
            yield f"{within}{name}", table.pop("name")
        yield from assignments(table, f"{within}{name}.")


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of settings with changes; a table with a name takes the place of what there is."""
    tree = dict(settings)
    for name, value in changes.items():
        current = tree.get(name)
        if isinstance(current, Mapping) and isinstance(value, Mapping) and "name" not in value:
            tree[name] = merged(current, value)
        else:
            tree[name] = value
    return tree


C = TypeVar("C", bound=Config)


def configure(owner: object, cls: type[C], config: C | None, settings: Mapping[str, Any]) -> C:
    """The configuration of something that is made by ``Owner(config)`` or by ``Owner(key=value,
    ...)``.
    """
    if config is None:
        return cls(**settings)
    if settings or not isinstance(config, cls):
        raise ConfigError(
            f"{type(owner).__name__}: give a {cls.__name__} or settings by name, not {shown(config)}"
        )
    return config


def search_of(field: FieldInfo) -> Search | None:
    """The search range of a field."""
    return next((meta for meta in field.metadata if isinstance(meta, Search)), None)


def nearest_names(name: str, among: Iterable[str]) -> list[str]:
    """The three names that are most nearly ``name``, the nearest first; case does not matter."""
    by_lower = {candidate.lower(): candidate for candidate in among}
    return [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower)]


def did_you_mean(name: str, among: Iterable[str]) -> str:
    """What an error says behind a name that does not exist; nothing where no name is near."""
    return _suggestion(nearest_names(name, among))


def _suggestion(names: Sequence[str]) -> str:
    return f" (did you mean {' or '.join(names)}?)" if names else ""


def unknown_key(key: str, *within: BaseModel | type[BaseModel], what: str = "setting") -> str:
    """The message for a key that no configuration has, with the nearest names: those of parts and
    of other libraries, else by their letters."""
    names = sorted(name for config in within for name, _, _ in walk(config))
    meanings = {key, ELSEWHERE.get(key)}
    close = [name for name in names if name.rpartition(".")[2] in meanings]
    top = [name for name in names if "." not in name]
    suggestion = _suggestion(close or nearest_names(key, names)) or f": it is not among {top}"
    return f"unknown {what} {key!r}{suggestion}"


#: wording of pydantic -> wording of ours, replaced in this order
_WORDING = {
    "; Input should be ": " or ",
    "a dictionary or an instance of ": "",
    "an instance of ": "",
    "should be Interactions": "should be Interactions (rg.load_data makes it of a frame or a file)",
    "should be HeteroGraph": "should be HeteroGraph (HeteroGraph.from_frames makes it)",
}
#: pydantic's errors whose value may be a whole table, which a message does not show
_ABOUT_TABLES = ("missing", "value_error")


def _message(owner: str, errors: Iterable[Any]) -> str:
    """Errors of pydantic, a line for each setting or argument, its value and all that it may be."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for error in errors:
        place = ".".join(map(str, error["loc"]))
        is_of_table = error["type"] in _ABOUT_TABLES and isinstance(error["input"], Mapping)
        if not is_of_table:
            place += f" = {shown(error['input'])}"
        reasons[place or owner].append(error["msg"].removeprefix("Value error, "))
    message = "\n".join(f"{place}: {'; '.join(texts)}" for place, texts in reasons.items())
    for text, replacement in _WORDING.items():
        message = message.replace(text, replacement)
    return message


def shown(value: object) -> str:
    """A value in a message, cut where it is long, so that what is wrong is not lost behind it.

    Of one that takes several lines, such as a frame, it is the type and the first line.
    """
    text, _, more = repr(value).strip().partition("\n")
    if more:
        library = type(value).__module__.partition(".")[0]
        text = f"{library}.{type(value).__name__} {text}..."
    return text if len(text) <= 200 else f"{text[:200]}..."


def parse_settings(
    pairs: Iterable[str], base: Mapping[str, Any] | None = None, option: str = "--set"
) -> dict[str, Any]:
    """Read ``key=value`` texts, which ``option`` gives; a value is JSON, TOML, or else a plain
    string. They add to the settings ``base``: ``encoder.alpha=0.7`` keeps the others of that part.
    """
    values = dict(base or {})
    for pair in pairs:
        key, sign, text = pair.partition("=")
        path = key.strip().split(".")
        try:
            if "" in (sign, *path):
                raise ValueError("it is not of the form key=value")
            put(values, path, _read(text.strip()))
        except ValueError as error:
            raise ConfigError(f"{option} {shown(pair)}: {error}") from None
    return values


def with_none(value: Any) -> Any:
    """What a TOML file holds, with None for the texts none and null, as in ``--set``: TOML has no
    word for it.
    """
    if isinstance(value, Mapping):
        return {name: with_none(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [with_none(item) for item in value]
    return None if str(value).lower() in ("none", "null") else value


def _read(text: str) -> Any:
    with suppress(ValueError, RecursionError):
        # int refuses NaN and Infinity, which are no JSON
        return json.loads(text, parse_constant=int)
    with suppress(ValueError, RecursionError):
        return tomllib.loads(f"x = {text}")["x"]
    if text.startswith(("{", "[")):
        raise ValueError("the value is neither JSON nor TOML, as {name = 1} or [1, 2]")
    return with_none(text)


def setting_text(name: str, value: Any) -> str:
    """``key=value`` as :func:`parse_settings` reads it: the value as Python writes it where it is
    read as itself, such as a plain text or infinity, else as JSON."""
    text = "none" if value is None else str(value)
    if text.startswith(("{", "[")) or _read(text) != value:
        text = json.dumps(value, ensure_ascii=False)
    return f"{name}={text}"


F = TypeVar("F", bound=Callable[..., Any])


def checked(function: F) -> F:
    """A function that refuses arguments of another type than their annotations say, with a
    ValueError that names the argument, its value and what may be given."""
    # read at the first call, when the names of all annotations are known
    validated = validate_call(config=ConfigDict(arbitrary_types_allowed=True, defer_build=True))(
        function
    )
    names: dict[int | str, str] = dict(enumerate(inspect.signature(function).parameters))

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return validated(*args, **kwargs)
        except ValidationError as error:
            errors = error.errors()
        kinds = {detail["type"] for detail in errors}
        if kinds & {"missing_argument", "unexpected_keyword_argument"}:
            return function(*args, **kwargs)  # whose own TypeError says it
        for detail in errors:
            # the place of an argument is its name, or its position
            place = detail["loc"][0]
            detail["loc"] = (names.get(place, place),)
        raise ValueError(_message(function.__qualname__, errors))

    return cast(F, call)


def is_list(value: object) -> bool:
    """Whether values come one after another, as in a list, an array or a series: no text, mapping,
    frame or scalar.
    """
    if isinstance(value, str | bytes | Mapping):
        return False
    return hasattr(value, "__iter__") and len(getattr(value, "shape", (1,))) == 1
