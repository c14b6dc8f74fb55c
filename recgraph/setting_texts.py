"""Settings as texts: read from a command line, and written as one takes them."""

from __future__ import annotations

import ast
import json
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from recgraph.config import ConfigError, shown


def parse_settings(
    pairs: Iterable[str], base: Mapping[str, Any] | None = None, option: str = "--set"
) -> dict[str, Any]:
    """Read ``key=value`` texts as a command line gives them; a value is JSON, TOML, Python, or else a plain string.

    ``key.entry=value`` sets one entry of a dictionary, and keeps the others that ``base`` or a text before has.

    Args:
        base: settings that these add to or replace, as those of a file.
        option: what gives the texts, for messages.

    Raises:
        ConfigError: a text of another form, or an entry of what is no dictionary.
    """
    values = dict(base or {})
    for pair in pairs:
        key, sign, text = pair.partition("=")
        *outer, last = key.strip().split(".")
        if not sign or not all((*outer, last)):
            raise ConfigError(f"{option} {shown(pair)} is not of the form key=value")
        inner = values
        for name in outer:
            if not isinstance(held := inner.get(name), Mapping | None):
                raise ConfigError(
                    f"{option} {shown(pair)}: {name} = {shown(held)} has no entries; is it {name}_options?"
                )
            inner[name] = inner = dict(held or {})
        inner[last] = _read(text.strip(), f"{option} {shown(pair)}")
    return values


def with_none(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a TOML file, which has no word for it, with None where the text none stands, as in ``--set``."""
    return {name: None if _is_none(value) else value for name, value in settings.items()}


def choices_with_none(space: Mapping[str, Any]) -> dict[str, Any]:
    """A space of a TOML file with None where the text none stands, also among the choices of a setting."""

    def read(value: Any) -> Any:
        if isinstance(value, list):
            return [None if _is_none(each) else each for each in value]
        return {name: read(each) for name, each in value.items()} if isinstance(value, dict) else value

    return {name: read(value) for name, value in with_none(space).items()}


def _is_none(value: Any) -> bool:
    return isinstance(value, str) and value.lower() in ("none", "null")


def _read(text: str, where: str = "") -> Any:
    if _is_none(text):
        return None
    for read in (_from_json, _from_toml, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    if text.startswith(("{", "[")):
        raise ConfigError(f"{where}: the value is neither JSON nor TOML, as {{name = 1}} or [1, 2]")
    return text


def _from_json(text: str) -> Any:
    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def _from_toml(text: str) -> Any:
    return tomllib.loads(f"x = {text}")["x"]


def setting_text(name: str, value: Any) -> str:
    """``key=value`` as :func:`parse_settings` reads it; a plain text is not quoted."""
    text = value if isinstance(value, str) else toml_text(value)
    try:
        is_read = _read(text) == value
    except ConfigError:  # a text that begins like a list or dictionary, or one of these with a None in it
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
