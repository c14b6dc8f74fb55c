"""What every storage does: it is found again, excludes, and fails by its name; passwords are shown
nowhere.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forked
import optuna
import pytest
from refusing import refused
from test_tune import SETTINGS, SPACE, states, synthetic, tune

from recgraph.config import setting_text
from recgraph.tuning.storage import StorageFailed, find_study, open_storage, without_password


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
    assert (
        without_password("postgresql://host/db?password=s3cret&a=b")
        == "postgresql://host/db?password=***&a=b"
    )
    assert without_password("sqlite:///a@b:c.db") == "sqlite:///a@b:c.db"
    pytest.importorskip("psycopg")
    with refused("***", by=StorageFailed) as caught:
        open_storage("postgresql://me:s3cret@127.0.0.1:1/db")
    assert "s3cret" not in str(caught.value)


# -- studies whose processes are killed: the same call goes on, nothing is lost, nothing is made
# twice

#: long enough to be stopped in the middle
LONG: dict[str, Any] = {"settings": {**SETTINGS, "max_epochs": 12}, "pruner": "none"}


def command(out: Path, storage: str) -> forked.Printing:
    """``recgraph tune`` of the study that :func:`tune` makes, with two workers."""
    space = out.parent / "space.toml"
    space.write_text(
        "\n".join(
            f'"{name}" = {json.dumps(given) if given else "{}"}' for name, given in SPACE.items()
        )
    )
    settings = {**LONG["settings"], "patience": None}
    pairs = [
        part for name, value in settings.items() for part in ("--set", setting_text(name, value))
    ]
    own = ["--out", str(out), "--study", "s", "--storage", storage, "--space", str(space), *pairs]
    fixed = [
        "--trials",
        "4",
        "--workers",
        "2",
        "--pruner",
        "none",
        "--test-seeds",
        "0",
        "--dataset",
        "synthetic",
    ]
    return forked.module(
        "recgraph", "tune", "sasrec", *fixed, *own, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def epochs(log: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in log.read_text().splitlines()]


def in_the_middle(out: Path) -> bool:
    """Two trials have ended or run, and one of them is in the middle."""
    return any(
        3 <= log.read_bytes().count(b"\n") < 11 for log in out.glob("trials/000[12]/log.jsonl")
    )


def test_a_study_that_is_killed_ends_with_its_exact_number_of_trials(
    tmp_path: Path, url: str
) -> None:
    out = tmp_path / "s"
    with command(out, url) as process:
        process.until(lambda: in_the_middle(out))
        process.kill()  # the command and its workers
    with find_study(str(out)) as (study, _):
        before = {trial.number: trial for trial in study.get_trials()}
    running = [number for number, trial in before.items() if trial.state.name == "RUNNING"]
    assert running
    study = tune(synthetic(), out, 4, storage=url, **LONG)
    assert states(study) == {"COMPLETE": 4, "FAIL": len(running)}
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert len({tuple(trial.params.items()) for trial in complete}) == 4
    for number in (
        each for each in running if len(before[each].params) == 2
    ):  # the others were lost before the draw
        (again,) = [trial for trial in complete if trial.system_attrs.get("failed_trial") == number]
        assert again.params == before[number].params
    for trial in complete:
        folder = out / "trials" / f"{trial.system_attrs.get('failed_trial', trial.number):04d}"
        assert epochs(folder / "log.jsonl") == [*range(1, 13)], "it went on where it stopped"
    assert len([*(out / "trials").iterdir()]) == 4


def test_workers_that_die_are_begun_again(tmp_path: Path) -> None:
    died = tmp_path / "died"

    def objective(run: Any) -> float:
        if not died.exists():
            (tmp_path / f"{os.getpid()}.in-a-trial").touch()
            until = time.monotonic() + 120
            while len([*tmp_path.glob("*.in-a-trial")]) < 2 and time.monotonic() < until:
                time.sleep(0.01)
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 0.5

    space = {"*": "fixed", "l2": {"low": 1.0, "high": 900.0}}
    options: dict[str, Any] = {
        "model": "ease",
        "settings": {},
        "space": space,
        "objective": objective,
    }
    study = tune(synthetic(), tmp_path / "s", 4, workers=2, **options)
    assert states(study) == {"COMPLETE": 4, "FAIL": 2}, "each worker had one trial"


def test_a_study_that_is_interrupted_gives_its_trial_back(tmp_path: Path) -> None:
    mark = tmp_path / "asked"

    def objective(run: Any) -> float:
        if not mark.exists():
            mark.touch()
            raise KeyboardInterrupt
        return 0.5

    options: dict[str, Any] = {
        "model": "ease",
        "settings": {},
        "space": {"*": "fixed", "l2": [1.0, 2.0]},
    }
    with pytest.raises(KeyboardInterrupt):
        tune(synthetic(), tmp_path / "s", 2, objective=objective, **options)
    study = tune(synthetic(), tmp_path / "s", 2, objective=objective, **options)
    assert states(study) == {"COMPLETE": 2, "FAIL": 1}
    assert study.trials[1].params == study.trials[0].params
