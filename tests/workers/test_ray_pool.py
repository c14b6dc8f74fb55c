"""Worker processes on a Ray cluster end in the same ways as those of this machine."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
from test_pool import task

from recgraph.workers.engines import Ray
from recgraph.workers.pool import Outcome, Task
from recgraph.workers.ray_pool import RayPool, workers_on


@pytest.fixture(autouse=True)
def _cluster(ray_cluster: None) -> None:
    pass


def workers_left() -> list[str]:
    return [
        each.info["cmdline"][-1]
        for each in psutil.process_iter(["cmdline"])
        if each.info["cmdline"] and each.info["cmdline"][-1] == "small_worker" and each.status() != "zombie"
    ]


def test_every_end_is_reported_and_a_killed_worker_is_started_again(tmp_path: Path) -> None:
    ends: list[tuple[str, Outcome]] = []

    def ended(done: Task, outcome: Outcome) -> bool:
        ends.append((done.name, outcome))
        return outcome.status == "killed"

    tasks = [task(tmp_path, "do"), task(tmp_path, "fail"), task(tmp_path, "die once"), task(tmp_path, "sleep", 0.1)]
    RayPool(Ray(), "small_worker", 2, threads=1).run(tasks, ended)
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


def test_a_ray_worker_that_is_killed_is_a_worker_that_was_killed(tmp_path: Path) -> None:
    """Its process sees that it is alone and ends; the task is begun again."""
    ends: list[str] = []
    mark = tmp_path / "sleep.mark"

    def kill() -> None:
        while not mark.exists():
            time.sleep(0.01)
        (worker,) = (each for each in psutil.process_iter(["cmdline"]) if each.info["cmdline"][-1:] == ["small_worker"])
        worker.parent().kill()

    def ended(done: Task, outcome: Outcome) -> bool:
        ends.append(outcome.status)
        return False

    threading.Thread(target=kill, daemon=True).start()
    RayPool(Ray(), "small_worker", 1, threads=1).run([task(tmp_path, "sleep", 60)], ended)
    assert ends == ["killed"]
    until = time.monotonic() + 10
    while workers_left() and time.monotonic() < until:
        time.sleep(0.05)
    assert not workers_left()


def test_what_runs_at_the_deadline_is_interrupted_and_nothing_more_is_started(tmp_path: Path) -> None:
    ends: list[str] = []

    def ended(_: Task, outcome: Outcome) -> bool:
        ends.append(outcome.status)
        return False

    pool = RayPool(Ray(), "small_worker", 1, threads=1, deadline=time.monotonic() + 3)
    pool.run([task(tmp_path, "sleep", 60), task(tmp_path, "do")], ended)
    assert ends == ["interrupted"]
    assert not (tmp_path / "do.log").exists()
    assert not workers_left()


@pytest.mark.parametrize("how", ["Ctrl-C", "error"])
def test_no_worker_is_left(how: str, tmp_path: Path) -> None:
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
        RayPool(Ray(), "small_worker", 2, threads=1).run(tasks, ended)
    assert not workers_left()


def test_the_number_of_workers() -> None:
    assert [workers_on(None, None), workers_on(None, 3), workers_on(Ray(), None), workers_on(Ray(), 1)] == [1, 3, 2, 1]
    with pytest.raises(ValueError, match="workers = 0 must be at least 1"):
        workers_on(None, 0)
