"""Bodies of requests: what is read, and what is refused with which words."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from service_cases import recommender, served

from recgraph.serve.http.asked import FIELDS
from recgraph.serve.http.errors import Refused
from recgraph.serve.http.served import Answer, Served
from recgraph.serve.rules import Rules

OF = served(k=50, users=3, history=4)
TEXTS = served(recommender(user=lambda n: f"u{n}", item=str))


@pytest.mark.parametrize(
    ("body", "field", "parts"),
    [
        ({"usr": 1}, "usr", ['"usr" is no field', 'did you mean "user"']),
        ({"user": 1, "kk": 1}, "kk", ['did you mean "k"']),
        ({}, None, ["does not say for whom", '{"user": 0}']),
        ({"user": 1, "history": [1]}, None, ["user and history are given", "give one of"]),
        ({"user": "17"}, "user", ['user = "17" is a text, but the users are integers; write 17']),
        ({"user": "x"}, "user", ["write ids like 0"]),
        ({"user": None}, "user", ["is nothing"]),
        ({"user": True}, "user", ["is a boolean"]),
        ({"user": 1.5}, "user", ["is a number"]),
        ({"user": [1]}, "user", ["is a list"]),
        ({"users": []}, "users", ["users is empty"]),
        ({"users": 1}, "users", ["users = 1 must be a list"]),
        ({"users": [1, "a"]}, "users[1]", ['users[1] = "a"']),
        ({"users": [1, 2, 3, 4]}, "users", ["has 4 entries, at most 3"]),
        ({"history": 5}, "history", ["history = 5 must be a list of items, oldest first"]),
        ({"history": [1, [2]]}, "history[1]", ["history[1] = [2] is a list"]),
        ({"history": [1] * 5}, "history", ["has 5 items, at most 4"]),
        ({"histories": [[1]]}, "histories", ["must be an object"]),
        ({"histories": {"a": [1], "b": 2}}, "histories.b", ["histories.b = 2 must be a list"]),
        ({"histories": {}}, "histories", ["is empty"]),
        ({"user": 1, "k": 0}, "k", ["k = 0 must be an integer from 1 to 50"]),
        ({"user": 1, "k": 51}, "k", ["from 1 to 50"]),
        ({"user": 1, "k": "5"}, "k", ['k = "5"']),
        ({"user": 1, "k": True}, "k", ["k = true"]),
        ({"user": 1, "exclude_seen": 1}, "exclude_seen", ["must be true or false"]),
        ({"user": 1, "fallback": "random"}, "fallback", ['fallback = "random" must be "popularity" or null']),
        ({"user": 1, "item_columns": "title"}, "item_columns", ["must be a list of column names"]),
        ({"user": 1, "item_columns": [1]}, "item_columns", ["as texts"]),
        ({"user": 1, "item_columns": ["nope"]}, "item_columns", ["is no column of the item features; there are"]),
        ({"user": 1, "item_columns": ["title", "title"]}, "item_columns", ["twice"]),
        ({"user": 1, "block": 3}, "block", ["block = 3 must be a list of item ids"]),
        ({"user": 1, "allow": ["3"]}, "allow[0]", ["write 3"]),
    ],
)
def test_refused(body: dict[str, Any], field: str | None, parts: list[str]) -> None:
    with pytest.raises(Refused) as caught:
        OF.reader.read(json.dumps(body).encode())
    assert caught.value.status == 400
    assert caught.value.field == field
    for part in parts:
        assert part in caught.value.message
    assert caught.value.to_dict() == {"error": caught.value.message} | ({"field": field} if field else {})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"null",
        b"\xff\xfe\x00",
        b'{"user": "\xc3"}',
        b'{"user": NaN}',
        b'{"user": Infinity}',
        b"[" * 100_000,
        b'{"user": ' + b"1" * 5000 + b"}",
        b'{"user": 1e999}',
    ],
)
def test_bodies_that_are_no_request(body: bytes) -> None:
    with pytest.raises(Refused) as caught:
        OF.reader.read(body)
    assert caught.value.status == 400


def test_texts_and_numbers_are_told_apart() -> None:
    assert TEXTS.reader.read(b'{"user": "u3"}').users == ["u3"]
    with pytest.raises(Refused, match='write "3"'):
        TEXTS.reader.read(b'{"history": [3]}')
    with pytest.raises(Refused, match="no valid Unicode"):
        TEXTS.reader.read(b'{"user": "\\ud800"}')
    with pytest.raises(Refused, match="no valid Unicode"):
        OF.reader.read(b'{"histories": {"\\ud800": [1]}}')


@pytest.mark.parametrize("text", ["-1-01-01", "0000-01-01", "99999-01-01", "2020-13-01", "x"])
def test_texts_that_are_no_date(text: str) -> None:
    dates = served(recommender(item=lambda n: datetime.date(2020, 1, 1) + datetime.timedelta(n)))
    for body in ({"user": 1, "allow": [text]}, {"history": [text]}):
        with pytest.raises(Refused, match="dates and times; write ids like") as caught:
            dates.reader.read(json.dumps(body).encode())
        assert caught.value.status == 400


def test_whole_floats_are_integers() -> None:
    assert OF.reader.read(b'{"user": 3.0}').users == [3]


@pytest.mark.parametrize("of", [OF, TEXTS], ids=["integers", "texts"])
def test_a_long_value_is_cut_in_the_message(of: Any) -> None:
    with pytest.raises(Refused) as caught:
        of.reader.read(json.dumps({"user": [["x" * 5000]]}).encode())
    assert len(caught.value.message) < 300


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.integers(0, 60),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
FIELD = st.sampled_from([*FIELDS, "usr", ""])
REQUESTS = st.dictionaries(FIELD, ANY, max_size=4) | st.fixed_dictionaries(
    {"user": st.integers(-3, 50)},
    optional={
        "k": st.integers(-1, 70),
        "allow": st.lists(st.integers(-1, 70), max_size=5),
        "block": st.lists(st.integers(0, 70), max_size=70),
        "exclude_seen": st.booleans(),
        "rules": st.dictionaries(st.sampled_from([*Rules.model_fields, "x"]), ANY, max_size=2),
        "fallback": st.sampled_from([None, "popularity"]),
        "item_columns": st.lists(st.sampled_from(["title", "price", "tags", "what", "score"]), max_size=3),
    },
)


@pytest.mark.parametrize("of", [OF, TEXTS], ids=["integers", "texts"])
@settings(max_examples=150)
@given(st.one_of(REQUESTS.map(lambda body: json.dumps(body).encode()), st.binary(max_size=40)))
def test_any_body_is_answered_or_refused(of: Any, body: bytes) -> None:
    """Never another error, and always an answer that is JSON."""
    answer = outcome(of, body)
    if isinstance(answer, Refused):
        assert 400 <= answer.status < 500
        json.dumps(answer.to_dict()).encode()
    else:
        assert isinstance(answer, Answer), repr(answer)
        assert len(json.loads(answer.body)["results"]) == answer.n_users


def outcome(of: Served, body: bytes) -> Answer | Exception:
    try:
        return of.answer([of.reader.read(body)])[0]
    except Refused as refused:
        return refused
