"""Clients that are slow, wrong or mean: each has its answer or is closed, and the service goes on."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from service_cases import N_USERS, recommender
from starlette.testclient import TestClient

from recgraph.serve.http.app import make_app
from recgraph.serve.http.asked import Asked, Limits
from recgraph.serve.http.served import Served
from recgraph.serve.http.server import bounded, listen
from recgraph.serve.http.service import Options, Service

SECONDS = 0.4


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    recommender(user=str, item=str).save(folder)
    return folder


@pytest.fixture(scope="module")
def port(bundle: Path) -> Iterator[int]:
    """Of a service on a socket, with a short patience."""
    import uvicorn

    service = Service(bundle, Limits(read_s=SECONDS, body_kib=64), Options())
    with listen("127.0.0.1", 0) as listening:
        config = uvicorn.Config(make_app(service), http=bounded(SECONDS), log_config=None, lifespan="on", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join()


def _answer(port: int, data: bytes, drip: bytes = b"") -> bytes:
    """What comes until the service closes; ``drip`` is sent byte by byte meanwhile."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        if drip:
            threading.Thread(target=_drip, args=(client, data, drip)).start()
        else:
            with contextlib.suppress(OSError):
                client.sendall(data)
        got = b""
        with contextlib.suppress(ConnectionError):
            while block := client.recv(1 << 16):
                got += block
        return got


def _drip(client: socket.socket, data: bytes, drip: bytes) -> None:
    with contextlib.suppress(OSError):
        client.sendall(data)
        for _ in range(400):
            client.sendall(drip)
            time.sleep(0.05)


HEAD = b"POST /recommend HTTP/1.1\r\nHost: x\r\n"
BODY = b'{"user": "1", "k": 1}'
WHOLE = HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY


