"""One recommender in many processes and tasks: the same answers, or an error at once that says what to do."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from own_thread import in_own_thread

from recgraph.data.interactions import Interactions
from recgraph.models.base import Space
from recgraph.models.closed_form.linear import EASE
from recgraph.models.collaborative.lightgcn import BPRMF
from recgraph.serve.recommender import Recommender

N_USERS, N_ITEMS = 30, 40
#: long enough for a busy machine; a process that hangs takes all of it
SECONDS = 300


def log() -> Interactions:
    draw = torch.Generator().manual_seed(0)
    rows = [{"u": user, "i": int(i)} for user in range(N_USERS) for i in torch.randperm(N_ITEMS, generator=draw)[:9]]
    return Interactions.from_frame(pl.DataFrame(rows), user="u", item="i")


def recommender() -> Recommender:
    data = log()
    model = BPRMF(hidden_dim=8).build(Space(n_users=data.n_users, n_items=data.n_items), seed=0)
    return Recommender.for_log(model, data)


def ask(served: Recommender, user: int) -> list[int]:
    items: list[int] = served.recommend(users=[user], k=5)["i"].to_list()
    return items


def in_fork(call: Callable[[], object]) -> str:
    """What a call gives in a forked child, or its error; a child that hangs is killed, and that is an error."""
    context = multiprocessing.get_context("fork")
    given, taken = context.Pipe(duplex=False)

    def run() -> None:
        try:
            taken.send(f"{call()}")
        except BaseException as error:
            taken.send(f"{type(error).__name__}: {error}")

    child = context.Process(target=run)
    child.start()
    try:
        assert given.poll(SECONDS), "the child hangs"
        found: str = given.recv()
        return found
    finally:
        child.kill()
        child.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("what", ["recommend", "stream", "item_vectors", "user_vectors", "load"])
def test_a_forked_process_is_refused_with_the_way_out(what: str, tmp_path: Path) -> None:
    served = recommender()
    served.save(tmp_path / "bundle")
    calls: dict[str, Callable[[], Any]] = {
        "recommend": lambda: ask(served, 3),
        "stream": lambda: next(served.stream()),
        "item_vectors": served.item_vectors,
        "user_vectors": served.user_vectors,
        "load": lambda: Recommender.load(tmp_path / "bundle"),
    }
    ask(served, 3)
    said = in_fork(calls[what])
    assert said.startswith("ForkedProcess: process "), said
    assert f"was forked from process {os.getpid()}" in said
    assert "--preload" in said
    assert 'get_context("spawn")' in said
    assert len(ask(served, 3)) == 5, "the parent goes on"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_fork_before_anything_was_read_serves() -> None:
    """As of a server that imports the library, forks its workers, and loads in each."""
    code = (
        "import os, sys\n"
        f"sys.path[:0] = {[os.fspath(folder) for folder in Path(__file__).parents[:2]]!r}\n"
        "import test_processes as own\n"
        "expected = own.in_fork(lambda: own.ask(own.recommender(), 3))\n"
        "print(expected)\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(ask(recommender(), 3))


def test_a_spawned_process_gives_the_same_answers() -> None:
    served = recommender()
    expected = [ask(served, user) for user in range(4)]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(ask, [served] * 4, range(4), timeout=SECONDS))
    assert found == expected


def test_tasks_of_an_event_loop_get_the_same_answers_while_it_is_refreshed() -> None:
    served = recommender()
    expected = [ask(served, user) for user in range(N_USERS)]

    async def all_of_them() -> tuple[list[list[int]], list[list[int]]]:
        threads = [asyncio.to_thread(ask, served, user) for user in range(N_USERS)]
        threads.insert(N_USERS // 2, asyncio.to_thread(served.refresh))  # type: ignore[arg-type]
        found = await asyncio.gather(*threads)
        del found[N_USERS // 2]
        return found, [ask(served, user) for user in range(N_USERS)]

    in_threads, directly = in_own_thread(asyncio.run, all_of_them())
    assert in_threads == expected
    assert directly == expected


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
@pytest.mark.parametrize("kind", ["vectors", "scores"])
def test_memory_does_not_grow_over_many_calls(kind: str) -> None:
    """100,000 users asked for one at a time: the last 90,000 calls take no more than 8 MiB, 0.1 KiB each."""
    served = recommender()
    if kind == "scores":
        data = log()
        space = Space(n_users=data.n_users, n_items=data.n_items)
        served = Recommender.for_log(EASE().build(space).fit(data.split("leave-one-out").train), data)
    sizes = []
    for number in range(100_000):
        ask(served, number % N_USERS)
        if number % 10_000 == 9_999:
            sizes.append(resident_mib())
    print(f"{kind}: " + " ".join(f"{size:.1f}" for size in sizes))
    assert sizes[-1] - sizes[0] < 8, sizes
