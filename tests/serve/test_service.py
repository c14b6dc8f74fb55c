"""The service over HTTP: its answers are the library's, whoever shares a batch; statuses, limits,
figures, reloads.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from refusing import refused
from same_lists import assert_same_list
from small_serving import recommender

from recgraph.data.split import Interactions
from recgraph.models.base import Model, Space
from recgraph.models.closed_form.linear import EASE
from recgraph.models.collaborative.lightgcn import LightGCN
from recgraph.models.sequence.sasrec import HSTU, SASRec
from recgraph.serve.bundle import BundleError
from recgraph.serve.http import Service, make_app
from recgraph.serve.recommender import Recommender
from recgraph.serve.service import Limits, Predictor, RecommendRequest, Result, SimilarRequest

TestClient = pytest.importorskip("starlette.testclient").TestClient
N_USERS = 40


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("service") / "bundle"
    recommender().save(folder)
    return folder


@contextlib.contextmanager
def client(
    path: Path, limits: Limits | None = None, **options: Any
) -> Iterator[tuple[Any, Service]]:
    """A client of a service that runs within the block."""
    service = Service(path, limits, **options)
    with TestClient(make_app(service)) as made:
        yield made, service


def until(true: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def metric(text: str, name: str) -> float:
    return next(
        float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name)
    )


# -- answers


def bodies(of: Predictor, requests: list[dict[str, Any]]) -> list[Any]:
    """The parsed answers to requests that are answered together; errors as they are."""
    jobs = [
        of.prepare(SimilarRequest(**one) if "items" in one else RecommendRequest(**one))
        for one in requests
    ]
    groups: dict[Any, list[int]] = {}
    for place, job in enumerate(jobs):
        groups.setdefault(place if job.key is None else job.key, []).append(place)
    found: dict[int, Any] = {}
    for places in groups.values():
        found |= dict(zip(places, of.respond([jobs[place] for place in places]), strict=True))
    return [
        json.loads(each.body) if isinstance(each, Result) else each
        for _, each in sorted(found.items())
    ]


def wanted(of: Recommender, request: dict[str, Any]) -> list[list[tuple[Any, ...]]]:
    """What the library recommends, for each user or item of a request on its own rows."""
    options = {
        name: value
        for name, value in request.items()
        if name not in ("user", "users", "history", "items")
    }
    if "items" in request:
        return [
            list(of.similar([item], **options)[:, 1:4].iter_rows()) for item in request["items"]
        ]
    if "history" in request:
        options["histories"] = {0: request["history"]}
    elif "histories" not in options:
        options["users"] = request.get("users", [request.get("user")])
    frame = of.recommend(**options)
    labels = [*(options.get("users") or options["histories"])]
    parts = [frame.filter(pl.col(frame.columns[0]) == label) for label in labels]
    return [list(part[:, 1:4].iter_rows()) for part in parts]


def list_of(result: dict[str, Any]) -> list[tuple[Any, float]]:
    return [(row["item"], row["score"]) for row in result["items"]]


def assert_same_answers(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Up to the rounding of the scores, where requests were ranked in other batches."""
    assert found["bundle"] == expected["bundle"]
    for result, other in zip(found["results"], expected["results"], strict=True):
        assert [row["rank"] for row in result["items"]] == [row["rank"] for row in other["items"]]
        assert_same_list(list_of(result), list_of(other))
        assert {**result, "items": None} == {**other, "items": None}


RULES: list[dict[str, Any]] = [
    {"block": [1, 2, 3], "max_per": {"tags": 2}, "boost": [{"column": "price", "weight": -3.0}]},
    {"rerank": {"name": "mmr", "strength": 0.4, "columns": ["tags"]}, "allow": list(range(40))},
    {"rerank": {"name": "dpp", "strength": 0.3, "similarity": "co_occurrence", "pool": 20}},
]


