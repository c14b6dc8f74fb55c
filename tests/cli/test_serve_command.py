"""The command ``recgraph serve``, as its users run it: a process, HTTP, signals."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import forked
import polars as pl
import pytest
from typer.testing import CliRunner

import recgraph as rg
from recgraph.cli.app import app
from recgraph.serve.bundle import bundle_of, digest


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained run."""
    out = tmp_path_factory.mktemp("runs") / "sasrec"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECGRAPH_HOME", str(tmp_path_factory.mktemp("home")))
        settings = ["--set", "hidden_dim=16", "--set", "max_epochs=1", "--set", "batch_size=128"]
        command = ["train", "sasrec", "--dataset", "synthetic", "--out", str(out), *settings]
        done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    return out


class Process:
    """A service in a process of its own."""

    def __init__(self, *arguments: object, program: str = "recgraph") -> None:
        self.process = forked.module(program, "serve", *arguments, "--port", 0)
        until(lambda: "\n" in self.process.error or self.process.poll() is not None)
        line = self.process.error
        assert "http://127.0.0.1:" in line, line
        self._said = len(line)
        self.url = "http://" + line.split("http://")[1].split(";")[0]

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=120) as answer:
            return str(answer.read().decode())

    def raw(self, text: str) -> str:
        """The answer to a request as it is sent, until the service closes the connection."""
        with self.connect() as there:
            there.sendall(text.replace("\n", "\r\n").encode())
            return b"".join(iter(lambda: there.recv(65536), b"")).decode()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", int(self.url.rsplit(":", 1)[1])), timeout=60)

    def post(
        self, path: str, headers: dict[str, str] | None = None, **body: Any
    ) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), headers or {}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """-> (exit code, what else it wrote to stderr)."""
        self.process.send_signal(number)
        return self.process.wait(), self.process.error[self._said :]


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def make(*arguments: object, program: str = "recgraph") -> Process:
        started.append(Process(*arguments, program=program))
        return started[-1]

    yield make
    for one in started:
        with one.process:
            pass


def until(true: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_from_a_run_to_recommendations(run: Path, start: Callable[..., Process]) -> None:
    service = start(run)
    recommender = rg.load(run)
    assert isinstance(recommender, rg.serve.recommender.Recommender)
    user = recommender.users.values[7]
    status, answer = service.post("/recommend", user=user, k=5)
    assert status == 200
    (result,) = answer["results"]
    wanted = recommender.recommend(users=[user], k=5)
    user_column, item_column = wanted.columns[:2]
    assert result["user"] == user == wanted[user_column][0]
    served = pl.DataFrame(result["items"])
    assert served["item"].to_list() == wanted[item_column].to_list()
    assert served["rank"].to_list() == wanted["rank"].to_list()
    # another process may have other threads, and so other last bits
    assert served["score"].to_list() == pytest.approx(wanted["score"].to_list(), rel=1e-5, abs=1e-6)
    status, answer = service.post("/recommend", usr=user)
    assert (status, answer["field"]) == (422, "usr")
    assert service.post("/recommend", user=10**9)[0] == 404
    assert json.loads(service.get("/health"))["bundle"]["model"] == "SASRec"
    assert 'recgraph_requests_total{path="/recommend",status="200"} 1.0' in service.get("/metrics")
    assert service.post("/reload")[0] == 404
    assert service.stop() == (0, "")


@pytest.mark.parametrize("served", ["run", "bundle"])
def test_an_update_takes_the_place_of_what_is_served(
    run: Path, tmp_path: Path, start: Callable[..., Process], served: str
) -> None:
    place, lines = tmp_path / "served", [f"1,{item},{10**10}" for item in range(200, 209)]
    shutil.copytree(run if served == "run" else run / "bundle", place)
    (tmp_path / "new.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]) + "\n")
    service = start(place, "--poll", 0.05)

    def bundle() -> str:
        return str(json.loads(service.get("/health"))["bundle"]["id"])

    seen = [bundle()]
    for _ in range(2):
        command = [
            "update",
            place,
            "--data",
            tmp_path / "new.csv",
            "--replace",
            "--epochs",
            1,
            "--force",
        ]
        done = CliRunner().invoke(app, [*map(str, command)])
        assert done.exit_code == 0, done.output
        until(lambda: bundle() not in seen)
        seen.append(bundle())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "new.csv",
        "served",
        "served-before",
    ]
    assert digest(bundle_of(place))[:12] == seen[2]
    assert digest(bundle_of(tmp_path / "served-before"))[:12] == seen[1]
    status, said = service.stop()
    assert (status, said.count(seen[0]), said.count(seen[1]), said.count(seen[2])) == (0, 1, 2, 1)


def test_requests_in_flight_are_answered_before_it_stops(
    run: Path, start: Callable[..., Process]
) -> None:
    service = start(run, "--max-users", 4096, "--max-body-kib", 4096)
    users = rg.load(run).users.values.to_list()

    def ask(number: int) -> tuple[int, int]:
        status, answer = service.post("/recommend", users=users * 4, k=50 + number)
        return status, len(answer["results"])

    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(ask, number) for number in range(3)]
        until(lambda: "recgraph_waiting" in service.get("/metrics"))
        time.sleep(0.05)
        ended = pool.submit(service.stop)
        for one in asked:
            assert one.result() == (200, 4 * len(users))
    assert ended.result()[0] == 0


