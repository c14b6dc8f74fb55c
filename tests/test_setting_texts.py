"""Settings as texts: every form that a value may have, entries of dictionaries, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from recgraph.config import ConfigError
from recgraph.setting_texts import parse_settings, setting_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("64", 64),
        ("1e-3", 1e-3),
        ("true", True),
        ("True", True),
        ("none", None),
        ("full", "full"),
        ('"64"', "64"),
        ("[1, 2]", [1, 2]),
        ("a=b", "a=b"),
        ("", ""),
        ('{shared=true, margin=0.8, of={name="a"}}', {"shared": True, "margin": 0.8, "of": {"name": "a"}}),
        ('{"shared": true, "margin": 0.8, "of": {}}', {"shared": True, "margin": 0.8, "of": {}}),
        ('{\n  "lambda": null\n}', {"lambda": None}),
        ('["crop", {"name": "mask", "ratio": 0.3}]', ["crop", {"name": "mask", "ratio": 0.3}]),
        ("[null]", [None]),
        ("NaN", "NaN"),
        ("007", "007"),
        ("1" * 10_000, "1" * 10_000),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.5e1", -5.0),
        ("+.5", 0.5),
        ("1_000.", 1000.0),
        ("+3", 3),
        ("1_000", 1000),
        (".5.", ".5."),
        ("00.5", "00.5"),
        (".", "."),
        ("1__0.", "1__0."),
        ("{a=.5, b=-.5, c=1., d=+3, e=1_000}", {"a": 0.5, "b": -0.5, "c": 1.0, "d": 3, "e": 1000}),
        ('{"a": .5, "b":-.5, "c": 1., "d": +3, "e": 1_000}', {"a": 0.5, "b": -0.5, "c": 1.0, "d": 3, "e": 1000}),
        ("[.5,1., 1e-3 ,+3,1_000]", [0.5, 1.0, 1e-3, 3, 1000]),
        ("[[.5], {a=1.}]", [[0.5], {"a": 1.0}]),
        ("{a = True, b = [False]}", {"a": True, "b": [False]}),
        ('{"a": True, "b": None}', {"a": True, "b": None}),
        ("[None, none]", [None, None]),
        ("[\"x, .5\", '1., None', .5]", ["x, .5", "1., None", 0.5]),
        ('{"a": "\\", .5, None]", "b": .5}', {"a": '", .5, None]', "b": 0.5}),
        ("{'shared': True, 'of': ['a\"b', .5], 'none': None}", {"shared": True, "of": ['a"b', 0.5], "none": None}),
        ("{'a': \"it's\", 'b': '', 'c': 'None'}", {"a": "it's", "b": "", "c": "None"}),
    ],
)
def test_values_on_the_command_line(text: str, value: object) -> None:
    (parsed,) = parse_settings([f"key = {text}"]).values()
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["lr"], r"^--set 'lr' is not of the form key=value$"),
        (["=1"], "key=value"),
        (["a.=1"], "key=value"),
        (["a=1", "a=2"], "--set names 'a' twice; give it once"),
        (["a.b=1", "a.b=2"], r"names 'a\.b' twice"),
        (["a.b=1", "a={c=2}"], r"^--set a=\.\.\. replaces a\.b, which stands before it; give a first$"),
        (
            ["a=3", "a.b=1"],
            r"^--set 'a\.b=1': a = 3 is no dictionary and has no entries; where it has options, they are entries of "
            r"a_options: a_options\.b=1$",
        ),
        (["weight=cluster", "weight.n_clusters=[8]"], r"weight_options\.n_clusters=\[8\]$"),
        (["a={b=[1]}", "a.b.c=1"], r"a\.b = \[1\] is no dictionary and has no entries$"),
        (["a={b='x'}", "a.b.c.d=y"], r"entries of a\.b_options: a\.b_options\.c\.d=y$"),
        (["a={shared: true}"], r"^--set 'a=\{shared: true\}': the value is neither TOML nor JSON; give \{name = "),
        (["a=[crop, mask]"], "within '...' for the shell"),
        (["a={'b': 'c}"], "neither TOML nor JSON"),
        (["a=[007, .5]"], "neither TOML nor JSON"),
        (["a={b=None, c=.5}"], r'TOML has no none; give JSON, as \{"name": null, "other": 3\}, or name.entry=none'),
        (["a={b=null}"], "TOML has no none"),
        (["a=" + "[" * 100_000], "neither TOML nor JSON"),
        (["a=[" + "1" * 10_000 + "]"], "neither TOML nor JSON"),
    ],
)
def test_bad_pairs(pairs: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_settings(pairs)


def test_messages_name_the_option_that_gave_the_text() -> None:
    with pytest.raises(ConfigError, match=r"^--engine-set 'workers' is not of the form"):
        parse_settings(["workers"], option="--engine-set")


def test_an_entry_of_a_dictionary() -> None:
    assert parse_settings(["a.b=1"]) == {"a": {"b": 1}}
    assert parse_settings(["a.b.c=x", "a.b.d=y"]) == {"a": {"b": {"c": "x", "d": "y"}}}
    assert parse_settings(["a={b=1, c=2}", "a.b=3"]) == {"a": {"b": 3, "c": 2}}
    assert parse_settings(["a=none", "a.b=3"]) == {"a": {"b": 3}}
    assert parse_settings(["a.b=.5", "a.c=None"]) == {"a": {"b": 0.5, "c": None}}


def test_settings_of_a_file_are_kept_replaced_or_added_to() -> None:
    base: dict[str, Any] = {"a": {"b": {"c": 1}, "d": 2}, "e": {"f": 3}, "g": 4}
    assert parse_settings(["a.b.x=5", "e={h=6}"], base) == {"a": {"b": {"c": 1, "x": 5}, "d": 2}, "e": {"h": 6}, "g": 4}
    assert base == {"a": {"b": {"c": 1}, "d": 2}, "e": {"f": 3}, "g": 4}
    with pytest.raises(ConfigError, match=r"g = 4 is no dictionary"):
        parse_settings(["g.x=1"], base)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        "true",
        "64",
        "full",
        ".5",
        "1.",
        [".5", "None", {"a": "1."}],
        {"a": ".5, None", "b": None},
        "[a]",
        "{",
        'a"b',
        1e-3,
        math.inf,
        ["crop", {"name": "mask", "ratio": 0.3}],
        {"a b": {"c": [1, 2.5, "x", False]}},
        {"a": None, "b": [None]},
    ],
)
def test_a_text_of_a_setting_is_read_as_its_value(value: object) -> None:
    text = setting_text("key", value)
    assert parse_settings([text]) == {"key": value}


def test_plain_texts_are_not_quoted() -> None:
    assert setting_text("loss", "full") == "loss=full"
    assert setting_text("options", {"a": 0.5}) == 'options={"a" = 0.5}'
