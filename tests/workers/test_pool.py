"""Pools of worker processes, of this machine and on a Ray cluster: how each worker may end, and that none is left."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pytest
from workers_of_test import workers_of_test

from recgraph.parallel import Engine
from recgraph.workers.pool import Outcome, Pool, Task, WorkerPool
from recgraph.workers.ray_pool import RayPool, workers_on


@dataclass(frozen=True)
class Kind:
    """A kind of pool.

    Attributes:
        pool: of a size, with a deadline.
        left: the workers that still run.
    """

    pool: Callable[..., WorkerPool]
    left: Callable[[], list[int]]


def children_left() -> list[int]:
    return [child.pid for child in psutil.Process().children() if "small_worker" in child.cmdline()]


def workers_left() -> list[int]:
    return [worker.pid for worker in workers_of_test("small_worker")]


@pytest.fixture(params=["local", "ray"])
def kind(request: pytest.FixtureRequest) -> Kind:
    if request.param == "local":
        return Kind(partial(Pool, "small_worker", threads=1), children_left)
    request.getfixturevalue("ray_cluster")
    return Kind(partial(RayPool, Engine(name="ray"), "small_worker", threads=1), workers_left)


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch, own_workers: None) -> None:
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


def task(folder: Path, act: str, seconds: float | None = None) -> Task:
    return Task(act, {"act": act, "mark": str(folder / f"{act}.mark")}, folder / f"{act}.log", seconds)


def test_what_another_process_has_begun_comes_last_and_waits(kind: Kind, tmp_path: Path) -> None:
    ends: list[tuple[str, str]] = []
    looks = {"share": 0}

    def is_free(one: Task) -> bool:
        """Another process begins it behind the first look."""
        looks[one.name] = looks.get(one.name, 0) + 1
        return one.name != "share" or looks["share"] == 1

    def ended(done: Task, outcome: Outcome) -> bool:
        ends.append((done.name, outcome.status))
        return outcome.status == "busy"

    kind.pool(size=1).run([task(tmp_path, "share"), task(tmp_path, "do")], ended, is_free=is_free)
    assert ends == [("share", "busy"), ("do", "done"), ("share", "done")]


def test_every_end_is_reported_and_a_killed_worker_is_started_again(kind: Kind, tmp_path: Path) -> None:
    ends: list[tuple[str, Outcome]] = []

    def ended(done: Task, outcome: Outcome) -> bool:
        ends.append((done.name, outcome))
        return outcome.status == "killed"

    tasks = [task(tmp_path, "do"), task(tmp_path, "fail"), task(tmp_path, "die once"), task(tmp_path, "sleep", 0.1)]
    kind.pool(size=2).run(tasks, ended)
    assert sorted((name, outcome.status) for name, outcome in ends) == [
        ("die once", "done"),
        ("die once", "killed"),
        ("do", "done"),
        ("fail", "failed"),
        ("sleep", "late"),
    ]
    messages = {outcome.status: outcome.message for _, outcome in ends}
    assert messages["failed"] == "ValueError: it cannot be"
    assert "SIGKILL" in messages["killed"]
    assert "it cannot be" in (tmp_path / "fail.log").read_text()


def test_what_runs_at_the_deadline_is_interrupted_and_nothing_more_is_started(kind: Kind, tmp_path: Path) -> None:
    ends: list[str] = []
    pool = kind.pool(size=1, deadline=float("inf"))

    def end() -> None:
        while not (tmp_path / "sleep.mark").exists():
            time.sleep(0.01)
        pool._deadline = time.monotonic()

    threading.Thread(target=end, daemon=True).start()
    pool.run([task(tmp_path, "sleep", 60), task(tmp_path, "do")], lambda _, outcome: bool(ends.append(outcome.status)))
    assert ends == ["interrupted"]
    assert not (tmp_path / "do.log").exists()
    assert not kind.left()


@pytest.mark.parametrize("how", ["Ctrl-C", "error"])
def test_no_worker_is_left(how: str, kind: Kind, tmp_path: Path) -> None:
    mark = tmp_path / "sleep.mark"

    def interrupt() -> None:
        while not mark.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    def ended(_: Task, outcome: Outcome) -> bool:
        raise RuntimeError(outcome.status)

    tasks = [task(tmp_path, "sleep", 60)]
    if how == "Ctrl-C":
        threading.Thread(target=interrupt, daemon=True).start()
    else:
        tasks.append(task(tmp_path, "do"))
    with pytest.raises(KeyboardInterrupt if how == "Ctrl-C" else RuntimeError):
        kind.pool(size=2).run(tasks, ended)
    assert not kind.left()


def test_a_ray_worker_that_is_killed_is_a_worker_that_was_killed(ray_cluster: None, tmp_path: Path) -> None:
    """The process that it had started sees that it is alone, and ends."""
    ends: list[str] = []
    mark = tmp_path / "sleep.mark"

    def kill() -> None:
        while not mark.exists():
            time.sleep(0.01)
        (worker,) = workers_of_test("small_worker")
        worker.parent().kill()

    def ended(done: Task, outcome: Outcome) -> bool:
        ends.append(outcome.status)
        return False

    threading.Thread(target=kill, daemon=True).start()
    RayPool(Engine(name="ray"), "small_worker", 1, threads=1).run([task(tmp_path, "sleep", 60)], ended)
    assert ends == ["killed"]
    until = time.monotonic() + 120
    while workers_left() and time.monotonic() < until:
        time.sleep(0.05)
    assert not workers_left()


def test_the_number_of_workers() -> None:
    assert [workers_on(None, None), workers_on(None, 3), workers_on(Engine(name="ray", workers=2), None)] == [1, 3, 2]
    with pytest.raises(ValueError, match="workers = 0 must be at least 1"):
        workers_on(None, 0)