def test_a_signal_reads_the_bundle_again(
    run: Path, start: Callable[..., Process], tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    recommender = rg.load(run)
    recommender.save(bundle)
    service = start(bundle, "--poll", 3600, "--admin")
    before = json.loads(service.get("/health"))["bundle"]["id"]
    recommender.record = {"made": "again"}
    recommender.save(bundle)
    service.process.send_signal(signal.SIGHUP)
    until(lambda: json.loads(service.get("/health"))["bundle"]["id"] != before)
    assert service.post("/reload")[1]["outcome"] == "unchanged"
    assert service.stop(signal.SIGINT)[0] == 0


def test_it_says_that_newest_events_were_held_out(
    run: Path, start: Callable[..., Process], tmp_path: Path
) -> None:
    service = start(run)
    assert "--refit" in service.process.error
    assert "--refit" in json.loads(service.get("/health"))["bundle"]["held_out"]
    of_all = ["recommend", run, "--all", "--out", tmp_path / "all.csv"]
    export = ["export", run, "--out", tmp_path / "export"]
    for command in (["recommend", run, "--user", "7"], of_all, ["vectors", run], export):
        done = CliRunner().invoke(app, list(map(str, command)))
        assert (done.exit_code, done.stderr.count("--refit")) == (0, 1), done.output
    whole = rg.load(run)
    whole.record["fitted_on"] = "all"
    whole.save(tmp_path / "whole")
    done = CliRunner().invoke(app, ["recommend", str(tmp_path / "whole"), "--user", "7"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert json.loads(start(tmp_path / "whole").get("/health"))["bundle"]["held_out"] is None


def test_only_requests_with_a_key_are_answered(
    run: Path, start: Callable[..., Process], tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("")
    assert CliRunner().invoke(app, ["serve", str(run), "--api-key-file", str(keys)]).exit_code != 0
    keys.write_text("first\nsecond\n")
    service = start(run, "--api-key-file", keys, "--admin")
    service.get("/health")
    for headers in (
        {},
        {"X-API-Key": "third"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic first"},
    ):
        assert service.post("/recommend", headers, user=7)[0] == 401
        assert service.post("/reload", headers)[0] == 401
    for headers in ({"X-API-Key": "second"}, {"Authorization": "bearer first"}):
        assert service.post("/recommend", headers, user=7)[0] == 200
    with pytest.raises(urllib.error.HTTPError):
        service.get("/metrics")


def test_a_request_with_two_lengths_is_refused(run: Path, start: Callable[..., Process]) -> None:
    service = start(run)
    lengths = "Content-Length: 11\nTransfer-Encoding: chunked\n"
    answer = service.raw(
        f'POST /recommend HTTP/1.1\nHost: here\n{lengths}\nb\n{{"user": 7}}\n0\n\n'
    )
    assert answer.startswith("HTTP/1.1 400")
    assert service.post("/recommend", user=7)[0] == 200


_FEW_FILES = """
import resource, runpy
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
runpy.run_module("recgraph", run_name="__main__")
"""


def test_half_open_connections_stop_nothing(
    run: Path, start: Callable[..., Process], tmp_path: Path
) -> None:
    """1,300 clients that never end their request, of a service that may have 1,024 files."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 2048:
        pytest.skip("this process may not open as many files")
    (tmp_path / "few.py").write_text(_FEW_FILES)
    heads = (
        "GET /hea",
        "POST /recommend HTTP/1.1\r\nHost: here\r\nContent-Length: 99\r\n\r\n{",
        "",
    )
    service = start(run, program=str(tmp_path / "few.py"))
    with contextlib.ExitStack() as opened:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 2048), limits[1]))
        opened.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        for number in range(1300):
            there = opened.enter_context(service.connect())
            with contextlib.suppress(OSError):  # it gave way
                there.sendall(heads[number % 3].encode())
        began = time.monotonic()
        for _ in range(20):
            assert json.loads(service.get("/health"))["status"] == "ok"
        assert service.post("/recommend", user=7)[0] == 200
        assert time.monotonic() - began < 8  # bodies that never come are refused after 10 s
    assert service.stop() == (0, "")


def test_busy_connections_are_bounded(run: Path, start: Callable[..., Process]) -> None:
    service = start(run, "--limit-concurrency", 2)
    with service.connect() as first, service.connect() as second, service.connect():
        first.settimeout(10)
        assert first.recv(1) == b""  # the oldest that waits gives way
        second.sendall(b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n")
        assert second.recv(12) == b"HTTP/1.1 200"
