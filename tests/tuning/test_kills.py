"""Studies whose processes are killed or interrupted: nothing is lost, nothing is made twice, nobody works on alone."""

from __future__ import annotations

import json
import os
import runpy
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forked
import optuna
import pytest
from small_study import LONG, SPACE, states, synthetic, tune

import recgraph as rg
from recgraph import imports, registry
from recgraph.data.split import Split
from recgraph.tuning.plan import Plan
from recgraph.tuning.storage import open_storage
from recgraph.workers.pool import INTERRUPTED
from recgraph.workers.process import Process, this_process

#: seconds; more than a test takes on the busiest machine
GRACE = 500.0
#: of a study whose trials wait in the middle, see :func:`held`
HELD: dict[str, Any] = {"model": "held", "settings": LONG, "pruner": "none"}


@pytest.fixture(scope="module")
def split() -> Split:
    return synthetic()


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def running(url: str, out: Path, n_trials: int) -> list[optuna.trial.FrozenTrial]:
    """So many trials that run and have trained for a few epochs, once there are; of a study in the folder ``out``."""
    until = time.monotonic() + GRACE
    storage = None
    while time.monotonic() < until:
        time.sleep(0.01)
        # logs are looked at often, which costs nothing; the storage, which does, once they have enough epochs
        if sum(log.read_bytes().count(b"\n") >= 3 for log in out.glob("trials/*/log.jsonl")) < n_trials:
            continue
        try:
            storage = storage or open_storage(url)
            trials = storage.optuna.get_all_trials(storage.optuna.get_study_id_from_name("s"))
        except Exception:  # the storage is busy
            continue
        found = [trial for trial in trials if trial.state.name == "RUNNING" and len(trial.intermediate_values) >= 3]
        if len(found) >= n_trials:
            storage.close()
            return found
    raise AssertionError(f"{n_trials} trials never ran at once")


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Trainings of the model "held" wait in their fifth epoch, until this file is gone or they are interrupted."""
    rg.import_file(Path(__file__).with_name("held.py"))
    file = tmp_path / "held"
    file.touch()
    monkeypatch.setenv("HELD", str(file))
    return file


def in_the_middle(url: str, out: Path, act: Callable[[optuna.trial.FrozenTrial], None]) -> threading.Thread:
    """Do something once, to the first trial that has trained for a few epochs."""
    thread = threading.Thread(target=lambda: act(running(url, out, 1)[0]), daemon=True)
    thread.start()
    return thread


def trained_for_a_while(*logs: Path) -> None:
    """Wait until some trainings have ended a few epochs."""
    until = time.monotonic() + GRACE
    while not all(log.exists() and log.read_bytes().count(b"\n") >= 3 for log in logs):
        assert time.monotonic() < until
        time.sleep(0.01)


def kill(trial: optuna.trial.FrozenTrial) -> None:
    assert trial.user_attrs["lease"]["pid"] != os.getpid()
    os.kill(trial.user_attrs["lease"]["pid"], signal.SIGKILL)


def check_complete(study: optuna.Study, out: Path, n_trials: int, epochs: int, reason: str) -> None:
    """Every trial is accounted for, none was made twice, and what was stopped went on where it stopped."""
    assert states(study)["COMPLETE"] == n_trials
    failed = [trial for trial in study.trials if trial.state.name == "FAIL"]
    # another worker may have been stopped between the draw of its parameters and its first heartbeat
    unbegun = [trial for trial in failed if trial.user_attrs["reason"] == "its worker ended before it began"]
    assert all(not trial.intermediate_values for trial in unbegun)
    failed = [trial for trial in failed if trial not in unbegun]
    assert failed
    assert sum(states(study).values()) == n_trials + len(failed) + len(unbegun)
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


def dispose(study: optuna.Study) -> None:
    """Give the connections of a study that was read back."""
    engine = getattr(getattr(study._storage, "_backend", None), "engine", None)
    if engine is not None:
        engine.dispose()


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


def test_a_worker_that_is_killed_in_a_trial_is_replaced(split: Split, tmp_path: Path, url: str, held: Path) -> None:
    def kill_and_go_on(trial: optuna.trial.FrozenTrial) -> None:
        kill(trial)
        held.unlink()

    killer = in_the_middle(url, tmp_path / "s", kill_and_go_on)
    began = time.monotonic()
    study = tune(split, tmp_path / "s", 2, workers=2, storage=url, grace=GRACE, **HELD)
    killer.join()
    check_complete(study, tmp_path / "s", 2, LONG["max_epochs"], "its worker is gone")
    dead = next(trial for trial in study.trials if trial.state.name == "FAIL")
    again = next(trial for trial in study.trials if trial.system_attrs.get("failed_trial") == dead.number)
    assert dead.user_attrs["lease"]["pid"] != again.user_attrs["lease"]["pid"]
    # seen at once: long before the grace period, which the test would notice
    assert time.monotonic() - began < GRACE
    dispose(study)


def test_workers_that_are_interrupted_save_and_give_their_trials_back(
    split: Split, tmp_path: Path, url: str, held: Path
) -> None:
    in_the_middle(url, tmp_path / "s", lambda _: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        tune(split, tmp_path / "s", 2, workers=2, storage=url, **HELD)
    held.unlink()
    study = tune(split, tmp_path / "s", 2, storage=url, **HELD)
    check_complete(study, tmp_path / "s", 2, LONG["max_epochs"], "interrupted")
    dispose(study)


def test_the_last_trainings_go_on_where_they_were_interrupted(split: Split, tmp_path: Path, held: Path) -> None:
    held.unlink()
    tune(split, tmp_path / "s", 1, **HELD)
    held.touch()
    log = tmp_path / "s" / "final" / "trial-0000" / "seed-0" / "log.jsonl"

    def epochs() -> list[int]:
        return [json.loads(line)["epoch"] for line in log.read_text().splitlines()]

    def interrupt() -> None:
        trained_for_a_while(log)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt, match="interrupted in epoch"):
        tune(split, tmp_path / "s", 1, **HELD, test_seeds=1)
    assert 3 <= len(epochs()) < LONG["max_epochs"]
    held.unlink()
    study = tune(split, tmp_path / "s", 1, **HELD, test_seeds=1)
    assert epochs() == list(range(1, LONG["max_epochs"] + 1))
    assert len(study.user_attrs["unsealed"]) == 1
    assert states(study) == {"COMPLETE": 1}


def test_a_last_training_whose_process_is_killed_goes_on_in_another(
    split: Split, tmp_path: Path, forked_workers: list[forked.Worker], held: Path
) -> None:
    held.unlink()
    tune(split, tmp_path / "s", 1, **HELD)
    held.touch()
    logs = [tmp_path / "s" / "final" / "trial-0000" / f"seed-{number}" / "log.jsonl" for number in (0, 1)]

    def kill_one() -> None:
        trained_for_a_while(*logs)
        os.kill(forked_workers[0].pid, signal.SIGKILL)
        held.unlink()

    thread = threading.Thread(target=kill_one, daemon=True)
    thread.start()
    study = tune(split, tmp_path / "s", 1, **HELD, workers=2, test_seeds=2)
    thread.join()
    assert len(forked_workers) == 3
    for log in logs:
        epochs = [json.loads(line)["epoch"] for line in log.read_text().splitlines()]
        assert epochs == list(range(1, LONG["max_epochs"] + 1))
    (tested,) = study.user_attrs["unsealed"]
    assert tested["n_seeds"] == 2


def work_in_the_background(orders: str) -> None:
    """``python -m recgraph.tuning.worker < orders &``, as a shell without job control starts it: SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    file = os.open(orders, os.O_RDONLY)
    os.dup2(file, 0)
    os.close(file)
    runpy.run_module("recgraph.tuning.worker", run_name="__main__", alter_sys=True)


