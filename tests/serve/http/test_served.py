"""Answers of the service are those of the library, whoever shares a batch."""

from __future__ import annotations

import datetime
import json
import random
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from service_cases import N_USERS, bodies, recommender, served

from recgraph.data.ids import IdMap
from recgraph.models.base import Model
from recgraph.models.closed_form.linear import EASE
from recgraph.models.collaborative.lightgcn import LightGCN
from recgraph.models.sequence.sasrec import SASRec
from recgraph.serve.http.asked import Limits
from recgraph.serve.http.errors import Refused
from recgraph.serve.http.served import Served
from recgraph.serve.recommender import Recommender

MODELS = [
    lambda: SASRec(hidden_dim=8, max_len=20),
    lambda: SASRec(hidden_dim=8, max_len=20, time_gaps=True),
    LightGCN,
    EASE,
]


def rows_of(result: dict[str, Any], *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(entry[name] for name in ("item", "score", "rank", *columns)) for entry in result["items"]]


def wanted(of: Recommender, request: dict[str, Any]) -> list[list[tuple[Any, ...]]]:
    """What the library recommends, for each user of a request on its own rows."""
    options = {
        name: request[name] for name in ("k", "exclude_seen", "allow", "block", "rules", "fallback") if name in request
    }
    if "user" in request or "users" in request:
        labels = request.get("users", [request.get("user")])
        frame = of.recommend(users=labels, **options)
    else:
        histories = request.get("histories", {0: request.get("history")})
        labels = list(histories)
        frame = of.recommend(histories=histories, **options)
    user, item = frame.columns[:2]
    parts = [frame.filter(pl.col(user) == label) for label in labels]
    return [list(part.select(item, "score", "rank").iter_rows()) for part in parts]


def mixed(of: Recommender, n_items: int, n: int = 60) -> list[dict[str, Any]]:
    draw = random.Random(0)
    requests: list[dict[str, Any]] = []
    for number in range(n):
        items = [draw.randrange(n_items) for _ in range(draw.randint(1, 30))]
        kinds: list[dict[str, Any]] = [
            {"user": draw.randrange(N_USERS)},
            {"users": draw.sample(range(N_USERS), 7)},
            {"history": items},
            {"histories": {"a": items, "b": items[:1], "c": [*items, 10**6]}},
        ]
        request = kinds[number % 4]
        if number % 3:
            request["k"] = draw.choice([1, 5, 10, 33, min(n_items, 1000), 1000])
        if number % 5 == 0:
            request["exclude_seen"] = False
        if number % 7 == 0:
            request["block"] = items[:3]
        if number % 11 == 0:
            request["allow"] = draw.sample(range(n_items), n_items // 2)
        requests.append(request)
    return requests


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("n_items", [60, 128, 1500])
def test_answers_are_those_of_the_library(make: Callable[[], Model], n_items: int) -> None:
    of = recommender(make, n_items)
    requests = mixed(of, n_items)
    together = bodies(served(of), requests)
    for request, answer in zip(requests, together, strict=True):
        assert answer["bundle"] == "cafe"
        assert [rows_of(result) for result in answer["results"]] == wanted(of, request), request


def test_a_batch_does_not_change_an_answer() -> None:
    of = served(recommender(n_items=300))
    requests = mixed(of.recommender, 300, 40)
    together = bodies(of, requests)
    assert together == [bodies(of, [request])[0] for request in requests]


def test_threads_answer_as_one_does() -> None:
    of = served(recommender(n_items=300))
    requests = mixed(of.recommender, 300, 40)
    alone = [bodies(of, [request]) for request in requests]
    fresh = served(of.recommender)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda request: bodies(fresh, [request]), requests)) == alone


