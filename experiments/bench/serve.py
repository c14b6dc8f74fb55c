"""Requests a second and their latency: ``python -m experiments.bench.serve [--bundle FOLDER]
[--rate 300]``.

``recgraph serve`` runs in a process of its own on 127.0.0.1; this one sends requests at a fixed
rate, with gaps as of independent callers (exponential), whether or not earlier ones are answered: a
latency counts from the moment at which a request was due. A tenth of them is wrong on purpose. Each
answer's status is checked, and some answers of ``POST /recommend`` against ``Recommender``. Server
and client share ``--cores`` cores. Without ``--bundle`` a SASRec (width 64) is trained for one
epoch on Amazon Beauty, which is enough for its speed. A JSON object a repetition, then a line for
people; everything is bounded in count and time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.bench import report
from experiments.bench.__main__ import BEAUTY
from experiments.bench.harness import ROOT, child_environment, machine

HOST = "127.0.0.1"
PATH = "/recommend"
GOAL = {"rate": 300.0, "p99_ms": 40.0}
#: connections, at most; a request that finds none free waits, and that counts
CONNECTIONS = 64
MOST_REQUESTS, MOST_SECONDS = 200_000, 300.0
_CHECKED = 50


@dataclass(frozen=True)
class Request:
    """A request, and the status that its answer must have."""

    kind: str
    content: bytes
    status: int


@dataclass
class Load:
    """What was measured: milliseconds from the moment when each request was due, and what went
    wrong.
    """

    milliseconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Connection(asyncio.Protocol):
    """One persistent connection; it sends a request and waits for the whole answer."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        lines = bytes(self._buffer[:head]).lower().split(b"\r\n")
        length = next(
            int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")
        )
        if len(self._buffer) >= head + 4 + length and self._answer is not None:
            body = bytes(self._buffer[head + 4 : head + 4 + length])
            del self._buffer[: head + 4 + length]
            answer, self._answer = self._answer, None
            answer.set_result((int(lines[0].split()[1]), body))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(
                error or ConnectionResetError("the service closed the connection")
            )

    async def send(self, content: bytes) -> tuple[int, bytes]:
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(content)
        return await self._answer

    def close(self) -> None:
        self._transport.close()


