"""The load test of the service: its traffic, its client against a small server, and the whole of it for a moment."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from own_thread import in_own_thread

from experiments.bench import serve
from recgraph.data.interactions import Interactions
from recgraph.models.base import Space
from recgraph.models.sequence.sasrec import SASRec
from recgraph.serve.recommender import Recommender


def test_traffic() -> None:
    requests = list(islice(serve.traffic([1, 2, 3], [[4, 5], [6]], 0.1, seed=0), 2000))
    kinds = Counter(request.kind for request in requests)
    bad = sum(n for kind, n in kinds.items() if kind not in ("user", "history"))
    assert 150 < bad < 250
    assert abs(kinds["user"] - kinds["history"]) < 150
    assert {request.status for request in requests if request.kind in ("user", "history")} == {200}
    again = islice(serve.traffic([1, 2, 3], [[4, 5], [6]], 0.1, seed=0), 2000)
    assert list(again) == requests


def test_traffic_for_similar_items() -> None:
    requests = list(islice(serve.similar_traffic(["a", "b"], 0.2, seed=0), 500))
    good = [request for request in requests if request.kind == "item"]
    assert 350 < len(good) < 450
    assert {request.status for request in good} == {200}
    assert all(request.content.startswith(b"POST /similar HTTP/1.1") for request in requests)
    assert len({request.kind for request in requests}) == 5


def test_percentile() -> None:
    assert serve.percentile([float(n) for n in range(1, 101)], 0.5) == 51
    assert serve.percentile([float(n) for n in range(1, 101)], 0.99) == 100
    assert serve.percentile([3.0], 0.99) == 3


def test_latency_counts_from_when_a_request_was_due() -> None:
    """A server that answers one request at a time, slower than they come: they wait, and that is measured."""

    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().split(b"content-length:")[1].split()[0]))
                async with one_by_one:
                    await asyncio.sleep(0.02)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        writer.close()

    async def run() -> serve.Load:
        server = await asyncio.start_server(answers, serve.HOST, 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            requests = serve.traffic([1], [[1]], 0.0, seed=0)
            return await serve.load(port, requests, rate=200, seconds=0.5, seed=0)

    one_by_one = asyncio.Lock()
    made = in_own_thread(asyncio.run, run())
    assert made.statuses == {200: len(made.milliseconds)}
    assert made.wrong == []
    assert min(made.milliseconds) >= 20
    assert max(made.milliseconds) > 500  # about 100 requests of 20 ms each came within half a second


def test_the_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [(u, i) for u in range(60) for i in torch.randperm(80, generator=generator)[:9].tolist()]
    import polars as pl

    log = Interactions.from_frame(pl.DataFrame(rows, schema=["user", "item"], orient="row"), user="user", item="item")
    model = SASRec(hidden_dim=8, max_len=10).build(Space(n_users=log.n_users, n_items=log.n_items), 0)
    Recommender.for_log(model, log).save(tmp_path / "bundle")
    options = ["--rate", "40", "--seconds", "1.5", "--warmup", "0.2", "--repeats", "1", "--bad", "0.3"]
    out = tmp_path / "serve.jsonl"
    assert in_own_thread(serve.main, ["--bundle", str(tmp_path / "bundle"), *options, "--out", str(out)]) == 0
    lines = [json.loads(text) for text in out.read_text().splitlines()]
    assert [line["path"] for line in lines] == ["/recommend", "/similar"]
    for line in lines:
        assert line["wrong"] == 0
        assert line["requests"] > 20
        assert line["equal_to_library"] == 50
        assert set(line["statuses"]) == {"200", "422", "404"}
        assert line["p50_ms"] <= line["p90_ms"] <= line["p99_ms"] <= line["max_ms"]
        assert line["first_ms"] > 0
    assert not lines[0]["goal"]["met"]  # of 300 a second
    assert "goal" not in lines[1]
    printed = capsys.readouterr().out
    assert all(f"{path}: " in printed for path in ("/recommend", "/similar"))
    assert printed.count("requests a second (asked for 40)") == 2
