"""``POST /similar``: answers are those of the library, whoever shares a batch."""

from __future__ import annotations

import datetime
import json
import random
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from service_cases import bodies, client, recommender, served

from recgraph.models.base import Model
from recgraph.models.closed_form.linear import EASE
from recgraph.models.collaborative.lightgcn import LightGCN
from recgraph.models.sequence.sasrec import SASRec
from recgraph.serve.http.asked import SIMILAR_FIELDS, Limits
from recgraph.serve.http.errors import Refused
from recgraph.serve.http.writing import Answer
from recgraph.serve.recommender import Recommender

OF = served(k=50, users=3)


def wanted(of: Recommender, request: dict[str, Any]) -> list[list[tuple[Any, ...]]]:
    """What the library finds for each item of a request on its own."""
    options = {name: value for name, value in request.items() if name != "items"}
    return [list(of.similar([item], **options).select("similar", "score", "rank").rows()) for item in request["items"]]


def rows_of(answer: dict[str, Any]) -> list[list[tuple[Any, ...]]]:
    return [[(row["item"], row["score"], row["rank"]) for row in each["items"]] for each in answer["results"]]


def mixed(n_items: int, ways: list[str | None], n: int = 30) -> list[dict[str, Any]]:
    draw = random.Random(0)
    requests: list[dict[str, Any]] = []
    for number in range(n):
        request: dict[str, Any] = {"items": [draw.randrange(n_items) for _ in range(draw.randint(1, 6))]}
        request |= {"by": draw.choice(ways)}
        if number % 3:
            request["k"] = draw.choice([1, 5, 33, 1000])
        if number % 5 == 0:
            request["block"] = draw.sample(range(n_items), 3)
        if number % 7 == 0:
            request["allow"] = draw.sample(range(n_items), n_items // 2)
        requests.append(request)
    return requests


@pytest.mark.parametrize("make", [lambda: SASRec(hidden_dim=8, max_len=20), LightGCN, EASE])
@pytest.mark.parametrize("n_items", [60, 1500])
def test_answers_are_those_of_the_library(make: Callable[[], Model], n_items: int) -> None:
    of = recommender(make, n_items)
    requests = mixed(n_items, [None, "co_occurrence", *(["vectors"] if of.model.has_vectors else [])])
    together = bodies(served(of), requests)
    for request, answer in zip(requests, together, strict=True):
        assert answer["bundle"] == "cafe"
        assert [each["item"] for each in answer["results"]] == request["items"]
        assert all(each["known"] is True for each in answer["results"])
        assert rows_of(answer) == wanted(of, request), request


def test_what_is_asked_beside_does_not_change_an_answer() -> None:
    of = served(recommender(n_items=300))
    requests = mixed(300, ["vectors", "co_occurrence"])
    requests = [
        each for pair in zip(requests, [{"user": n, "k": 3 + n} for n in range(30)], strict=True) for each in pair
    ]
    together = bodies(of, requests)
    assert together == [bodies(of, [request])[0] for request in requests]
    fresh = served(of.recommender)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda request: bodies(fresh, [request])[0], requests)) == together


@pytest.mark.parametrize(
    ("make", "written"),
    [
        (lambda n: f"id-{n:03d}", lambda n: f"id-{n:03d}"),
        (lambda n: uuid.UUID(int=n), lambda n: str(uuid.UUID(int=n)).upper()),
        (lambda n: datetime.date(2020, 1, 1) + datetime.timedelta(n), lambda n: f"{datetime.date(2020, 1, 1 + n)}"),
    ],
    ids=["text", "uuid", "date"],
)
@pytest.mark.parametrize("by", ["vectors", "co_occurrence"])
def test_ids_of_other_types(make: Callable[[int], Any], written: Callable[[int], Any], by: str) -> None:
    of = served(recommender(item=make))
    request = {"items": [written(4)], "k": 3, "by": by}
    (answer,) = bodies(of, [request])
    frame = of.recommender.similar([make(4)], k=3, by=by)  # type: ignore[arg-type]
    found = [entry["item"] for entry in answer["results"][0]["items"]]
    assert found == [str(value) for value in frame["similar"]]
    # what an answer says can be asked for, and left out
    (again,) = bodies(of, [{**request, "block": found[:1]}])
    assert [entry["item"] for entry in again["results"][0]["items"]][:2] == found[1:]