def test_a_worker_stops_when_it_is_asked_to_although_its_command_is_in_the_background(
    split: Split, tmp_path: Path
) -> None:
    storage = open_storage(None, tmp_path)
    study = optuna.create_study(study_name="s", storage=storage.optuna)
    study.ask().set_user_attr("lease", {**this_process().to_dict(), "beat": 0})  # all that is wanted: it waits
    split.sealed().save(tmp_path / "split")
    plan = Plan("s", registry.load("model", "sasrec"), ("ndcg@10",), 1)
    orders = {
        "plan": plan.to_dict(),
        "storage": storage.url,
        "split": f"{tmp_path}/split",
        "name": "0",
        "own": imports.orders(),
    }
    file = tmp_path / "orders.json"
    file.write_text(json.dumps({**orders, "parent": os.getpid(), "error": f"{tmp_path}/error"}))
    with forked.call("test_kills", "work_in_the_background", str(file)) as worker:
        until = time.monotonic() + GRACE
        while not (tmp_path / "study.journal.flock").exists():  # it has asked for a trial
            assert worker.poll() is None, worker.said
            assert time.monotonic() < until
            time.sleep(0.05)
        worker.send_signal(signal.SIGINT)
        assert worker.wait(GRACE) == INTERRUPTED, worker.said


def arguments(tmp_path: Path, url: str) -> list[str]:
    """Of ``recgraph`` for the study that :func:`tune` makes with ``HELD``, with two workers."""
    space = tmp_path / "space.toml"
    lines = (f'"{name}" = {json.dumps(given) if given else "{}"}' for name, given in SPACE.items())
    space.write_text("\n".join(lines))
    settings = {**LONG, "patience": "none"}
    pairs = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    own = ["--out", str(tmp_path / "s"), "--study", "s", "--storage", url, "--space", str(space), *pairs]
    fixed = ["--trials", "2", "--workers", "2", "--pruner", "none", "--test-seeds", "0"]
    model = str(Path(__file__).with_name("held.py"))
    return ["--import", model, "tune", "held", "--dataset", "synthetic", *fixed, *own]


def test_workers_end_by_themselves_when_the_command_is_killed(split: Split, tmp_path: Path, held: Path) -> None:
    url = f"journal:///{tmp_path}/study.journal"
    with forked.module("recgraph.cli", *arguments(tmp_path, url)) as parent:
        workers = [Process.of(trial.user_attrs["lease"]) for trial in running(url, tmp_path / "s", 2)]
        parent.kill()
    assert len({worker.pid for worker in workers}) == 2
    until = time.monotonic() + GRACE
    while not all(worker.is_gone for worker in workers):
        assert time.monotonic() < until, "a worker works on although nobody is there to want it"
        time.sleep(0.05)
    held.unlink()
    study = tune(split, tmp_path / "s", 2, storage=url, **HELD)
    check_complete(study, tmp_path / "s", 2, LONG["max_epochs"], "interrupted")
    assert states(study)["FAIL"] == 2