def post(body: bytes) -> bytes:
    """The bytes of a request."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


Drawn = tuple[str, Callable[[], bytes], int]


def traffic(
    users: list[Any], histories: list[list[Any]], share_bad: float, seed: int
) -> Iterator[Request]:
    """Endless requests for recommendations: half for users, half for histories, some of them
    wrong.
    """
    draw = random.Random(seed)
    good: tuple[Drawn, ...] = (
        ("user", lambda: json.dumps({"user": draw.choice(users), "k": 10}).encode(), 200),
        ("history", lambda: json.dumps({"history": draw.choice(histories), "k": 10}).encode(), 200),
    )
    bad: tuple[Drawn, ...] = (
        ("no JSON", lambda: b'{"user": ', 422),
        ("unknown field", lambda: json.dumps({"usr": draw.choice(users)}).encode(), 422),
        ("unknown user", lambda: json.dumps({"user": _unknown(users)}).encode(), 404),
        ("wrong type", lambda: json.dumps({"history": [[1]]}).encode(), 422),
        ("k out of range", lambda: json.dumps({"user": draw.choice(users), "k": 0}).encode(), 422),
    )
    while True:
        kind, body, status = draw.choice(bad if draw.random() < share_bad else good)
        yield Request(kind, post(body()), status)


def _unknown(known: list[Any]) -> Any:
    return 10**12 if isinstance(known[0], int) else "nobody"


async def load(
    port: int, requests: Iterator[Request], rate: float, seconds: float, seed: int
) -> Load:
    """Send requests at a rate, whether or not earlier ones are answered."""
    loop, draw, made = asyncio.get_running_loop(), random.Random(seed), Load()
    free: deque[Connection] = deque()
    gate = asyncio.Semaphore(CONNECTIONS)

    async def one(request: Request, due: float) -> None:
        async with gate:
            connection = (
                free.popleft()
                if free
                else (await loop.create_connection(Connection, HOST, port))[1]
            )
            try:
                status, body = await asyncio.wait_for(connection.send(request.content), 10)
            except (OSError, TimeoutError) as error:
                made.wrong.append(f"{request.kind}: {type(error).__name__} {error}")
                connection.close()
                return
            made.milliseconds.append(1000 * (loop.time() - due))
            made.statuses[status] += 1
            if status != request.status:
                made.wrong.append(f"{request.kind}: {status}, not {request.status}: {body[:200]!r}")
            free.append(connection)

    start = due = loop.time()
    running: set[asyncio.Task[None]] = set()
    while due - start < seconds and len(made.milliseconds) < MOST_REQUESTS:
        if due > loop.time():
            await asyncio.sleep(due - loop.time())
        task = loop.create_task(one(next(requests), due))
        running.add(task)
        task.add_done_callback(running.discard)
        due += draw.expovariate(rate)
    await asyncio.gather(*running)
    made.seconds = loop.time() - start
    for connection in free:
        connection.close()
    await asyncio.sleep(0.05)  # until they are closed
    return made


@contextlib.contextmanager
def server(bundle: Path) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """``recgraph serve`` on a free port of the loopback."""
    environment = child_environment(os.environ, 1)
    environment["PYTHONPATH"] = str(ROOT)
    command = [
        sys.executable,
        "-m",
        "recgraph",
        "serve",
        str(bundle),
        "--host",
        HOST,
        "--port",
        "0",
    ]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        first = process.stderr.readline()
        if "http://" not in first:
            raise RuntimeError(f"the service did not start: {first}{process.stderr.read()}")
        yield int(first.split("http://")[1].split(";")[0].rsplit(":", 1)[1]), process
    finally:
        process.terminate()
        process.wait(60)
        assert process.stderr is not None
        process.stderr.close()


def train(folder: Path) -> Path:
    """A bundle of the right size."""
    import recgraph as rg

    file = Path(os.environ.get("RECGRAPH_SHARED", "../shared")) / BEAUTY
    if not file.exists():
        raise SystemExit(f"no data at {file}; set RECGRAPH_SHARED, or give --bundle")
    split = rg.load_data(file, format="sequences").split("leave-one-out")
    run = rg.fit(rg.models.SASRec(hidden_dim=64), split, max_epochs=1, patience=None, seed=0)
    run.save(folder / "bundle")
    return folder / "bundle"


def check(port: int, recommender: Any, users: list[Any], histories: list[list[Any]]) -> int:
    """Compare some answers with the library's -> how many."""
    for place in range(_CHECKED):
        if place % 2:
            request: dict[str, Any] = {"user": users[place]}
            wanted = recommender.recommend(users=[users[place]])
        else:
            request, wanted = (
                {"history": histories[place]},
                recommender.recommend(histories={0: histories[place]}),
            )
        entries = answer_of(port, request)["results"][0]["items"]
        found = [(entry["item"], entry["score"]) for entry in entries]
        columns = wanted.get_columns()
        if found != list(zip(columns[1].to_list(), columns[2].to_list(), strict=True)):
            raise SystemExit(f"{request}: the service answers {found}, the library\n{wanted}")
    return _CHECKED


