"""Settings as texts: every value is read as it was written."""

from __future__ import annotations

import math
from typing import Any

import pytest
from refusing import refused

from recgraph.config import ConfigError, parse_settings, setting_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("64", 64),
        ("1e-3", 1e-3),
        (".5", 0.5),
        ("+3", 3),
        ("1_000", 1000),
        ("true", True),
        ("False", False),
        ("none", None),
        ("null", None),
        ("full", "full"),
        ('"64"', "64"),
        ("007", "007"),
        ("NaN", "NaN"),
        ("a,b", "a,b"),
        ("[1, 2]", [1, 2]),
        ('["crop", {"name": "mask", "ratio": 0.3}]', ["crop", {"name": "mask", "ratio": 0.3}]),
        ('{name = "mask", ratio = 0.3}', {"name": "mask", "ratio": 0.3}),
        ("{'shared': True, 'of': [.5, None]}", {"shared": True, "of": [0.5, None]}),
    ],
)
def test_values_on_the_command_line(text: str, value: object) -> None:
    (parsed,) = parse_settings([f"key = {text}"]).values()
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize("pairs", [["lr"], ["=1"], ["a.=1"], ["a=3", "a.b=1"], ["a={b"]])
def test_what_is_no_setting_is_refused(pairs: list[str]) -> None:
    with refused(pairs[-1], by=ConfigError):
        parse_settings(pairs)


def test_an_entry_of_a_dictionary() -> None:
    assert parse_settings(["a.b.c=x", "a.b.d=y"]) == {"a": {"b": {"c": "x", "d": "y"}}}
    assert parse_settings(["a={b=1, c=2}", "a.b=3"]) == {"a": {"b": 3, "c": 2}}
    base: dict[str, Any] = {"a": {"b": {"c": 1}, "d": 2}, "e": {"f": 3}, "g": 4}
    assert parse_settings(["a.b.x=5", "e={h=6}"], base) == {"a": {"b": {"c": 1, "x": 5}, "d": 2}, "e": {"h": 6}, "g": 4}
    assert base == {"a": {"b": {"c": 1}, "d": 2}, "e": {"f": 3}, "g": 4}


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, "true", "64", "full", ".5", "[a]", "{", 'a"b', 1e-3, math.inf),
        *([".5", "None", {"a": "1."}], {"a b": {"c": [1, 2.5, "x", False]}}, {"a": None, "b": [None]}),
    ],
)
def test_a_text_of_a_setting_is_read_as_its_value(value: object) -> None:
    assert parse_settings([setting_text("key", value)]) == {"key": value}
    assert setting_text("loss", "full") == "loss=full"
