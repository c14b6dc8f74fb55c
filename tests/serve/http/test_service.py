"""The service over HTTP: statuses, limits, figures, reloads and many requests at once."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import threading
import time
import unittest.mock
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from service_cases import client, recommender, served

from recgraph.serve.bundle import BundleError
from recgraph.serve.http.asked import FIELDS, Limits
from recgraph.serve.http.batching import Batcher
from recgraph.serve.http.served import Served
from recgraph.serve.http.server import listen, run
from recgraph.serve.http.service import Options, Service
from recgraph.serve.http.writing import Answer


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("service") / "bundle"
    recommender().save(folder)
    return folder


def until(true: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def metric(text: str, name: str) -> float:
    return next(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


def test_recommend(bundle: Path) -> None:
    with client(bundle) as (http, service):
        answer = http.post("/recommend", json={"user": 3, "k": 4, "item_columns": ["title"]})
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        made = answer.json()
        frame = service.shelf.served.recommender.recommend(users=[3], k=4)
        assert [entry["item"] for entry in made["results"][0]["items"]] == frame["what"].to_list()
        assert [entry["score"] for entry in made["results"][0]["items"]] == frame["score"].to_list()
        assert made["results"][0]["items"][0]["title"].startswith("Ünit")
        assert made["bundle"] == http.get("/health").json()["bundle"]["id"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "part"),
    [
        ("POST", "/recommend", b"{", 400, "the body is no JSON"),
        ("POST", "/recommend", b'{"usr": 1}', 400, "did you mean"),
        ("POST", "/recommend", b'{"user": 999}', 404, "nothing is known of user 999"),
        ("POST", "/recommend", b'{"history": [999]}', 422, "fallback"),
        ("POST", "/recommend", b'{"user": 1, "allow": []}', 422, "leave no item"),
        ("POST", "/recommend", b" " * 3000, 413, "longer than 2 KiB"),
        ("GET", "/recommend", b"", 405, "there are POST /recommend"),
        ("GET", "/nope", b"", 404, "there are POST /recommend"),
        ("POST", "/recommend/", b'{"user": 1}', 404, "there are POST /recommend"),
        ("POST", "/reload", b"", 404, "there are"),
    ],
)
def test_wrong_requests(bundle: Path, method: str, path: str, body: bytes, status: int, part: str) -> None:
    with client(bundle, Limits(body_kib=2)) as (http, _):
        answer = http.request(method, path, content=body)
        assert answer.status_code == status
        assert part in answer.json()["error"]
        assert "Traceback" not in answer.text


def test_a_body_without_a_declared_length_is_cut_off(bundle: Path) -> None:
    with client(bundle, Limits(body_kib=2)) as (http, _):
        answer = http.post("/recommend", content=iter([b" " * 1500] * 3))
        assert answer.status_code == 413


@pytest.mark.parametrize("kind", [RuntimeError, pl.exceptions.PanicException])
def test_an_error_of_the_service_shows_no_traceback(
    kind: type[BaseException], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client(bundle) as (http, service):

        def breaks(*_: Any) -> Any:
            raise kind("secret")

        monkeypatch.setattr(service.shelf.served, "_look_up", breaks)
        answer = http.post("/recommend", json={"user": 1})
        assert answer.status_code == 500
        assert answer.json() == {"error": "the service failed; its log says why"}
        monkeypatch.undo()
        assert http.post("/recommend", json={"user": 1}).status_code == 200


class Panic(BaseException):
    """Of a library whose errors are no exceptions."""


def test_a_thread_goes_on_after_a_batch_that_fails() -> None:
    of = served()
    asked = of.reader.read(b'{"user": 3, "k": 2}')

    async def ask(*batches: Any) -> list[Any]:
        batcher = Batcher(1, 9, lambda *_: None)
        found = []
        for fails in batches:
            several = [batcher.ask(fails or of, asked) for _ in range(2)]
            found += await asyncio.wait_for(asyncio.gather(*several, return_exceptions=True), 20)
        await batcher.close()
        return found

    broken = SimpleNamespace(answer=unittest.mock.Mock(side_effect=Panic("no exception")))
    short = SimpleNamespace(answer=lambda _: [])
    with ThreadPoolExecutor(1) as pool:  # other tests may keep a loop in this thread
        found = pool.submit(asyncio.run, ask(broken, None, short, None)).result()
    assert [f"{type(each).__name__}: {each}" for each in found[:2]] == ["RuntimeError: Panic: no exception"] * 2
    assert [type(each) for each in found[2:]] == [Answer, Answer, ValueError, ValueError, Answer, Answer]


def test_figures(bundle: Path) -> None:
    with client(bundle) as (http, _):
        bodies: list[dict[str, Any]] = [{"user": 1}, {"user": 999}, {"history": [1, 2, 777]}, {}]
        bodies += [{"user": 999, "fallback": "popularity"}, {"users": [1, 998, 999]}, {"history": [777, 778]}]
        for body in bodies:
            http.post("/recommend", json=body)
        text = http.get("/metrics").text
        assert metric(text, 'recgraph_requests_total{path="/recommend",status="200"}') == 3
        assert metric(text, 'recgraph_requests_total{path="/recommend",status="404"}') == 2
        assert metric(text, 'recgraph_requests_total{path="/recommend",status="400"}') == 1
        assert metric(text, 'recgraph_requests_total{path="/recommend",status="422"}') == 1
        assert metric(text, 'recgraph_request_seconds_count{path="/recommend"}') == 7
        assert metric(text, "recgraph_unknown_items_total") == 3
        assert metric(text, "recgraph_unknown_users_total") == 4
        assert metric(text, "recgraph_fallbacks_total") == 1
        assert metric(text, "recgraph_batch_users_count") >= 3
        assert metric(text, 'recgraph_reloads_total{outcome="loaded"}') == 0


def test_health_and_description(bundle: Path) -> None:
    with client(bundle) as (http, _):
        health = http.get("/health").json()
        assert health["status"] == "ok"
        assert health["bundle"] | {"id": ""} == {
            "id": "",
            "model": "SASRec",
            "users": 40,
            "items": 60,
            "user_ids": "integers",
            "item_ids": "integers",
            "item_columns": ["what", "title", "price", "tags"],
        }
        described = http.get("/openapi.json").json()
        schema = described["paths"]["/recommend"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert set(schema["properties"]) == {*FIELDS}
        assert http.head("/health").status_code == 200
        assert http.head("/metrics").status_code == 405


def test_the_description_says_what_is_taken_and_told(bundle: Path) -> None:
    with client(bundle, Limits(k=20, users=3, history=7), admin=True) as (http, _):
        paths = http.get("/openapi.json").json()["paths"]
        asked, similar = (
            paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
            for path in ("/recommend", "/similar")
        )
        fields = asked["properties"]
        assert (fields["k"]["maximum"], fields["k"]["default"]) == (20, 10)
        assert (fields["users"]["maxItems"], fields["history"]["maxItems"]) == (3, 7)
        assert fields["histories"]["additionalProperties"] == fields["history"]
        assert all("items" in of for of in fields.values() if "array" in of.get("type", ()))
        assert similar["required"] == ["items"]
        nothing = {"allow": None, "block": None, "rules": None, "item_columns": None, "fallback": None}
        answer = http.post("/recommend", json={"user": 1, **nothing})
        assert answer.status_code == 200
        assert all("null" in fields[name]["type"] for name in nothing if name != "fallback")
        told = paths["/recommend"]["post"]["responses"]
        assert set(told) == {"200", "400", "404", "408", "413", "422", "500", "503"}
        lists = told["200"]["content"]["application/json"]["schema"]
        assert set(answer.json()) == {*lists["properties"]}
        (result,), of_result = answer.json()["results"], lists["properties"]["results"]["items"]
        assert set(result) == {*of_result["properties"]}
        assert set(result["items"][0]) == {*of_result["properties"]["items"]["items"]["properties"]}
        error = told["400"]["content"]["application/json"]["schema"]["properties"]
        assert set(http.post("/recommend", json={"user": 1, "k": 21}).json()) == {*error}
        assert set(paths["/reload"]["post"]["responses"]) == {"200", "409"}
        for path in ("/health", "/metrics"):
            (kind,) = paths[path]["get"]["responses"]["200"]["content"]
            assert http.get(path).headers["content-type"].partition(";")[0] == kind


def test_requests_that_wait_are_ranked_together(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    answer = Served.answer

    with client(bundle) as (http, service), ThreadPoolExecutor(16) as pool:
        alone = [http.post("/recommend", json={"user": user}).json() for user in range(16)]

        def slow(self: Served, asked: Any) -> Any:
            """The first ones take until all others wait."""
            sizes.append(len(asked))
            until(lambda: sum(sizes) + service._n_waiting() == 16)
            return answer(self, asked)

        monkeypatch.setattr(Served, "answer", slow)
        together = list(pool.map(lambda user: http.post("/recommend", json={"user": user}).json(), range(16)))
        assert together == alone
    assert max(sizes) > 4
    assert sum(sizes) == 16


def test_too_many_waiting(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    answer = Served.answer

    def held(self: Served, asked: Any) -> Any:
        go.wait(20)
        return answer(self, asked)

    with client(bundle, Limits(waiting=2)) as (http, service), ThreadPoolExecutor(4) as pool:
        monkeypatch.setattr(Served, "answer", held)
        timer = threading.Timer(20, go.set)
        timer.start()
        first = pool.submit(http.post, "/recommend", json={"user": 1})
        until(lambda: service._batcher is not None and not service._batcher.n_waiting and _begun(service._batcher))
        rest = [pool.submit(http.post, "/recommend", json={"user": user}) for user in (2, 3)]
        until(lambda: service._batcher is not None and service._batcher.n_waiting == 2)
        refused = http.post("/recommend", json={"user": 4})
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert "2 requests are waiting" in refused.json()["error"]
        timer.cancel()
        go.set()
        assert [sent.result().status_code for sent in (first, *rest)] == [200] * 3


def _begun(batcher: Batcher) -> bool:
    return batcher._pool._work_queue.empty() and bool(batcher._pool._threads)


def replace(bundle: Path, seed: int) -> None:
    recommender(seed=seed).save(bundle)


def test_a_new_bundle_takes_over_without_a_lost_request(tmp_path: Path) -> None:
    """By a replaced folder and by a switched link, with requests running all the time."""
    folders = [tmp_path / name for name in ("a", "b")]
    for seed, folder in enumerate(folders):
        replace(folder, seed + 1)
    link = tmp_path / "now"
    link.symlink_to("a")
    expected: dict[str, Any] = {}
    stop = threading.Event()

    def ask(http: Any) -> list[tuple[int, str, Any]]:
        found = []
        while not stop.is_set():
            answer = http.post("/recommend", json={"user": 5})
            found.append((answer.status_code, answer.json()["bundle"], answer.json()["results"]))
        return found

    with client(link, poll_s=0.02) as (http, service), ThreadPoolExecutor(3) as pool:
        running = [pool.submit(ask, http) for _ in range(3)]
        try:
            for number in range(4):
                now = service.shelf.served.identity
                expected[now] = http.post("/recommend", json={"user": 5}).json()["results"]
                if number % 2 == 0:
                    (tmp_path / "next").symlink_to("b" if number == 0 else "a")
                    (tmp_path / "next").replace(link)
                else:
                    replace(link.resolve(), 10 + number)
                until(lambda now=now: service.shelf.served.identity != now)
            expected[service.shelf.served.identity] = http.post("/recommend", json={"user": 5}).json()["results"]
        finally:
            stop.set()
        found = [row for future in running for row in future.result()]
        text = http.get("/metrics").text
    assert len(found) > 20
    assert {status for status, *_ in found} == {200}
    assert all(results == expected[identity] for _, identity, results in found)
    assert len({identity for _, identity, _ in found}) >= 3
    assert metric(text, 'recgraph_reloads_total{outcome="loaded"}') == 4


def test_a_damaged_bundle_is_refused_and_the_old_one_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    replace(folder, 1)
    with client(folder, poll_s=0.02, admin=True) as (http, service):
        before = http.post("/recommend", json={"user": 5}).json()
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[:-10])
        until(lambda: service.shelf.last_error is not None)
        assert http.post("/recommend", json={"user": 5}).json() == before
        assert "model.safetensors is damaged" in http.get("/health").json()["reload_error"]
        answer = http.post("/reload")
        assert (answer.status_code, answer.json()["outcome"]) == (409, "refused")
        refused = metric(http.get("/metrics").text, 'recgraph_reloads_total{outcome="refused"}')
        time.sleep(0.2)  # the same damage is not tried again and again
        assert metric(http.get("/metrics").text, 'recgraph_reloads_total{outcome="refused"}') == refused
        (folder / "model.safetensors").write_bytes(whole)
        until(lambda: service.shelf.last_error is None)
        assert http.post("/reload").json()["outcome"] == "unchanged"
        shutil.rmtree(folder)
        time.sleep(0.2)
        assert http.post("/recommend", json={"user": 5}).json() == before
        replace(folder, 2)
        until(lambda: http.post("/recommend", json={"user": 5}).json()["bundle"] != before["bundle"])


def test_what_cannot_be_served(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no bundle"), client(tmp_path):
        pass


def test_requests_of_a_bundle_with_other_ids_meanwhile(tmp_path: Path) -> None:
    """A request is read and answered by one bundle, though another takes over in between."""
    folder = tmp_path / "bundle"
    replace(folder, 1)
    with client(folder, admin=True, poll_s=60) as (http, _):
        assert http.post("/recommend", json={"user": 5}).status_code == 200
        recommender(user=lambda n: f"u{n}").save(folder)
        assert http.post("/reload").json()["outcome"] == "loaded"
        answer = http.post("/recommend", json={"user": 5})
        assert answer.status_code == 400
        assert "are texts" in json.loads(answer.text)["error"]
        assert http.post("/recommend", json={"user": "u5"}).status_code == 200


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client"])
def test_without_the_extra(package: str, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"pip install 'recgraph\[api\]'"), listen("127.0.0.1", 0) as listening:
        run(Service(bundle, Limits(), Options()), listening, ready=lambda: None)
