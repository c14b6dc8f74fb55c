"""Studies whose processes are killed or interrupted: nothing is lost, nothing is made twice, nobody works on alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from small_study import LONG, SPACE, states, synthetic, tune

from recgraph.data.split import Split
from recgraph.tuning.processes import Process
from recgraph.tuning.storage import open_storage

#: seconds; more than a test takes on the busiest machine
GRACE = 500.0


@pytest.fixture(scope="module")
def split() -> Split:
    return synthetic()


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def in_the_middle(url: str, act: Callable[[optuna.trial.FrozenTrial], None]) -> threading.Thread:
    """Do something once, to the first trial that has trained for a few epochs."""

    def wait() -> None:
        until = time.monotonic() + 120
        storage = None
        while time.monotonic() < until:
            time.sleep(0.02)
            try:
                storage = storage or open_storage(url)
                study = storage.optuna.get_study_id_from_name("s")
                found = storage.optuna.get_all_trials(study)
            except Exception:  # the study is not there yet
                continue
            for trial in found:
                if trial.state.name == "RUNNING" and len(trial.intermediate_values) >= 3:
                    storage.close()
                    act(trial)
                    return

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def kill(trial: optuna.trial.FrozenTrial) -> None:
    assert trial.user_attrs["lease"]["pid"] != os.getpid()
    os.kill(trial.user_attrs["lease"]["pid"], signal.SIGKILL)


def check_complete(study: optuna.Study, out: Path, n_trials: int, epochs: int, reason: str) -> None:
    """Every trial is accounted for, none was made twice, and what was stopped went on where it stopped."""
    assert states(study)["COMPLETE"] == n_trials
    failed = [trial for trial in study.trials if trial.state.name == "FAIL"]
    assert failed
    assert sum(states(study).values()) == n_trials + len(failed)
    for trial in failed:
        assert trial.user_attrs["reason"] == reason
        (again,) = [other for other in study.trials if other.system_attrs.get("failed_trial") == trial.number]
        assert again.params == trial.params
        assert trial.intermediate_values.items() <= again.intermediate_values.items()
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert len({tuple(trial.params.values()) for trial in complete}) == n_trials
    for trial in complete:
        folder = out / "trials" / f"{trial.system_attrs.get('failed_trial', trial.number):04d}"
        log = [json.loads(line)["epoch"] for line in (folder / "log.jsonl").read_text().splitlines()]
        assert log == list(range(1, epochs + 1))
        # a worker may die when an epoch is saved and before it is reported
        assert len(set(log) - set(trial.intermediate_values)) <= ("failed_trial" in trial.system_attrs)
    assert len(list((out / "trials").iterdir())) == n_trials


@pytest.fixture(params=["journal", "sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param != "postgres":
        yield f"{request.param}:///{tmp_path}/study.{request.param}"
        return
    found: str = request.getfixturevalue("postgres")
    yield found
    storage = open_storage(found)
    optuna.delete_study(study_name="s", storage=storage.optuna)
    storage.close()


def test_a_worker_that_is_killed_in_a_trial_is_replaced(split: Split, tmp_path: Path, url: str) -> None:
    killer = in_the_middle(url, kill)
    began = time.monotonic()
    study = tune(split, tmp_path / "s", 3, workers=2, storage=url, settings=LONG, pruner="none", grace=GRACE)
    killer.join()
    check_complete(study, tmp_path / "s", 3, LONG["max_epochs"], "its worker is gone")
    dead = next(trial for trial in study.trials if trial.state.name == "FAIL")
    again = next(trial for trial in study.trials if trial.system_attrs.get("failed_trial") == dead.number)
    assert dead.user_attrs["lease"]["pid"] != again.user_attrs["lease"]["pid"]
    # seen at once: long before the grace period, which the test would notice
    assert time.monotonic() - began < GRACE
    engine = getattr(getattr(study._storage, "_backend", None), "engine", None)
    if engine is not None:
        engine.dispose()


def test_workers_that_are_interrupted_save_and_give_their_trials_back(split: Split, tmp_path: Path) -> None:
    url = f"journal:///{tmp_path}/study.journal"
    in_the_middle(url, lambda _: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        tune(split, tmp_path / "s", 3, workers=2, storage=url, settings=LONG, pruner="none")
    study = tune(split, tmp_path / "s", 3, storage=url, settings=LONG, pruner="none")
    check_complete(study, tmp_path / "s", 3, LONG["max_epochs"], "interrupted")


def test_an_interrupted_study_goes_on_where_it_stopped(split: Split, tmp_path: Path) -> None:
    url = f"journal:///{tmp_path}/study.journal"
    in_the_middle(url, lambda _: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match="interrupted in epoch"):
        tune(split, tmp_path / "s", 2, storage=url, settings=LONG, pruner="none")
    study = tune(split, tmp_path / "s", 2, storage=url, settings=LONG, pruner="none")
    check_complete(study, tmp_path / "s", 2, LONG["max_epochs"], "interrupted")


def command(tmp_path: Path, url: str, epochs: int) -> list[str]:
    """``recgraph tune`` for the study that :func:`tune` makes with ``LONG``, with two workers."""
    space = tmp_path / "space.toml"
    lines = (f'"{name}" = {json.dumps(given) if given else "{}"}' for name, given in SPACE.items())
    space.write_text("\n".join(lines))
    settings = {**LONG, "max_epochs": epochs, "patience": "none"}
    pairs = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    own = ["--out", str(tmp_path / "s"), "--study", "s", "--storage", url, "--space", str(space), *pairs]
    fixed = ["--trials", "3", "--workers", "2", "--pruner", "none", "--test-seeds", "0"]
    return [sys.executable, "-m", "recgraph.cli", "tune", "sasrec", "--dataset", "synthetic", *fixed, *own]


def running(url: str, epochs: int) -> list[optuna.trial.FrozenTrial]:
    """The trials that run, when there are two and each has trained for some epochs."""
    until = time.monotonic() + 120
    storage = None
    while time.monotonic() < until:
        time.sleep(0.02)
        try:
            storage = storage or open_storage(url)
            found = storage.optuna.get_all_trials(storage.optuna.get_study_id_from_name("s"))
        except Exception:  # the study is not there yet
            continue
        found = [trial for trial in found if trial.state.name == "RUNNING" and len(trial.intermediate_values) >= epochs]
        if len(found) == 2:
            storage.close()
            return found
    raise AssertionError("two workers never ran at once")


def test_workers_end_by_themselves_when_the_command_is_killed(split: Split, tmp_path: Path) -> None:
    url, epochs = f"journal:///{tmp_path}/study.journal", 60
    with (tmp_path / "log").open("wb") as log:
        parent = subprocess.Popen(command(tmp_path, url, epochs), stdout=log, stderr=log, start_new_session=True)
        try:
            workers = [Process.of(trial.user_attrs["lease"]) for trial in running(url, 3)]
        finally:
            parent.kill()
            parent.wait()
    assert len({worker.pid for worker in workers}) == 2
    until = time.monotonic() + 60
    while not all(worker.is_gone for worker in workers):
        assert time.monotonic() < until, "a worker works on although nobody is there to want it"
        time.sleep(0.05)
    settings = {**LONG, "max_epochs": epochs}
    study = tune(split, tmp_path / "s", 3, storage=url, settings=settings, pruner="none")
    check_complete(study, tmp_path / "s", 3, epochs, "interrupted")
    assert states(study)["FAIL"] == 2