def test_item_columns() -> None:
    (answer,) = bodies(OF, [{"items": [3], "k": 50, "item_columns": ["title", "price", "tags"]}])
    features = OF.recommender.item_features
    assert features is not None
    known = {row["what"]: row for row in features.iter_rows(named=True)}
    for entry in answer["results"][0]["items"]:
        assert entry["title"] == known.get(entry["item"], {"title": None})["title"]


def test_unknown_items_are_told_and_counted() -> None:
    read = OF.reader.read_similar
    (answer,) = OF.answer([read(b'{"items": [999, 3, 1180591620717411303424], "k": 4, "block": [998]}')])
    assert isinstance(answer, Answer)
    assert (answer.n_lists, answer.n_unknown_items, answer.n_unknown_users, answer.n_fallbacks) == (3, 2, 0, 0)
    results = json.loads(answer.body)["results"]
    assert [each["known"] for each in results] == [False, True, False]
    assert [len(each["items"]) for each in results] == [0, 4, 0]
    for by in ("vectors", "co_occurrence"):
        (refused,) = OF.answer([read(json.dumps({"items": [999, 998], "by": by}).encode())])
        assert isinstance(refused, Refused)
        assert (refused.status, refused.field, refused.n_unknown_items) == (404, "items", 2)
        assert "nothing is known of item 999; take one of the bundle's 60 items, such as" in refused.message


@pytest.mark.parametrize(
    ("body", "status", "field", "part"),
    [
        ({}, 400, "items", 'give items, such as {"items": ['),
        ({"item": 1}, 400, "item", 'did you mean "items"'),
        ({"user": 1}, 400, "user", '"user" is no field'),
        ({"items": 1}, 400, "items", "items = 1 must be a list of item ids"),
        ({"items": []}, 400, "items", "items is empty"),
        ({"items": [1, 2, 3, 4]}, 400, "items", "has 4 entries, at most 3"),
        ({"items": [1, "2"]}, 400, "items[1]", "write 2"),
        ({"items": [1], "k": 51}, 400, "k", "from 1 to 50"),
        ({"items": [1], "k": None}, 400, "k", "k = null must be an integer"),
        ({"items": [1], "by": "cosine"}, 400, "by", 'by = "cosine" must be "vectors", "co_occurrence" or null'),
        ({"items": [1], "by": []}, 400, "by", "by = [] must be"),
        ({"items": [1], "block": 3}, 400, "block", "block = 3 must be a list of item ids"),
        ({"items": [1], "allow": ["3"]}, 400, "allow[0]", "write 3"),
        ({"items": [1], "allow": []}, 422, "allow", "leave no item"),
        ({"items": [1], "allow": [999]}, 422, "allow", "leave no item"),
        ({"items": [1], "block": [*range(60)]}, 422, "block", "leave no item"),
        ({"items": [1], "item_columns": ["nope"]}, 400, "item_columns", "is no column of the item features"),
        ({"items": [1], "item_columns": ["item"]}, 400, "item_columns", "is no column"),
        (5, 400, None, 'send an object such as {"items": [1]}'),
    ],
)
def test_refused(body: Any, status: int, field: str | None, part: str) -> None:
    found: Any
    try:
        (found,) = OF.answer([OF.reader.read_similar(json.dumps(body).encode())])
    except Refused as refused:
        found = refused
    assert isinstance(found, Refused), found
    assert (found.status, found.field) == (status, field)
    assert part in found.message


def test_a_model_without_vectors_compares_by_users() -> None:
    of = served(recommender(EASE))
    assert of.reader.read_similar(b'{"items": [1]}').by == "co_occurrence"
    with pytest.raises(Refused, match="by: EASE ranks by scores alone") as caught:
        of.reader.read_similar(b'{"items": [1], "by": "vectors"}')
    assert (caught.value.status, caught.value.field) == (422, "by")


def test_items_of_very_many_users_are_not_counted() -> None:
    of = served(pairs=600)
    (found,) = bodies(of, [{"items": [*range(20)], "by": "co_occurrence"}])
    assert isinstance(found, Refused)
    assert (found.status, found.field) == (400, "items")
    assert 'at most 600 are counted; send several requests, or "by": "vectors"' in found.message
    (fine,) = bodies(of, [{"items": [*range(20)], "by": "vectors"}])
    assert len(fine["results"]) == 20


