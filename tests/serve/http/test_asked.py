"""Bodies of requests: what is read, and what is refused with which words."""

from __future__ import annotations

import datetime
import json
import sys
import time
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from service_cases import recommender, served

from recgraph.serve.http.asked import FIELDS
from recgraph.serve.http.errors import Refused
from recgraph.serve.http.served import Served
from recgraph.serve.http.writing import Answer
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


def test_k_is_no_longer_than_lists_may_be() -> None:
    assert OF.reader.read(b'{"user": 1}').k == 10
    assert served(k=4).reader.read(b'{"user": 1}').k == 4


def test_a_name_at_the_end_of_many_is_found_twice_at_once() -> None:
    """One look at each name; comparing each with all before it took minutes for a body of the allowed size."""
    names = b", ".join(b'"%d": 1' % n for n in range(60_000))
    start = time.process_time()
    with pytest.raises(Refused, match='"z" is given more than once'):
        OF.reader.read(b"{" + names + b', "z": 1, "z": 1}')
    assert time.process_time() - start < 5


MANY = {f"{n}": 1 for n in range(600)}


@pytest.mark.parametrize(
    "rules",
    [
        MANY,
        {"boost": [0] * 600},
        {"boost": MANY},
        {"boost": [{"column": "price", **MANY}]},
        {"max_per": MANY},
        {"diversity": MANY},
        {"rerank": {"name": "mmr", **MANY}},
        {"rerank": {"name": "mmr", "columns": [[1] * 600]}},
        {"rerank": json.dumps({"name": "mmr", **MANY}) * 10},
    ],
)
def test_rules_that_would_take_long_to_check_are_not(rules: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rules, "of", None)
    with pytest.raises(Refused, match="more than 512 settings and values, beside ids; leave some out") as caught:
        OF.reader.read(json.dumps({"user": 1, "rules": rules}).encode())
    assert (caught.value.status, caught.value.field) == (400, "rules")


def test_rules_may_have_many_ids() -> None:
    ids = {"block": [*range(5000)], "block_for": {f"{n}": [1] for n in range(5000)}}
    assert OF.reader.read(json.dumps({"user": 1, "rules": ids}).encode()).is_alone


@pytest.mark.parametrize(
    "body",
    [
        {"x" * 9999: 1},
        {"histories": {"x" * 9999: [True]}},
        {"user": 1, "rules": {"x" * 9999: 1}},
        {"user": 1, "rules": {"separator": ["x" * 9999]}},
        {"user": 1, "rules": {"allow_for": {f"{n}": 1 for n in range(9999)}}},
        {"user": 1, "rules": {f"blok{n}": 1 for n in range(500)}},
    ],
)
def test_what_is_repeated_of_a_request_is_short(body: dict[str, Any]) -> None:
    with pytest.raises(Refused) as caught:
        OF.reader.read(json.dumps(body).encode())
    assert len(json.dumps(caught.value.to_dict())) < 3000


@pytest.mark.parametrize(
    "body", ['{"k": %s}', '{"user": %s}', '{"user": 1, "rules": {"rerank": {"name": "a", "b": %s}}}']
)
def test_a_value_of_any_depth_is_refused(body: str) -> None:
    """Also one that can be read, and is too deep for the message."""
    for depth in range(1, 1100, 1 if sys.version_info < (3, 12) else 97):
        with pytest.raises(Refused) as caught:
            OF.reader.read((body % ("[" * depth + "]" * depth)).encode())
        assert caught.value.status == 400


def test_infinite_ids_are_refused() -> None:
    floats = served(recommender(user=lambda n: n / 2 + 0.25))
    with pytest.raises(Refused, match=r"user = Infinity is a number, .* write ids like 0\.25"):
        floats.reader.read(b'{"user": 1e999, "fallback": "popularity"}')


def test_many_dates_are_parsed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    days = [datetime.date(2020, 1, 1) + datetime.timedelta(n) for n in range(60)]
    dates = served(recommender(item=days.__getitem__)).reader.items
    texts = [f"{day}" for day in days] + ["2020/01/03", "2020-01-03", "04-01-2020"]
    one_by_one = [dates.read(text, "block") for text in texts]
    parse, sizes = dates.ids.parse, []

    def counted(given: list[str]) -> pl.Series:
        sizes.append(len(given))
        return parse(given)

    monkeypatch.setattr(dates.ids, "parse", counted)
    assert dates.read_all(texts, "block") == one_by_one
    assert len(sizes) <= 6
    for wrong in ("x", "-1-01-01", "99999-01-01", 5, "\ud800"):
        with pytest.raises(Refused) as caught:
            dates.read_all([*texts, wrong], "block")
        assert caught.value.field == f"block[{len(texts)}]"


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
        assert len(json.loads(answer.body)["results"]) == answer.n_lists


def outcome(of: Served, body: bytes) -> Answer | Exception:
    try:
        return of.answer([of.reader.read(body)])[0]
    except Refused as refused:
        return refused
