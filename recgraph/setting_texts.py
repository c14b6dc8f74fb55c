"""Settings as texts: read from a command line, and written as one takes them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from recgraph.config import ConfigError, shown

__all__ = ["parse_settings", "setting_text", "toml_text"]

_FORMS = """{name = "text", flag = true} or ["a", "b"] as TOML, {"name": "text", "flag": true} as JSON"""


def parse_settings(
    pairs: Iterable[str], base: Mapping[str, Any] | None = None, option: str = "--set"
) -> dict[str, Any]:
    """Read ``key=value`` texts as a command line gives them; a value is TOML, JSON, or else a plain string.

    ``key.entry=value`` sets one entry of a dictionary, and keeps the others that ``base`` or a text before has.

    Args:
        base: settings that these add to or replace, as those of a file.
        option: what gives the texts, for messages.

    Raises:
        ConfigError: a text of another form, a key that is named twice, or an entry of what is no dictionary.
    """
    values, named = dict(base or {}), set[str]()
    for pair in pairs:
        key, sign, text = pair.partition("=")
        key = key.strip()
        names = key.split(".")
        if not sign or not all(names):
            raise ConfigError(f"{option} {shown(pair)} is not of the form key=value")
        if key in named:
            raise ConfigError(f"{option} names {key!r} twice; give it once")
        if entry := next((each for each in named if each.startswith(f"{key}.")), None):
            raise ConfigError(f"{option} {key}=... replaces {entry}, which stands before it; give {key} first")
        named.add(key)
        try:
            _put(values, names, _read(text.strip()))
        except ConfigError as error:
            raise ConfigError(f"{option} {shown(pair)}: {error}") from None
    return values


def _put(values: dict[str, Any], names: Sequence[str], value: Any) -> None:
    """Set an entry of dictionaries within one another, which are copied."""
    *outer, last = names
    for number, name in enumerate(outer, start=1):
        held = values.get(name)
        if not isinstance(held, Mapping | None):
            raise ConfigError(f"{'.'.join(names[:number])} = {shown(held)} is no dictionary and has no entries")
        values[name] = values = dict(held or {})
    values[last] = value


def _read(text: str) -> Any:
    if text.lower() in ("none", "null"):
        return None
    if text in ("True", "False"):
        return text == "True"
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except (ValueError, RecursionError):
        return _read_json(text) if text.startswith(("{", "[")) else text


def _read_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError(f"the value is neither TOML nor JSON; give {_FORMS}, within '...' for the shell") from None


def setting_text(name: str, value: Any) -> str:
    """``key=value`` as :func:`parse_settings` reads it; a plain text is not quoted."""
    text = value if isinstance(value, str) else toml_text(value)
    try:
        is_read = _read(text) == value or not isinstance(value, str)
    except ConfigError:  # a text that begins like a list or dictionary, or one of these with a None in it
        return f"{name}={json.dumps(value, ensure_ascii=False)}"
    return f"{name}={text if is_read else toml_text(value)}"


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
