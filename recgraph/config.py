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
            raise ConfigError("\n".join(_messages(type(self).__name__, error.errors()))) from None

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
        read = dict(values)
        for name, value in values.items():
            if name not in cls.model_fields:
                raise ValueError(unknown_key(name, cls))
            if isinstance(value, Mapping):
                default = cls.model_fields[name].get_default(
                    call_default_factory=True, validated_data={}
                )
                is_another = isinstance(default, PartConfig) and "name" in value
                if isinstance(default, Config) and not is_another:
                    read[name] = merged(default.model_dump(exclude_unset=True), value)
        return read

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

    def build(self, **given: Any) -> Any:
        """The member with these settings and, of ``given``, what it has an argument or a field
        for.
        """
        values = dict(self)
        for name in given.keys() & self.accepts:
            values[name] = given[name]
        takes_config = hasattr(self.member, "Config")
        return (
            self.member(self.model_copy(update=values)) if takes_config else self.member(**values)
        )


def walk(
    config: BaseModel | type[BaseModel], within: str = ""
) -> Iterator[tuple[str, FieldInfo, Any]]:
    """Dotted name, field and value of all settings of a tree, or of the defaults of a class; of
    several parts in one field by their names, as ``augmentations.crop.ratio``."""
    for name, field in (config if isinstance(config, type) else type(config)).model_fields.items():
        if field.exclude:
            continue
        if isinstance(config, type):
            value = field.get_default(call_default_factory=True, validated_data={})
        else:
            value = getattr(config, name)
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
    """Dotted name and value of all settings of a tree of tables, as :func:`put` sets them one after
    another.
    """
    for name, value in settings.items():
        if not isinstance(value, Mapping) or not value:
            yield f"{within}{name}", value
            continue
        if "name" in value:
            yield f"{within}{name}", value["name"]
        yield from assignments(
            {key: each for key, each in value.items() if key != "name"}, f"{within}{name}."
        )


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
    by_lower = {each.lower(): each for each in among}
    return [by_lower[each] for each in difflib.get_close_matches(name.lower(), by_lower)]


def did_you_mean(name: str, among: Iterable[str]) -> str:
    """What an error says behind a name that does not exist; nothing where no name is near."""
    close = nearest_names(name, among)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def unknown_key(key: str, *within: BaseModel | type[BaseModel], what: str = "setting") -> str:
    """The message for a key that no configuration has, with the nearest names: those of parts, then
    of other libraries, then by their letters."""
    names = sorted(name for config in within for name, _, _ in walk(config))
    inner = [name for name in names if name.rpartition(".")[2] == key]
    if close := inner or [name for name in names if name == ELSEWHERE.get(key)]:
        return f"unknown {what} {key!r} (did you mean {' or '.join(close)}?)"
    meant = (
        did_you_mean(key, names)
        or f"; there are {', '.join(name for name in names if '.' not in name) or 'none'}"
    )
    return f"unknown {what} {key!r}{meant}"


#: what pydantic says -> what is said of it here, in this order
_SAID = {
    "; Input should be ": " or ",
    "a dictionary or an instance of ": "",
    "an instance of ": "",
    "should be Interactions": "should be Interactions (rg.load_data makes it of a frame or a file)",
    "should be HeteroGraph": "should be HeteroGraph (HeteroGraph.from_frames makes it)",
}


def _messages(owner: str, errors: Iterable[Any]) -> list[str]:
    """Errors of pydantic, a line for each setting or argument, its value and all that it may be."""
    found: dict[str, str] = {}
    for item in errors:
        place, value = ".".join(map(str, item["loc"])), item["input"]
        is_of_table = item["type"] in ("missing", "value_error") and isinstance(value, Mapping)
        place += "" if is_of_table else f" = {shown(value)}"
        before = f"{found[place]}; " if place in found else f"{place or owner}: "
        found[place] = before + item["msg"].removeprefix("Value error, ")
    for place in found:
        for text, said in _SAID.items():
            found[place] = found[place].replace(text, said)
    return [*found.values()]


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
            if not sign or not all(path):
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
        return {name: with_none(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [with_none(each) for each in value]
    return None if isinstance(value, str) and value.lower() in ("none", "null") else value


def _read(text: str) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(
            text, parse_constant=int
        )  # which refuses NaN and Infinity: they are no JSON
    with suppress(ValueError, RecursionError):
        return tomllib.loads(f"x = {text}")["x"]
    if text.startswith(("{", "[")):
        raise ValueError("the value is neither JSON nor TOML, as {name = 1} or [1, 2]")
    return with_none(text)


def setting_text(name: str, value: Any) -> str:
    """``key=value`` as :func:`parse_settings` reads it; a plain text is not quoted."""
    is_plain = isinstance(value, str) and not value.startswith(("{", "[")) and _read(value) == value
    if (
        value is None or is_plain or isinstance(value, float)
    ):  # infinity, too, of which JSON knows nothing
        return f"{name}={'none' if value is None else value}"
    return f"{name}={json.dumps(value, ensure_ascii=False)}"


F = TypeVar("F", bound=Callable[..., Any])


def checked(function: F) -> F:
    """A function that refuses arguments of another type than their annotations say, with a
    ValueError that names the argument, its value and what may be given."""
    # read at the first call, when the names of all annotations are known
    validated = validate_call(config=ConfigDict(arbitrary_types_allowed=True, defer_build=True))(
        function
    )
    names = [*inspect.signature(function).parameters]

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return validated(*args, **kwargs)
        except ValidationError as error:
            found = error.errors()
        if {"missing_argument", "unexpected_keyword_argument"} & {each["type"] for each in found}:
            return function(*args, **kwargs)  # whose own TypeError says it
        for each in found:
            each["loc"] = tuple(
                names[place] if isinstance(place, int) else place for place in each["loc"][:1]
            )
        raise ValueError("; ".join(_messages(function.__qualname__, found)))

    return cast(F, call)


def is_list(value: object) -> bool:
    """Whether values come one after another, as in a list, an array or a series: no text, mapping,
    frame or scalar.
    """
    one_dimension = len(getattr(value, "shape", (1,))) == 1 and not hasattr(value, "collect_schema")
    return (
        hasattr(value, "__iter__")
        and one_dimension
        and not isinstance(value, str | bytes | Mapping)
    )
