"""Clients that are slow, wrong or mean: each has its answer or is closed, and the service goes on."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from service_cases import N_USERS, recommender
from starlette.testclient import TestClient

from recgraph.serve.http.app import make_app
from recgraph.serve.http.asked import Limits
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


def test_a_second_request_that_does_not_come_whole_is_closed(port: int) -> None:
    first = WHOLE.replace(b"Connection: close\r\n", b"")
    got = _answer(port, first + HEAD + b"X-a: ", b"a")
    assert got.startswith(b"HTTP/1.1 200")
    assert got.count(b"HTTP/1.1 ") == 2
    assert b"HTTP/1.1 408" in got


def test_requests_one_behind_the_other_are_all_answered(port: int) -> None:
    first = WHOLE.replace(b"Connection: close\r\n", b"")
    assert _answer(port, first * 50 + WHOLE).count(b"HTTP/1.1 200") == 51


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