@pytest.mark.parametrize(
    ("make", "written"),
    [
        (int, lambda n: n),
        (lambda n: f"id-{n:03d}", lambda n: f"id-{n:03d}"),
        (lambda n: n / 2, lambda n: n / 2),
        (lambda n: uuid.UUID(int=n), lambda n: str(uuid.UUID(int=n)).upper()),
        (lambda n: datetime.date(2020, 1, 1) + datetime.timedelta(n), lambda n: f"{datetime.date(2020, 1, 1 + n)}"),
        (
            lambda n: datetime.datetime(2020, 1, 1) + datetime.timedelta(hours=n),
            lambda n: f"2020-01-01T{n:02d}:00:00",
        ),
        (lambda n: b"%d" % n, lambda n: f"{n}"),
    ],
    ids=["int", "text", "float", "uuid", "date", "datetime", "bytes"],
)
def test_ids_of_every_type(make: Callable[[int], Any], written: Callable[[int], Any]) -> None:
    of = served(recommender(user=make, item=make))
    by_user, by_history = bodies(of, [{"user": written(4), "k": 3}, {"history": [written(1), written(2)], "k": 3}])
    frame = of.recommender.recommend(users=[make(4)], k=3)
    found = [entry["item"] for entry in by_user["results"][0]["items"]]
    frame = frame if isinstance(frame, pl.DataFrame) else pl.from_pandas(frame.astype({"what": str}))
    assert [_text(value) for value in found] == [_text(value) for value in frame["what"].to_list()]
    assert by_user["results"][0]["user"] == written(4)
    # what an answer says can be asked for
    (again,) = bodies(of, [{"history": found}])
    assert len(again["results"][0]["items"]) == 10
    assert len(by_history["results"][0]["items"]) == 3


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def test_floats_of_single_width_are_those_of_the_library() -> None:
    made = recommender(user=lambda n: n / 2 + 0.1)
    made.users = IdMap(made.users.values.cast(pl.Float32))
    wanted = made.recommend(users=[0.6], k=3)["what"].to_list()
    (answer,) = bodies(served(made), [{"user": 0.6, "k": 3}])
    assert [entry["item"] for entry in answer["results"][0]["items"]] == wanted


def test_rules_know_uuids_in_any_form() -> None:
    of = served(recommender(user=lambda n: uuid.UUID(int=n + 0xABC), item=lambda n: uuid.UUID(int=n + 0xDEF)))
    user = str(uuid.UUID(int=0xABC + 4))
    (plain,) = bodies(of, [{"user": user, "k": 1}])
    best = plain["results"][0]["items"][0]["item"]
    rules: list[dict[str, Any]] = [
        {"block": [best.upper()]},
        {"block_for": {user.upper(): [best]}},
        {"block_for": {user: [best.upper()]}},
    ]
    for each in rules:
        for asked in (user, user.upper()):
            (answer,) = bodies(of, [{"user": asked, "k": 1, "rules": each}])
            assert answer["results"][0]["items"][0]["item"] != best, each
    twice = {"block_for": {user: [best], user.upper(): []}}
    (refused,) = bodies(of, [{"user": user, "rules": twice}])
    assert isinstance(refused, Refused)
    assert "in another form, too" in refused.message


def test_rules_of_single_users_pass_over_ids_that_no_user_can_have() -> None:
    request: dict[str, Any] = {"user": 2**70, "fallback": "popularity", "k": 3}
    of = served()
    plain, ruled = bodies(of, [request, {**request, "rules": {"block_for": {"1": [1]}}}])
    assert ruled == plain


def test_item_columns_of_no_rows() -> None:
    features = recommender().item_features
    assert features is not None
    (answer,) = bodies(served(recommender(changed=features.head(0))), [{"user": 3, "k": 2, "item_columns": ["title"]}])
    assert [entry["title"] for entry in answer["results"][0]["items"]] == [None, None]


def test_item_columns() -> None:
    of = served()
    history = of.recommender.items.values[:2].to_list()
    (answer,) = bodies(of, [{"history": history, "k": 60, "item_columns": ["title", "price", "tags"]}])
    features = of.recommender.item_features
    assert features is not None
    known = {row["what"]: row for row in features.iter_rows(named=True)}
    rows = rows_of(answer["results"][0], "title", "price", "tags")
    assert len(rows) == 58
    for item, _, _, title, price, tags in rows:
        row = known.get(item, {"title": None, "price": None, "tags": None})
        assert (title, tags) == (row["title"], row["tags"])
        assert price == (None if row["price"] != row["price"] else row["price"])
    assert any(title is None for *_, title, _, _ in rows)


