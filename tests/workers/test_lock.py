"""One process at a time trains into a folder."""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import recgraph as rg
from recgraph.data.interactions import Interactions
from recgraph.data.split import Split
from recgraph.models.base import Space
from recgraph.models.closed_form.neighbours import Popularity
from recgraph.models.sequence.sasrec import SASRec
from recgraph.ranks import is_first
from recgraph.runs.record import RunRecord
from recgraph.train.callbacks import Observer
from recgraph.workers.lock import LOCK, FolderInUse, hold

# locks the folder, and a fork of it that lives on; then it waits to be killed
HOLDER = """
import os, sys, time
from pathlib import Path
from recgraph.workers.lock import hold
with hold(Path(sys.argv[1])):
    child = os.fork()
    if child == 0:
        os.close(1)
        time.sleep(600)
    print(child, flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def split() -> Split:
    rows = [(user, (user + step) % 9, step) for user in range(12) for step in range(6)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    return Interactions.from_frame(frame, user="user", item="item", timestamp="time").split("leave-one-out")


SETTINGS: dict[str, Any] = {"hidden_dim": 8, "n_heads": 1, "n_layers": 1}


def fitted(split: Split, out: Path, model: SASRec | None = None, **more: Any) -> Any:
    return rg.fit(
        model or SASRec(**SETTINGS), split, **{"seed": 0, "out": out, "device": "cpu", "max_epochs": 2} | more
    )


def test_a_fit_is_refused_while_another_has_begun_in_its_folder(split: Split, tmp_path: Path) -> None:
    refused: list[str] = []

    class Meets(SASRec):
        """While it is built, another fit into its folder begins."""

        def _build(self, space: Space) -> None:
            super()._build(space)
            with pytest.raises(FolderInUse) as error:
                fitted(split, tmp_path / "run", seed=1)
            refused.append(str(error.value))

    run = fitted(split, tmp_path / "run", Meets(**SETTINGS))
    (message,) = set(refused)
    for part in (f"{tmp_path / 'run'} is in use", f"process {os.getpid()} on {platform.node()}", "another folder"):
        assert part in message
    assert RunRecord.read(tmp_path / "run").seed == 0
    assert run.record == RunRecord.read(tmp_path / "run")
    assert not (tmp_path / "run" / LOCK).exists()


@pytest.mark.parametrize("resume", [False, True])
def test_a_fit_is_refused_while_another_trains_or_resumes(split: Split, tmp_path: Path, resume: bool) -> None:
    class Meets(Observer):
        met = 0

        def end_epoch(self, row: Any) -> None:
            with pytest.raises(FolderInUse):
                fitted(split, tmp_path / "run", resume=resume)
            self.met += 1

    class Stops(Observer):
        def start_epoch(self, epoch: int, n_batches: int, done: int) -> None:
            if epoch == 1:
                raise MemoryError

    with pytest.raises(MemoryError):
        fitted(split, tmp_path / "run", observers=(Stops(),))
    meets = Meets()
    fitted(split, tmp_path / "run", resume=True, observers=(meets,))
    assert meets.met == 1
    assert len(fitted(split, tmp_path / "run", resume=True).history) == 2


def test_a_finished_run_is_given_back_although_its_folder_is_locked(split: Split, tmp_path: Path) -> None:
    fitted(split, tmp_path / "run")
    with hold(tmp_path / "run"):
        assert len(fitted(split, tmp_path / "run", resume=True).history) == 2


@pytest.mark.parametrize("content", ["", "not JSON", json.dumps({"host": "elsewhere", "pid": 1, "started": "7"})])
def test_a_file_without_a_lock_on_it_says_nothing(split: Split, tmp_path: Path, content: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).write_text(content)
    fitted(split, tmp_path / "run")


def test_only_the_first_of_the_processes_of_one_training_locks(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recgraph.runs.fitting import FitOptions, new_record, run_folder
    from recgraph.train.config import TrainConfig

    model, options = SASRec(), FitOptions(TrainConfig(), 0, tmp_path / "run")
    record = new_record(model, options, "train", {})
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("RANK", "0")
    with run_folder(model, options, record) as is_done:
        assert not is_done
        with pytest.raises(FolderInUse), run_folder(model, options, record):
            pass
        monkeypatch.setenv("LOCAL_RANK", "1")
        monkeypatch.setenv("RANK", "1")
        with run_folder(model, options, record) as is_done:
            assert not is_done
    assert not (tmp_path / "run").exists()


def launched(monkeypatch: pytest.MonkeyPatch, local: int, rank: int) -> None:
    monkeypatch.setenv("LOCAL_RANK", str(local))
    monkeypatch.setenv("RANK", str(rank))


def test_a_launcher_need_not_say_which_process_of_its_machine_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is told by rank and number, which connect the processes."""
    assert is_first()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        assert is_first() == (rank == 0)


@pytest.mark.parametrize(("local", "rank", "writes"), [(0, 0, True), (1, 1, False), (0, 2, False)])
def test_the_first_of_the_processes_of_one_training_writes(
    split: Split, tmp_path: Path, local: int, rank: int, writes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third is the first of a second machine."""
    run = fitted(split, tmp_path / "run")
    (tmp_path / "run" / "record.json").unlink()
    shutil.rmtree(tmp_path / "run" / "bundle")
    launched(monkeypatch, local, rank)
    run.keep()
    assert len(run.recommend(users=[0], k=2)) > 0  # from the model in memory
    run.evaluate("valid", cutoffs=(2,))
    assert (tmp_path / "run" / "record.json").exists() == writes
    assert (tmp_path / "run" / "bundle").exists() == writes
    run.save(tmp_path / "bundle")
    assert (tmp_path / "bundle").exists() == writes


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_process_writes_a_model_in_closed_form(
    split: Split, tmp_path: Path, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(monkeypatch, rank, rank)
    rg.fit(Popularity(), split, seed=0, out=tmp_path / "run", device="cpu")
    assert (tmp_path / "run").exists() == (rank == 0)


def test_a_killed_holder_is_no_obstacle_even_where_a_fork_of_it_lives(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        try:
            with pytest.raises(FolderInUse, match=rf"process {holder.pid} on "), hold(folder):
                pass
            holder.kill()
            holder.wait()
            with hold(folder):
                os.kill(child, 0)  # lives
        finally:
            holder.kill()
            os.kill(child, signal.SIGKILL)
    assert not (folder / LOCK).exists()


def test_a_block_that_writes_nothing_leaves_no_folder(tmp_path: Path) -> None:
    with hold(tmp_path / "runs" / "one"):
        assert (tmp_path / "runs" / "one").is_dir()
    assert not (tmp_path / "runs").exists()
    (tmp_path / "mine").mkdir()
    with hold(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").is_dir()


def test_there_is_one_holder_at_any_time(tmp_path: Path) -> None:
    inside, most, times = [0], [0], [0]

    def work() -> None:
        for _ in range(200):
            try:
                with hold(tmp_path / "run"):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    inside[0] -= 1
                    times[0] += 1
            except FolderInUse:
                pass

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work) for _ in range(4)]:
            done.result()
    assert most == [1]
    assert times[0] >= 4
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_file_system_that_cannot_lock_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import fcntl

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with hold(tmp_path / "run"):
        pass
    assert "cannot be locked (Function not implemented)" in caplog.text
