"""Settings as texts: read from a command line, and written as one takes them."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from recgraph.config import ConfigError, cut, shown

__all__ = ["choices_with_none", "parse_settings", "setting_text", "toml_text", "with_none"]

_FORMS = """{name = "text", flag = true} or ["a", "b"] as TOML, {"name": "text", "flag": true} as JSON"""
#: a number as Python writes it; one that begins with a needless 0 may be an id and stays a text
_NUMBER = re.compile(r"([+-]?)(?=\.?[0-9])(0|[1-9](?:_?[0-9])*)?(?:(\.)([0-9](?:_?[0-9])*)?)?((?:[eE][+-]?[0-9]+)?)")
_WORDS = {"True": "true", "False": "false", "None": "null", "none": "null"}
#: within a list or dictionary: a text in quotes, or a value
_PARTS = re.compile(r""""(?:\\.|[^"\\])*"|'[^']*'|(?<![^\s=:,\[])[\w.+-]+(?=\s*(?:[],}]|$))""")


def parse_settings(
    pairs: Iterable[str], base: Mapping[str, Any] | None = None, option: str = "--set"
) -> dict[str, Any]:
    """Read ``key=value`` texts as a command line gives them; a value is TOML, JSON, or else a plain string.

    Numbers and constants may be written as Python does (``.5``, ``1.``, ``True``), also in lists and dictionaries.
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
            setting, rest = ".".join(names[:number]), ".".join(names[number:])
            raise ConfigError(
                f"{setting} = {shown(held)} is no dictionary and has no entries"
                + (
                    ""
                    if isinstance(held, list | tuple)
                    else f"; where it has options, {_as_option(setting, rest, value)}"
                )
            )
        values[name] = values = dict(held or {})
    values[last] = value


def _as_option(setting: str, rest: str, value: Any) -> str:
    return f"they are entries of {setting}_options: {cut(setting_text(f'{setting}_options.{rest}', value))}"


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


def _read(text: str) -> Any:
    if _is_none(text):
        return None
    if text.startswith(("{", "[")):
        return _read_nested(text)
    for form in (text, _plain(text)):
        try:
            return _from_toml(form)
        except (ValueError, RecursionError):
            continue
    return text


def _from_toml(text: str) -> Any:
    return tomllib.loads(f"x = {text}")["x"]


def _from_json(text: str) -> Any:
    return json.loads(text)


def _read_nested(text: str) -> Any:
    """A list or a dictionary: as it is, else with what Python writes otherwise than TOML and JSON do."""
    plain = _PARTS.sub(lambda part: _plain(part[0]), text)
    for form in (text, plain, _PARTS.sub(lambda part: _in_double_quotes(part[0]), plain)):
        for read in (_from_toml, _from_json):
            try:
                return read(form)
            except (ValueError, RecursionError):
                continue
    try:
        _from_toml(_PARTS.sub(lambda part: "0" if part[0] == "null" else part[0], plain))
    except (ValueError, RecursionError):
        raise ConfigError(f"the value is neither TOML nor JSON; give {_FORMS}, within '...' for the shell") from None
    raise ConfigError('TOML has no none; give JSON, as {"name": null, "other": 3}, or name.entry=none for one entry')


def _in_double_quotes(word: str) -> str:
    """A text in single quotes, which JSON does not have and Python's dictionaries do; anything else as it is."""
    return json.dumps(word[1:-1], ensure_ascii=False) if word.startswith("'") else word


def _plain(word: str) -> str:
    """A number or a constant of Python as TOML and JSON write it; anything else as it is."""
    if (found := _NUMBER.fullmatch(word)) is None:
        return _WORDS.get(word, word)
    sign, whole, point, fraction, exponent = found.groups()
    digits = f"{whole or 0}.{fraction or 0}" if point else f"{whole}"
    return f"{sign.strip('+')}{digits}{exponent}".replace("_", "")


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