def test_unknown_users_and_histories() -> None:
    of = served()
    found = bodies(
        of,
        [
            {"user": 999},
            {"user": 999, "fallback": "popularity", "k": 4},
            {"users": [3, 999], "fallback": "popularity", "k": 4},
            {"user": 3, "k": 4},
            {"history": [10**9, 2**70]},
            {"histories": {"x": [1], "y": []}},
            {"history": [1, 999]},
            {"user": 2**70},
        ],
    )
    unknown, popular, both, known, nothing, empty, skipped, huge = found
    for refused, status, part in (
        (unknown, 404, "nothing is known of user 999"),
        (huge, 404, "nothing is known of user 1180591620717411303424"),
        (nothing, 422, "no item that the bundle knows"),
        (empty, 422, 'the history of "y"'),
    ):
        assert isinstance(refused, Refused)
        assert refused.status == status
        assert part in refused.message
        assert '"fallback": "popularity"' in refused.message
    assert rows_of(popular["results"][0]) == wanted(of.recommender, {"user": 999, "fallback": "popularity", "k": 4})[0]
    assert popular["results"][0]["fallback"] is True
    assert [result["fallback"] for result in both["results"]] == [False, True]
    assert both["results"][0]["items"] == known["results"][0]["items"]
    assert both["results"][1]["items"] == popular["results"][0]["items"]
    assert skipped["results"][0]["items"] == bodies(of, [{"history": [1]}])[0]["results"][0]["items"]


def test_what_is_counted() -> None:
    of = served()
    read = of.reader.read
    (answer,) = of.answer([read(b'{"users": [1, 999, 998], "fallback": "popularity"}')])
    assert not isinstance(answer, Exception)
    assert (answer.n_lists, answer.n_unknown_users, answer.n_fallbacks, answer.n_unknown_items) == (3, 2, 2, 0)
    (answer,) = of.answer([read(b'{"histories": {"a": [1, 777, 778], "b": [2]}}')])
    assert not isinstance(answer, Exception)
    assert (answer.n_lists, answer.n_unknown_users, answer.n_fallbacks, answer.n_unknown_items) == (2, 0, 0, 2)
    (answer,) = of.answer([read(b'{"users": [999, 1, 998]}')])
    assert isinstance(answer, Refused)
    assert (answer.n_unknown_users, answer.n_unknown_items) == (2, 0)
    (answer,) = of.answer([read(b'{"histories": {"a": [1, 777], "b": [778]}}')])
    assert isinstance(answer, Refused)
    assert (answer.n_unknown_users, answer.n_unknown_items) == (0, 2)