@pytest.mark.parametrize(
    ("data", "drip", "status"),
    [
        (b"", b"", b"408"),
        (HEAD + b"X-a: ", b"", b"408"),
        (HEAD + b"X-a: ", b"a", b"408"),
        (b"\x93\xf0", b"", b"408"),
        (HEAD + b"Content-Length: 20\r\n\r\n{", b"", b"408"),
        (HEAD + b"Content-Length: 2000\r\n\r\n{", b"1", b"408"),
        (HEAD + b"Content-Length: 99999999999999999999\r\n\r\n", b"", b"413"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + (b"4000\r\n" + b"a" * 0x4000 + b"\r\n") * 5, b"", b"413"),
        (HEAD + b"Content-Length: -5\r\n\r\n", b"", b"400"),
        (HEAD + b"Content-Length: 5\r\nContent-Length: 7\r\n\r\n", b"", b"400"),
        (HEAD + b"X: " + b"a" * 1_000_000, b"", b"400"),
        (b"FOO /recommend HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"", b"405"),
    ],
)
def test_each_has_its_answer_and_the_service_goes_on(port: int, data: bytes, drip: bytes, status: bytes) -> None:
    got = _answer(port, data, drip)
    assert got.startswith(b"HTTP/1.1 " + status), got[:200]
    assert b"Traceback" not in got
    assert _answer(port, WHOLE).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("is_declared", [True, False])
def test_a_client_that_sends_all_before_it_reads_is_told_that_it_is_too_much(port: int, is_declared: bool) -> None:
    blocks = [b" " * 0x10000] * 64
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    body = b"".join(blocks) if is_declared else iter(blocks)
    client.request("POST", "/recommend", body)
    answer = client.getresponse()
    assert answer.status == 413
    assert "the body is longer than 64 KiB; send fewer users" in json.loads(answer.read())["error"]
    assert answer.getheader("connection") == "close"
    client.close()
    assert _answer(port, WHOLE).startswith(b"HTTP/1.1 200")


def test_a_second_request_that_does_not_come_whole_is_closed(port: int) -> None:
    first = WHOLE.replace(b"Connection: close\r\n", b"")
    got = _answer(port, first + HEAD + b"X-a: ", b"a")
    assert got.startswith(b"HTTP/1.1 200")
    assert got.count(b"HTTP/1.1 ") == 2
    assert b"HTTP/1.1 408" in got


def test_requests_one_behind_the_other_are_all_answered(port: int) -> None:
    first = WHOLE.replace(b"Connection: close\r\n", b"")
    assert _answer(port, first * 50 + WHOLE).count(b"HTTP/1.1 200") == 51


@contextlib.contextmanager
def _running(folder: Path, limits: Limits) -> Iterator[tuple[Any, int, Service]]:
    """A server whose kernel takes few bytes of an answer, its port, and the service."""
    import uvicorn

    service = Service(folder, limits, Options())
    with listen("127.0.0.1", 0) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 13)
        config = uvicorn.Config(
            make_app(service), http=bounded(limits.read_s), log_config=None, lifespan="on", ws="none"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield server, listening.getsockname()[1], service
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large") / "bundle"
    recommender(n_items=600).save(folder)
    return folder


def _asking(n_users: int, k: int) -> bytes:
    body = json.dumps({"users": [n % N_USERS for n in range(n_users)], "k": k, "exclude_seen": False}).encode()
    return HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def test_a_client_that_reads_slowly_has_its_whole_answer(large: Path) -> None:
    with _running(large, Limits(read_s=SECONDS)) as (_, port, _):
        wanted = _answer(port, _asking(60, 600))
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(_asking(60, 600))
            got, start = b"", time.monotonic()
            while block := client.recv(1 << 15):
                got += block
                time.sleep(0.02)
        assert time.monotonic() - start > 2 * SECONDS
        assert got.partition(b"\r\n\r\n")[2] == wanted.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("size", [(15, 50), (60, 600)], ids=["all is written", "a part is written"])
def test_a_client_that_does_not_read_is_closed(large: Path, size: tuple[int, int]) -> None:
    with _running(large, Limits(read_s=SECONDS)) as (server, port, _), socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
        client.connect(("127.0.0.1", port))
        client.sendall(_asking(*size))
        _until(lambda: server.server_state.total_requests == 1 or size[1] > 50)
        _until(lambda: not server.server_state.connections)


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 15
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def test_requests_of_clients_that_have_gone_are_not_ranked(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, ranked, answer = threading.Event(), [], Served.answer

    def held(self: Served, asked: Sequence[Asked]) -> Any:
        ranked.append(len(asked))
        assert go.wait(20)
        return answer(self, asked)

    with _running(large, Limits()) as (server, port, service), ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(Served, "answer", held)
        first = pool.submit(_answer, port, _asking(1, 1))
        _until(lambda: len(ranked) == 1)
        clients = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(6)]
        for client in clients:
            client.sendall(_asking(1, 1))
        _until(lambda: service.health()["waiting"] == 6)
        for client in clients[1:]:
            client.close()
        _until(lambda: len(server.server_state.connections) == 2)
        go.set()
        assert first.result().startswith(b"HTTP/1.1 200")
        assert clients[0].recv(1 << 16).startswith(b"HTTP/1.1 200")
        clients[0].close()
        _until(lambda: b'path="/recommend",status="499"} 5.0' in service.figures.text()[0])
    assert ranked == [1, 1]


@pytest.mark.parametrize("body", ['{"user": "1", "user": "2"}', '{"histories": {"a": ["1"], "a": ["2"]}}'])
def test_a_field_that_is_given_twice(bundle: Path, body: str) -> None:
    with TestClient(make_app(Service(bundle, Limits(), Options()))) as http:
        got = http.post("/recommend", content=body)
        assert got.status_code == 400
        assert "more than once" in got.json()["error"]


def test_answers_repeat_no_sequences(bundle: Path) -> None:
    odd = "\x1b[31m\x9b2J\u202e<b>"
    with TestClient(make_app(Service(bundle, Limits(), Options()))) as http:
        answers = [
            http.get(f"/{quote(odd)}"),
            http.get(f"/{'a' * 5000}"),
            http.post("/recommend", json={"user": odd}),
            http.post("/recommend", json={odd: 1}),
            http.post("/recommend", json={"user": "1", "item_columns": [odd]}),
            http.post("/recommend", json={"user": "1", "fallback": odd}),
            http.post("/recommend", json={"user": "1", "rules": {odd: odd}}),
            http.post("/recommend", json={"user": "1", "rules": {"max_per": {odd: 1}}}),
        ]
    for got in answers:
        assert 400 <= got.status_code < 500
        assert got.headers["content-type"] == "application/json"
        assert got.text.isprintable(), got.text
        assert len(got.text) < 1500
        assert json.loads(got.text)["error"]


def test_a_refused_bundle_does_not_tell_where_it_lies(tmp_path: Path) -> None:
    recommender(user=str, item=str).save(tmp_path / "bundle")
    service = Service(tmp_path / "bundle", Limits(), Options(admin=True))
    (tmp_path / "bundle" / "model.safetensors").write_bytes(b"\xff" * 40)
    with TestClient(make_app(service)) as http:
        told = http.post("/reload")
        assert told.status_code == 409
        assert "model.safetensors" in told.text
        for text in (told.text, http.get("/health").text):
            assert str(tmp_path) not in text
        users = http.post("/recommend", json={"users": [str(u) for u in range(N_USERS)], "k": 1})
        assert users.status_code == 200
