"""The command ``recgraph serve``, as its users run it: a process, HTTP, signals."""

from __future__ import annotations

import json
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import forked
import pytest
from typer.testing import CliRunner

import recgraph as rg
from recgraph.cli.app import app


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

    def __init__(self, *arguments: object) -> None:
        self.process = forked.module("recgraph", "serve", *arguments, "--port", 0)
        until(lambda: "\n" in self.process.error or self.process.poll() is not None)
        line = self.process.error
        assert "http://127.0.0.1:" in line, line
        self._said = len(line)
        self.url = "http://" + line.split("http://")[1].split(";")[0]

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=120) as answer:
            return str(answer.read().decode())

    def post(self, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), method="POST")
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

    def make(*arguments: object) -> Process:
        started.append(Process(*arguments))
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
    assert [(row["item"], row["score"], row["rank"]) for row in result["items"]] == list(
        wanted.select(item_column, "score", "rank").iter_rows()
    )
    status, answer = service.post("/recommend", usr=user)
    assert (status, answer["field"]) == (422, "usr")
    assert service.post("/recommend", user=10**9)[0] == 404
    assert json.loads(service.get("/health"))["bundle"]["model"] == "SASRec"
    assert 'recgraph_requests_total{path="/recommend",status="200"} 1.0' in service.get("/metrics")
    assert service.post("/reload")[0] == 404
    assert service.stop() == (0, "")


def test_requests_in_flight_are_answered_before_it_stops(run: Path, start: Callable[..., Process]) -> None:
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


def test_a_signal_reads_the_bundle_again(run: Path, start: Callable[..., Process], tmp_path: Path) -> None:
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