@pytest.mark.parametrize("kind", [RuntimeError, pl.exceptions.PanicException])
def test_an_error_of_one_request_is_its_own(kind: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    of = served()
    score, model = of.recommender.model.encode_users, of.recommender.model

    def breaks(query: Any) -> Any:
        if 7 in query.users.tolist():
            raise kind("broken")
        return score(query)

    monkeypatch.setattr(model, "encode_users", breaks)
    first, broken, last = of.answer([of.reader.read(json.dumps({"user": user}).encode()) for user in (3, 7, 4)])
    assert isinstance(broken, RuntimeError)
    assert "broken" in str(broken)
    assert not isinstance(first, Exception)
    assert not isinstance(last, Exception)


RULES: list[dict[str, Any]] = [
    {"block": [1, 2, 3], "max_per": {"shop": 2}},
    {"boost": [{"column": "price", "weight": -3.0}], "diversity": {"weight": 0.4, "pool": 20}},
    {"boost": {"price": 2}, "max_per": {"tags": 3}, "allow": list(range(40))},
    {"rerank": {"name": "dpp", "strength": 0.3, "similarity": "co_occurrence", "pool": 20}},
    {"rerank": {"name": "contrastive_search", "strength": 0.4, "history": 2}, "max_per": {"shop": 3}},
    {"block_for": {"5": list(range(0, 30))}, "allow_for": {"6": [1, 50, 51, 52]}},
]


@pytest.mark.parametrize("rules", RULES)
def test_rules(rules: dict[str, Any]) -> None:
    of = served()
    features = of.recommender.item_features
    assert features is not None
    shops = pl.Series("shop", [f"s{n % 7}" for n in range(len(features))])
    of = served(recommender(changed=features.with_columns(shops, pl.col("price").fill_nan(None))))
    requests: list[dict[str, Any]] = [{"user": user, "k": 8} for user in (5, 6, 7)]
    requests += [{"history": [4, 5], "k": 8}, {"user": 999, "fallback": "popularity"}]
    together = bodies(of, [{**request, "rules": rules} for request in requests] + requests)
    for request, answer in zip(requests, together, strict=False):
        expected = wanted(of.recommender, {**request, "rules": rules})
        assert [rows_of(result) for result in answer["results"]] == expected
    assert together[: len(requests)] != together[len(requests) :]


@pytest.mark.parametrize(
    ("rules", "status", "part"),
    [
        (5, 400, "must be an object"),
        ({"max_pr": {}}, 400, "did you mean max_per"),
        ({"boost": {"nope": 1}}, 422, "nope"),
        ({"max_per": {"shop": 0}}, 400, "max_per"),
        ({"max_per": {"shop": 2**64}}, 400, "max_per.shop = 18446744073709551616"),
        ({"block": ["x"]}, 422, "block"),
        ({"allow": [[1], {}]}, 422, "allow"),
        ({"allow_for": {"5": 3}}, 400, "allow_for"),
        ({"block_for": {"x": [3]}}, 422, "block_for"),
        ({"allow": []}, 422, "leave no item"),
        ({"diversity": {"weight": 0.5, "pool": 10**9}}, 400, "must be at most 1000"),
        ({"rerank": {"name": "dpp", "pool": 1001}}, 400, "rerank.pool = 1001 must be at most 1000"),
        ({"rerank": {"name": "contrastive_search", "history": 1001}}, 400, "rerank.history = 1001 must be at most"),
        ({"rerank": "dp"}, 400, "did you mean dpp"),
        ({"rerank": {"name": "mmr", "columns": ["nope"]}}, 422, "rerank.columns: 'nope' is no column"),
        ({"boost": [{"column": "price"}] * 33}, 400, "at most 32"),
    ],
)
def test_wrong_rules(rules: Any, status: int, part: str) -> None:
    of = served()
    try:
        (found,) = bodies(of, [{"user": 5, "rules": rules}])
    except Refused as refused:
        found = refused
    assert isinstance(found, Refused), found
    assert (found.status, found.field) == (status, "rules")
    assert part in found.message


def test_a_reranker_that_would_hold_others_up_is_refused() -> None:
    of, rules = served(), {"rerank": {"name": "dpp", "pool": 1000}}
    (found,) = bodies(of, [{"user": 5, "k": 1000, "rules": rules}])
    assert "takes 1,008,000,000 steps for 1 users and k = 1000" in found.message
    assert (found.status, found.field) == (400, "rules")
    assert len(bodies(of, [{"user": 5, "k": 20, "rules": rules}])) == 1


def test_limits_that_would_hold_others_up_are_refused() -> None:
    of, rules = served(max_per=10_000), {"max_per": {"tags": 2}}
    assert len(bodies(of, [{"user": 5, "k": 3, "rules": rules}])[0]["results"]) == 1
    requests: list[dict[str, Any]] = [{"user": 5, "k": 50}, {"users": [*range(12)], "k": 3}]
    requests += [{"user": 999, "fallback": "popularity", "k": 50}]
    for request in requests:
        (found,) = bodies(of, [{**request, "rules": rules}])
        assert isinstance(found, Refused)
        assert (found.status, found.field) == (400, "rules")
        assert "max_per takes more than 10,000 comparisons" in found.message
        assert len(bodies(of, [{**request, "rules": {"block": [1]}}])[0]["results"]) >= 1
    wanted(of.recommender, {"user": 5, "k": 50, "rules": rules})  # the library takes its time


def test_work_of_similarities_counts() -> None:
    of = served(rerank=2_000)
    by_users = {"rerank": {"name": "mmr", "pool": 10, "similarity": "co_occurrence"}}
    request = {"user": 5, "k": 2, "rules": by_users}
    assert len(bodies(of, [request])) == 1
    (found,) = bodies(of, [{**request, "k": 10}])
    assert isinstance(found, Refused)
    assert "send several requests" in found.message


def test_a_bundle_that_is_replaced_while_it_is_read_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, load, newer = tmp_path / "bundle", Recommender.load, recommender()
    newer.save(folder)
    newer.record["number"] = 2

    def is_overtaken(*given: Any) -> Recommender:
        found = load(*given)
        newer.save(folder)
        return found

    monkeypatch.setattr(Recommender, "load", is_overtaken)
    earlier = Served.load(folder, Limits())
    monkeypatch.undo()
    # a reload takes over where the identity differs
    assert Served.load(folder, Limits()).identity != earlier.identity


@pytest.mark.parametrize("most", [1, 9])
def test_lists_may_be_shorter_than_the_default_length(most: int, tmp_path: Path) -> None:
    made = recommender()
    made.save(tmp_path / "bundle")
    of = Served.load(tmp_path / "bundle", Limits(k=most))
    (found,) = bodies(of, [{"user": 1, "k": most}])
    assert rows_of(found["results"][0]) == wanted(made, {"user": 1, "k": most})[0]
