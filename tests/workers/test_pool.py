"""A pool of worker processes: how each may end, and that none is left."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from recgraph.workers.pool import Outcome, Pool, Task


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


def task(folder: Path, act: str, seconds: float | None = None) -> Task:
    return Task(act, {"act": act, "mark": str(folder / f"{act}.mark")}, folder / f"{act}.log", seconds)


def test_every_end_is_reported_and_a_killed_worker_is_started_again(tmp_path: Path) -> None:
    ends: list[tuple[str, Outcome]] = []

    def ended(done: Task, outcome: Outcome) -> bool:
        ends.append((done.name, outcome))
        return outcome.status == "killed"

    tasks = [task(tmp_path, "do"), task(tmp_path, "fail"), task(tmp_path, "die once"), task(tmp_path, "sleep", 0.1)]
    Pool("small_worker", 2, threads=1).run(tasks, ended)
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


def test_nothing_is_started_after_the_deadline(tmp_path: Path) -> None:
    ends: list[str] = []
    pool = Pool("small_worker", 1, threads=1, deadline=time.monotonic() + 0.5)
    pool.run([task(tmp_path, "sleep"), task(tmp_path, "do")], lambda _, outcome: bool(ends.append(outcome.status)))
    assert len(ends) == 1
    assert not (tmp_path / "do.log").exists()


@pytest.mark.parametrize("how", ["Ctrl-C", "error"])
def test_no_worker_is_left(how: str, tmp_path: Path) -> None:
    mark = tmp_path / "sleep.mark"

    def interrupt() -> None:
        while not mark.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    def ended(_: Task, outcome: Outcome) -> bool:
        raise RuntimeError(outcome.status)

    tasks = [task(tmp_path, "sleep")]
    if how == "Ctrl-C":
        threading.Thread(target=interrupt, daemon=True).start()
    else:
        tasks.append(task(tmp_path, "do"))
    with pytest.raises(KeyboardInterrupt if how == "Ctrl-C" else RuntimeError):
        Pool("small_worker", 2, threads=1).run(tasks, ended)
    assert not [child for child in psutil.Process().children() if "small_worker" in child.cmdline()]