def answer_of(port: int, request: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request."""
    import urllib.request

    with urllib.request.urlopen(
        f"http://{HOST}:{port}{PATH}", json.dumps(request).encode(), 10
    ) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def cpu_seconds(pid: int) -> float:
    """CPU time of a process."""
    import psutil

    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def percentile(values: list[float], share: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def measure(bundle: Path, chosen: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One line a repetition."""
    import torch

    from recgraph.serve.recommender import Recommender

    recommender = Recommender.load(bundle)
    recommender.kind = "polars"
    users = recommender.users.values.to_list()[:5000]
    rows = [recommender.seen.row(index).tolist() for index in range(len(users))]
    histories = [recommender.items.ids(row).to_list() for row in rows]
    with server(bundle) as (port, process):
        start = time.perf_counter()
        answer_of(port, {"user": users[0]})
        first_ms = round(1000 * (time.perf_counter() - start), 2)
        checked = check(port, recommender, users, histories)
        requests = traffic(users, histories, chosen.bad, seed=0)
        asyncio.run(load(port, requests, chosen.rate, chosen.warmup, seed=1))
        for repeat in range(chosen.repeats):
            busy, before, own = os.getloadavg()[0], cpu_seconds(process.pid), time.process_time()
            made = asyncio.run(load(port, requests, chosen.rate, chosen.seconds, seed=2 + repeat))
            times = made.milliseconds
            line = {
                "bench": "serve",
                "path": PATH,
                "model": type(recommender.model).__name__,
                "items": len(recommender.items),
                "width": recommender.model.config.hidden_dim
                if hasattr(recommender.model.config, "hidden_dim")
                else None,
                "asked_rate": chosen.rate,
                "rate": round(len(times) / made.seconds, 1),
                **{
                    f"p{share}_ms": round(percentile(times, share / 100), 2)
                    for share in (50, 90, 99)
                },
                "max_ms": round(max(times), 2),
                "first_ms": first_ms,
                "mean_ms": round(statistics.fmean(times), 2),
                "requests": len(times),
                "statuses": {str(status): n for status, n in sorted(made.statuses.items())},
                "wrong": len(made.wrong),
                "equal_to_library": checked,
                "share_bad": chosen.bad,
                "seconds": round(made.seconds, 2),
                "cpu_share": {
                    "server": round((cpu_seconds(process.pid) - before) / made.seconds, 3),
                    "client": round((time.process_time() - own) / made.seconds, 3),
                },
                "cores": len(os.sched_getaffinity(0)),
                "load_before": round(busy, 2),
                # "rr": before all other processes of the machine, where it was not quiet
                "scheduling": {os.SCHED_OTHER: "other", os.SCHED_RR: "rr"}.get(
                    os.sched_getscheduler(0), "another"
                ),
                "machine": machine(),
                "versions": {"python": platform.python_version(), "torch": torch.__version__},
                "goal": {**GOAL, "met": _met(made, times, chosen.rate)},
            }
            for text in made.wrong[:5]:
                print(text, file=sys.stderr)
            yield line


def _met(made: Load, times: list[float], asked: float) -> bool:
    kept = len(times) / made.seconds >= 0.95 * asked and asked >= GOAL["rate"]
    return kept and not made.wrong and percentile(times, 0.99) <= GOAL["p99_ms"]


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench.serve", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--bundle", type=Path, help="to be served; by default one is trained")
    parser.add_argument("--rate", type=float, default=GOAL["rate"], help="requests a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each repetition")
    parser.add_argument("--warmup", type=float, default=3.0, help="seconds before the first")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bad", type=float, default=0.1, help="share of wrong requests")
    parser.add_argument("--cores", type=int, default=2, help="that server and client share")
    parser.add_argument("--out", type=Path, help="also write the JSON lines to this file")
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 unless a repetition meets the goal"
    )
    chosen = parser.parse_args(argv)
    if (
        not 0 < chosen.seconds <= MOST_SECONDS
        or not 0 < chosen.rate <= 10_000
        or not 0 <= chosen.bad <= 1
    ):
        parser.error(f"--seconds up to {MOST_SECONDS:g}, --rate up to 10000, --bad from 0 to 1")
    return chosen


def main(argv: list[str] | None = None) -> int:
    chosen = arguments(argv)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: chosen.cores])
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for line in measure(chosen.bundle or train(Path(folder)), chosen):
            lines.append(line)
            print(json.dumps(line), flush=True)
            if chosen.out is not None:
                report.write(lines, chosen.out)
    for line in lines:
        print(
            f"{line['path']}: {line['rate']:.0f} requests a second (asked for {line['asked_rate']:.0f}): "
            f"p50 {line['p50_ms']:.1f} ms, p99 {line['p99_ms']:.1f} ms, the first one {line['first_ms']:.0f} ms; "
            f"{line['wrong']} wrong answers; load before {line['load_before']}"
        )
    return 1 if chosen.check and not any(line["goal"]["met"] for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