def mixed(n_items: int, ways: list[str | None], n: int = 50) -> list[dict[str, Any]]:
    draw = random.Random(0)
    requests: list[dict[str, Any]] = []
    for number in range(n):
        items = [draw.randrange(n_items) for _ in range(draw.randint(1, 30))]
        kinds: list[dict[str, Any]] = [
            {"user": draw.randrange(N_USERS)},
            {"users": draw.sample(range(N_USERS), 7)},
            {"history": items},
            {"histories": {"a": items, "b": items[:1], "c": [*items, 10**6]}},
            {"items": items[:4], "by": draw.choice(ways)},
        ]
        request = kinds[number % 5]
        if number % 3:
            request["k"] = draw.choice([1, 5, 10, 33, min(n_items, 1000), 1000])
        if number % 5 < 2 and number % 2:
            request["exclude_seen"] = False
        if number % 7 == 0:
            request["block"] = items[:3]
        if number % 11 == 0:
            request["allow"] = draw.sample(range(n_items), n_items // 2)
        if number % 4 == 0 and number % 5 < 4:
            request["rules"] = RULES[number % 3]
        requests.append(request)
    return requests


@pytest.mark.parametrize(
    "make", [lambda: SASRec(hidden_dim=8, max_len=20, time_gaps=True), LightGCN, EASE]
)
@pytest.mark.parametrize("n_items", [60, pytest.param(1500, marks=pytest.mark.slow)])
def test_answers_are_those_of_the_library(make: Callable[[], Model], n_items: int) -> None:
    of = recommender(make, n_items)
    served = Predictor(of, Limits(), "cafe")
    requests = mixed(
        n_items, [None, "co_occurrence", *(["vectors"] if of.model.has_vectors else [])]
    )
    together = bodies(served, requests)
    for request, answer in zip(requests, together, strict=True):
        assert answer["bundle"] == "cafe"
        for result, rows in zip(answer["results"], wanted(of, request), strict=True):
            assert [row["rank"] for row in result["items"]] == [rank for _, _, rank in rows]
            assert_same_list(list_of(result), [(item, score) for item, score, _ in rows])
    with ThreadPoolExecutor(4) as pool:
        alone = list(pool.map(lambda request: bodies(served, [request])[0], requests))
    for answer, other in zip(alone, together, strict=True):
        assert_same_answers(answer, other)


@pytest.mark.parametrize(
    ("make", "written"),
    [
        (lambda n: n + 2**53, lambda n: n + 2**53),
        (lambda n: n / 2 + 0.25, lambda n: n / 2 + 0.25),
        (
            lambda n: datetime.date(2020, 1, 1) + datetime.timedelta(n),
            lambda n: f"{datetime.date(2020, 1, 1 + n)}",
        ),
        (lambda n: b"%d" % n, lambda n: f"{n}"),
    ],
    ids=["int", "float", "date", "bytes"],
)
def test_ids_of_every_type(
    make: Callable[[int], Any], written: Callable[[int], Any], tmp_path: Path
) -> None:
    recommender(user=make, item=make).save(tmp_path / "bundle")
    of = Recommender.load(tmp_path / "bundle")
    assert {type(value) for value in of.recommend(make(4), k=3)["what"]} == {type(make(4))}
    served = Predictor(of, Limits(), "cafe")
    by_user, like = bodies(served, [{"user": written(4), "k": 3}, {"items": [written(4)], "k": 3}])
    found = [entry["item"] for entry in by_user["results"][0]["items"]]
    texts = [
        value.decode() if isinstance(value, bytes) else str(value)
        for value in of.recommend(make(4), k=3)["what"]
    ]
    assert [str(value) for value in found] == texts
    assert (by_user["results"][0]["user"], like["results"][0]["known"]) == (written(4), True)
    # what an answer says can be asked for, and left out
    again, less = bodies(
        served, [{"history": found}, {"user": written(4), "block": found[:1], "k": 3}]
    )
    assert len(again["results"][0]["items"]) == 10
    assert [entry["item"] for entry in less["results"][0]["items"]][:2] == found[1:]


# -- over HTTP


TIMED: list[Callable[[], Model]] = [
    lambda: SASRec(hidden_dim=8, max_len=20, time_gaps=True),
    lambda: HSTU(hidden_dim=8, max_len=20, encoder={"time_bias": True}),
    lambda: SASRec(hidden_dim=8, max_len=20),
]


@pytest.mark.parametrize("make", TIMED)
@pytest.mark.parametrize("dated", [False, True])
def test_histories_with_times(make: Callable[[], Model], dated: bool, tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = [(n // 8, draw.randrange(30), draw.randrange(10**6)) for n in range(160)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    frame = frame.with_columns(pl.from_epoch("time")) if dated else frame
    data = Interactions.from_frame(frame, user="user", item="item", timestamp="time")
    model = make().build(Space(n_users=data.n_users, n_items=data.n_items), seed=1)
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            weights += torch.randn(weights.shape, generator=draws)
    Recommender.for_log(model, data).save(tmp_path / "bundle")
    of = Recommender.load(tmp_path / "bundle")

    def written(time: int) -> Any:
        return datetime.datetime.fromtimestamp(time, datetime.UTC).isoformat() if dated else time

    events = {
        "a": [(3, 900), (4, 100), (5, 5000)],
        "b": [(7, 40)],
        "c": [(999, 60), (2, 50), (1, 60)],
    }
    histories = {label: [item for item, _ in own] for label, own in events.items()}
    times = {label: [written(time) for _, time in own] for label, own in events.items()}
    at = written(20_000)
    given = [(label, item, written(time)) for label, own in events.items() for item, time in own]
    timed = pl.DataFrame(given, schema=["user", "item", "time"], orient="row")
    with client(tmp_path / "bundle") as (http, _):

        def lists(**body: Any) -> list[list[tuple[int, float]]]:
            answer = http.post("/recommend", json={"k": 5, **body})
            assert answer.status_code == 200, answer.text
            return [list_of(result) for result in answer.json()["results"]]

        backwards = dict(reversed(times.items()))
        for when in (None, at):
            together = lists(histories=histories, times=backwards, at=when)
            frame = of.recommend(histories=timed, k=5, at=when)
            for label, own in zip(histories, together, strict=True):
                wanted = frame.filter(user=label).select("item", "score")
                assert_same_list(own, list(wanted.iter_rows()), atol=1e-5)
            (alone,) = lists(history=histories["a"], times=times["a"], at=when)
            assert_same_list(alone, together[0], atol=1e-5)
        (untimed,) = lists(history=[4, 3, 5], at=at)
        is_the_same = untimed == [pytest.approx(row, rel=1e-4, abs=1e-5) for row in together[0]]
        assert is_the_same == (not model.reads_times)
        popular: dict[str, Any] = {"history": [], "fallback": "popularity"}
        assert lists(**popular, times=[]) == lists(**popular)
        schemas = http.get("/openapi.json").json()["components"]["schemas"]
        assert "times" in schemas["RecommendRequest"]["properties"]
        for body in (
            {"history": [1, 2], "times": [written(1)]},
            {"history": [1, 2], "times": {"a": [written(1), written(2)]}},
            {"histories": {"a": [1]}, "times": {"b": [written(1)]}},
            {"histories": {"a": [1]}, "times": [written(1)]},
            {"user": 1, "times": []},
            {"history": [1], "times": [None]},
            {"history": [1], "times": [True]},
            {"history": [1], "times": ["soon"]},
        ):
            answer = http.post("/recommend", json=body)
            assert (answer.status_code, answer.json().get("field")) == (422, "times"), answer.text


def test_every_endpoint(bundle: Path) -> None:
    with client(bundle, Limits(k=20), admin=True) as (http, service):
        answer = http.post(
            "/recommend", json={"user": 3, "k": 4, "item_columns": ["title", "price", "tags"]}
        )
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        frame = service.predictor.recommender.recommend(
            users=[3], k=4, item_columns=["title", "price", "tags"]
        )
        (result,) = answer.json()["results"]
        columns = ["item", "score", "rank", "title", "price", "tags"]
        assert [tuple(entry[name] for name in columns) for entry in result["items"]] == list(
            frame[:, 1:].iter_rows()
        )
        assert result["fallback"] is False
        assert http.post("/recommend", content=b'{"user": 999, "fallback": "popularity"}').json()[
            "results"
        ][0]["fallback"]
        (like, new) = http.post("/similar", json={"items": [3, 999], "k": 2}).json()["results"]
        assert (len(like["items"]), like["known"], new["items"], new["known"]) == (
            2,
            True,
            [],
            False,
        )
        health = http.get("/health").json()
        assert health["bundle"]["id"] == answer.json()["bundle"]
        assert health["bundle"]["item_columns"] == ["what", "title", "price", "tags"]
        assert (health["status"], health["bundle"]["model"], health["limits"]["k"]) == (
            "ok",
            "SASRec",
            20,
        )
        assert http.head("/health").status_code == 200
        assert http.post("/reload").json() == {
            "outcome": "unchanged",
            "bundle": health["bundle"]["id"],
        }
        text = http.get("/metrics").text
        assert metric(text, 'recgraph_requests_total{path="/recommend",status="200"}') == 2
        assert metric(text, "recgraph_unknown_items_total") == 1
        assert metric(text, "recgraph_unknown_users_total") == 1
        assert metric(text, "recgraph_fallbacks_total") == 1
        assert metric(text, "recgraph_batch_users_count") >= 3
        assert metric(text, 'recgraph_reloads_total{outcome="unchanged"}') == 1


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ("{", 422, None),
        ("{}", 422, None),
        ({"user": 1, "history": [1]}, 422, None),
        ({"usr": 1}, 422, "usr"),
        ({"user": "1"}, 422, "user"),
        ({"users": [1, 2, 3, 4]}, 422, "users"),
        ({"user": 1, "k": 51}, 422, "k"),
        ({"user": 1, "rules": {"max_pr": {}}}, 422, "rules"),
        ({"user": 1, "rules": {"rerank": {"name": "dpp", "pool": 51}}}, 422, "rules"),
        ({"users": [1, 999]}, 404, "users"),
        ({"history": [999]}, 422, "history"),
        ({"items": [999]}, 404, "items"),
        ({"items": [1], "allow": [999]}, 422, "allow"),
    ],
    ids=str,
)
def test_what_is_wrong_names_the_field(
    bundle: Path, body: Any, status: int, field: str | None
) -> None:
    with client(bundle, Limits(k=50, users=3)) as (http, _):
        path = "/similar" if "items" in body else "/recommend"
        answer = http.post(path, content=body if isinstance(body, str) else json.dumps(body))
        assert (answer.status_code, answer.json().get("field")) == (status, field), answer.text
        if body in ({"usr": 1}, {"user": "1"}):
            assert ("user" if "usr" in body else "a text") in answer.json()["error"]


def test_bodies_and_paths_are_bounded(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with client(bundle, Limits(body_kib=2)) as (http, service):
        assert http.post("/recommend", content=b" " * 3000).status_code == 413
        # without a declared length
        assert http.post("/recommend", content=iter([b" " * 1500] * 3)).status_code == 413
        for method, path, status in (
            ("GET", "/recommend", 405),
            ("GET", "/nope", 404),
            ("POST", "/reload", 404),
        ):
            answer = http.request(method, path)
            assert answer.status_code == status
            assert path in answer.json()["error"]
        monkeypatch.setattr(service.predictor, "_recommend", lambda _: 1 / 0)
        answer = http.post("/recommend", json={"user": 1})
        assert answer.status_code == 500
        assert "division" not in answer.text
        monkeypatch.undo()
        assert http.post("/recommend", json={"user": 1}).status_code == 200


def test_requests_that_wait_are_ranked_together_and_too_many_are_refused(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    go, answer = threading.Event(), Predictor.respond

    def held(self: Predictor, requests: Any) -> Any:
        sizes.append(len(requests))
        go.wait(60)
        return answer(self, requests)

    with client(bundle, Limits(waiting=8)) as (http, service), ThreadPoolExecutor(16) as pool:
        alone = [http.post("/recommend", json={"user": user}).json() for user in range(9)]
        monkeypatch.setattr(Predictor, "respond", held)
        first = pool.submit(http.post, "/recommend", json={"user": 0})
        until(lambda: sizes == [1])
        rest = [pool.submit(http.post, "/recommend", json={"user": user}) for user in range(1, 9)]
        until(lambda: len(service.queue) == 8)
        refusal = http.post("/recommend", json={"user": 9})
        assert (refusal.status_code, refusal.headers["retry-after"]) == (503, "1")
        go.set()
        for sent, other in zip((first, *rest), alone, strict=True):
            assert_same_answers(sent.result().json(), other)
    assert sizes == [1, 8]


def test_a_new_bundle_takes_over_without_a_lost_request(tmp_path: Path) -> None:
    """By a replaced folder and by a switched link, with requests running all the time."""
    for seed, name in enumerate(("a", "b")):
        recommender(seed=seed + 1).save(tmp_path / name)
    link = tmp_path / "now"
    link.symlink_to("a")
    expected: dict[str, Any] = {}
    stop = threading.Event()

    def ask(http: Any) -> list[tuple[int, dict[str, Any]]]:
        found = []
        while not stop.is_set():
            answer = http.post("/recommend", json={"user": 5})
            found.append((answer.status_code, answer.json()))
        return found

    with client(link, poll_s=0.02) as (http, service), ThreadPoolExecutor(3) as pool:
        running = [pool.submit(ask, http) for _ in range(3)]
        try:
            for number in range(3):
                now = service.predictor.identity
                expected[now] = http.post("/recommend", json={"user": 5}).json()
                if number == 0:
                    (tmp_path / "next").symlink_to("b")
                    (tmp_path / "next").replace(link)
                else:
                    recommender(seed=10 + number).save(link.resolve())
                until(lambda now=now: service.predictor.identity != now)  # type: ignore[misc]
            now = service.predictor.identity
            expected[now] = http.post("/recommend", json={"user": 5}).json()
        finally:
            stop.set()
        found = [row for future in running for row in future.result()]
        assert metric(http.get("/metrics").text, 'recgraph_reloads_total{outcome="loaded"}') == 3
    assert {status for status, _ in found} == {200}
    for _, answer in found:
        assert_same_answers(answer, expected[answer["bundle"]])
    assert len({answer["bundle"] for _, answer in found}) >= 3


def test_a_damaged_bundle_is_refused_and_the_old_one_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    recommender().save(folder)
    with client(folder, poll_s=0.02, admin=True) as (http, service):
        before = http.post("/recommend", json={"user": 5}).json()
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[:-10])
        until(lambda: service.reload_error is not None)
        assert http.post("/recommend", json={"user": 5}).json() == before
        assert "model.safetensors" in http.get("/health").json()["reload_error"]
        answer = http.post("/reload")
        assert (answer.status_code, answer.json()["outcome"]) == (409, "refused")
        with refused("model.safetensors", by=BundleError):
            Service(folder)
        (folder / "model.safetensors").write_bytes(whole)
        until(lambda: service.reload_error is None)
