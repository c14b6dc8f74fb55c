"""Studies whose processes are killed: the same call goes on, nothing is lost, nothing is made twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from test_tune import SETTINGS, SPACE, states, synthetic, tune

from recgraph.tuning.storage import find_study

#: long enough to be stopped in the middle
LONG: dict[str, Any] = {"settings": {**SETTINGS, "max_epochs": 12}, "pruner": "none"}
#: seconds; more than a test takes on the busiest machine
GRACE = 400.0


def command(out: Path, storage: str) -> subprocess.Popen[bytes]:
    """``recgraph tune`` of the study that :func:`tune` makes, with two workers, in a session of its own."""
    space = out.parent / "space.toml"
    space.write_text("\n".join(f'"{name}" = {json.dumps(given) if given else "{}"}' for name, given in SPACE.items()))
    settings = {**LONG["settings"], "patience": "none"}
    pairs = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    own = ["--out", str(out), "--study", "s", "--storage", storage, "--space", str(space), *pairs]
    fixed = ["--trials", "4", "--workers", "2", "--pruner", "none", "--test-seeds", "0", "--dataset", "synthetic"]
    return subprocess.Popen(
        [sys.executable, "-m", "recgraph", "tune", "sasrec", *fixed, *own],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def epochs(log: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in log.read_text().splitlines()]


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_a_study_that_is_killed_ends_with_its_exact_number_of_trials(tmp_path: Path, kind: str) -> None:
    out, storage = tmp_path / "s", f"{kind}:///{tmp_path}/study.{kind}"
    process = command(out, storage)
    until = time.monotonic() + GRACE
    # two trials have ended or run, and one of them is in the middle
    while not any(3 <= log.read_bytes().count(b"\n") < 11 for log in out.glob("trials/000[12]/log.jsonl")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)  # the command and its workers
    process.wait()
    with find_study(str(out)) as (study, _):
        before = {trial.number: trial for trial in study.get_trials()}
    running = [number for number, trial in before.items() if trial.state.name == "RUNNING"]
    assert running
    study = tune(synthetic(), out, 4, storage=storage, **LONG)
    assert states(study) == {"COMPLETE": 4, "FAIL": len(running)}
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert len({tuple(trial.params.items()) for trial in complete}) == 4
    for number in (each for each in running if len(before[each].params) == 2):  # the others were lost before the draw
        (again,) = [trial for trial in complete if trial.system_attrs.get("failed_trial") == number]
        assert again.params == before[number].params
    for trial in complete:
        folder = out / "trials" / f"{trial.system_attrs.get('failed_trial', trial.number):04d}"
        assert epochs(folder / "log.jsonl") == [*range(1, 13)], "it went on where it stopped"
    assert len([*(out / "trials").iterdir()]) == 4


def test_a_worker_that_dies_is_begun_again(tmp_path: Path) -> None:
    mark = tmp_path / "died"

    def objective(run: Any) -> float:
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 0.5

    space = {"*": "fixed", "l2": {"low": 1.0, "high": 900.0}}
    options: dict[str, Any] = {"model": "ease", "settings": {}, "space": space, "objective": objective}
    study = tune(synthetic(), tmp_path / "s", 4, workers=2, **options)
    assert states(study)["COMPLETE"] == 4
    assert 1 <= states(study)["FAIL"] <= 2, "the pool may lose both workers"


def test_a_study_that_is_interrupted_gives_its_trial_back(tmp_path: Path) -> None:
    mark = tmp_path / "asked"

    def objective(run: Any) -> float:
        if not mark.exists():
            mark.touch()
            raise KeyboardInterrupt
        return 0.5

    options: dict[str, Any] = {"model": "ease", "settings": {}, "space": {"*": "fixed", "l2": [1.0, 2.0]}}
    with pytest.raises(KeyboardInterrupt):
        tune(synthetic(), tmp_path / "s", 2, objective=objective, **options)
    study = tune(synthetic(), tmp_path / "s", 2, objective=objective, **options)
    assert states(study) == {"COMPLETE": 2, "FAIL": 1}
    assert study.trials[1].params == study.trials[0].params