ANY = (
    st.none()
    | st.booleans()
    | st.integers(-3, 70)
    | st.floats()
    | st.text(max_size=5)
    | st.lists(st.integers(), max_size=4)
)
REQUESTS = st.dictionaries(st.sampled_from([*SIMILAR_FIELDS, "x"]), ANY, max_size=4) | st.fixed_dictionaries(
    {"items": st.lists(st.integers(-3, 70), min_size=1, max_size=3)},
    optional={
        "k": st.integers(-1, 70),
        "by": st.sampled_from(["vectors", "co_occurrence", None, "x"]),
        "allow": st.lists(st.integers(-1, 70), max_size=5),
        "block": st.lists(st.integers(0, 70), max_size=70),
        "item_columns": st.lists(st.sampled_from(["title", "price", "tags", "what", "score"]), max_size=3),
    },
)


@settings(max_examples=150)
@given(st.one_of(REQUESTS.map(lambda body: json.dumps(body).encode()), st.binary(max_size=40)))
def test_any_body_is_answered_or_refused(body: bytes) -> None:
    answer: Answer | Exception
    try:
        (answer,) = OF.answer([OF.reader.read_similar(body)])
    except Refused as refused:
        answer = refused
    if isinstance(answer, Refused):
        assert 400 <= answer.status < 500
        json.dumps(answer.to_dict()).encode()
    else:
        assert isinstance(answer, Answer), repr(answer)
        assert len(json.loads(answer.body)["results"]) == answer.n_lists


def metric(text: str, name: str) -> float:
    return next(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


def test_over_http(tmp_path: Path) -> None:
    recommender().save(tmp_path / "bundle")
    with client(tmp_path / "bundle", Limits(body_kib=2)) as (http, service):
        answer = http.post("/similar", json={"items": [3, 999], "k": 4, "item_columns": ["title"]})
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert rows_of(answer.json())[:1] == wanted(service.shelf.served.recommender, {"items": [3], "k": 4})
        assert answer.json()["results"][0]["items"][0]["title"].startswith("Ünit")
        assert http.post("/similar", json={"items": [999]}).status_code == 404
        assert http.post("/similar", json={"itms": [1]}).json()["error"].endswith('did you mean "items"?')
        assert http.post("/similar", content=b" " * 3000).status_code == 413
        assert "POST /recommend, POST /similar" in http.get("/similar").json()["error"]
        text = http.get("/metrics").text
        assert metric(text, 'recgraph_requests_total{path="/similar",status="200"}') == 1
        assert metric(text, 'recgraph_requests_total{path="/similar",status="404"}') == 1
        assert metric(text, 'recgraph_request_seconds_count{path="/similar"}') == 5
        assert metric(text, "recgraph_unknown_items_total") == 2
        assert metric(text, "recgraph_batch_users_sum") == 3
        described = http.get("/openapi.json").json()["paths"]["/similar"]["post"]
        assert set(described["requestBody"]["content"]["application/json"]["schema"]["properties"]) == {*SIMILAR_FIELDS}


def test_a_new_bundle_takes_over_while_it_answers(tmp_path: Path) -> None:
    folder, stop = tmp_path / "bundle", threading.Event()
    request = {"items": [5, 6], "k": 3}
    recommender(seed=1).save(folder)
    with client(folder, admin=True, poll_s=60) as (http, service), ThreadPoolExecutor(2) as pool:

        def ask() -> list[tuple[int, str, Any]]:
            found = []
            while not stop.is_set():
                answer = http.post("/similar", json=request)
                found.append((answer.status_code, answer.json()["bundle"], rows_of(answer.json())))
            return found

        running = [pool.submit(ask) for _ in range(2)]
        expected = {}
        try:
            for seed in (2, 3, 4):
                now = service.shelf.served
                expected[now.identity] = wanted(now.recommender, request)
                http.post("/similar", json=request)
                recommender(seed=seed).save(folder)
                assert http.post("/reload").json()["outcome"] == "loaded"
            now = service.shelf.served
            expected[now.identity] = wanted(now.recommender, request)
        finally:
            stop.set()
        found = [row for future in running for row in future.result()]
    assert found
    assert {status for status, *_ in found} == {200}
    assert all(rows == expected[identity] for _, identity, rows in found)
    assert len(set(map(str, expected.values()))) == 4
