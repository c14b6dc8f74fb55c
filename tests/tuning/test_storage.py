"""What every storage does: it is found again, excludes, and fails by its name; passwords are shown nowhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from refusing import refused

from recgraph import registry
from recgraph.config import ConfigError
from recgraph.files import locked
from recgraph.tuning import trials as workers
from recgraph.tuning.plan import Plan
from recgraph.tuning.storage import StorageFailed, find_study, located, open_storage, without_password
from recgraph.tuning.trials import load_study

PLAN = Plan(
    "s",
    registry.load("model", "sasrec"),
    ("ndcg@10",),
    8,
    given={"*": "fixed", "weight_decay": {"low": 1e-6, "high": 1e-2}},
)


@pytest.fixture(params=["journal", "sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param != "postgres":
        yield f"{request.param}:///{tmp_path}/study.{request.param}"
        return
    found: str = request.getfixturevalue("postgres")
    yield found
    storage = open_storage(found)
    for name in optuna.get_all_study_names(storage.optuna):
        optuna.delete_study(study_name=name, storage=storage.optuna)
    storage.close()


def test_many_workers_make_exactly_the_trials_that_are_wanted(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each takes over what one before it has left, once."""
    storage = open_storage(url)
    study = optuna.create_study(study_name="s", storage=storage.optuna, direction="maximize")
    lost = study.ask()
    lost.suggest_float("weight_decay", 1e-6, 1e-2)
    (tmp_path / "gone.lock").touch()
    study.ask()  # its worker died before it had drawn anything: the next trial draws that
    lost.set_user_attr("worker", f"{workers.platform.node()}:{tmp_path / 'gone.lock'}")
    monkeypatch.setattr(workers, "run_trial", lambda plan, trial, split: time.sleep(0.05) or [0.5])
    monkeypatch.setattr(workers, "_POLL", 0.05)
    none: Any = None

    def worker(number: int) -> None:
        own = open_storage(url)
        with locked(tmp_path / f"{number}.lock"):
            workers._work(PLAN, own, none, str(tmp_path / f"{number}.lock"), False)
        own.close()

    threads = [threading.Thread(target=worker, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    trials = load_study(PLAN, storage).get_trials()
    states = [trial.state.name for trial in trials]
    assert (states.count("COMPLETE"), states.count("FAIL"), len(states)) == (8, 2, 10)
    (again,) = [trial for trial in trials if trial.system_attrs.get("failed_trial") == lost.number]
    assert again.params == trials[lost.number].params
    # one stream of draws for all would propose the same values
    assert len({trial.params["weight_decay"] for trial in trials if trial.state.name == "COMPLETE"}) == 8
    storage.close()


def test_a_study_is_found_again(url: str, tmp_path: Path) -> None:
    storage = open_storage(url)
    for name in ("one", "two"):
        optuna.create_study(study_name=name, storage=storage.optuna)
    with find_study(storage.url, "two") as (study, found):
        assert study.study_name == "two"
        assert found.url == storage.url
    with refused("one, two"):
        find_study(storage.url).__enter__()
    with refused("three"):
        find_study(storage.url, "three").__enter__()
    storage.close()


def test_places() -> None:
    assert located("runs/a", Path("/b")) == "/b/runs/a"
    assert located("sqlite:///a.db", Path("/b")) == "sqlite:////b/a.db"
    assert located("postgresql://h/d", Path("/b")) == "postgresql://h/d"
    with refused(by=FileNotFoundError):
        find_study("nowhere").__enter__()
    with refused("storage", by=ConfigError):
        open_storage("redis://here")


def test_a_file_that_is_no_storage_fails_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    path.write_text("a thesis\nof two lines\n")
    with refused(str(path), by=StorageFailed):
        open_storage(f"journal:///{path}")
    assert path.read_text() == "a thesis\nof two lines\n"


def test_passwords_are_not_shown() -> None:
    for url in ("postgresql://me:s3cret@host/db", "postgresql://me:s3cret@x@host:5/db?a=b"):
        assert "s3cret" not in without_password(f"--storage {url} failed")
        assert "@host" in without_password(url)
    assert without_password("postgresql://host/db?password=s3cret&a=b") == "postgresql://host/db?password=***&a=b"
    assert without_password("sqlite:///a@b:c.db") == "sqlite:///a@b:c.db"
    pytest.importorskip("psycopg")
    with refused("***", by=StorageFailed) as caught:
        open_storage("postgresql://me:s3cret@127.0.0.1:1/db")
    assert "s3cret" not in str(caught.value)
