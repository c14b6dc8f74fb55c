"""A study whose workers run on a Ray cluster has the trials, and the tests, of one of this machine."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from small_study import LONG, synthetic, tune
from workers_of_test import workers_of_test

from recgraph.config import ConfigError
from recgraph.data.split import Split
from recgraph.parallel import Engine

SPACE = {"*": "fixed", "learning_rate": [0.001, 0.01]}


@pytest.fixture(scope="module")
def split() -> Split:
    return synthetic()


def test_the_same_trials_and_tests(split: Split, ray_cluster: None, tmp_path: Path) -> None:
    given = {"n_trials": 2, "space": SPACE, "sampler": "grid", "pruner": "none", "test_seeds": 1}
    here = tune(split, tmp_path / "here", **given)
    there = tune(split, tmp_path / "there", engine=Engine(name="ray"), **given)
    values = [
        {tuple(sorted(trial.params.items())): (trial.state.name, trial.values) for trial in study.trials}
        for study in (here, there)
    ]
    assert values[0] == values[1]
    assert len(values[0]) == 2
    (one,), (other,) = (study.user_attrs["unsealed"] for study in (here, there))
    assert one["results"] == other["results"]
    logs = sorted(path.name for path in (tmp_path / "there" / "workers").glob("*.log"))
    assert logs == ["0.log", "1.log", "default-0.log", "tuned-0.log"]


@pytest.mark.slow
def test_a_worker_that_is_killed_is_started_again_and_no_trial_is_lost(
    split: Split, ray_cluster: None, own_workers: None, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill() -> None:
        until = time.monotonic() + 60
        while not killed and time.monotonic() < until:
            running = workers_of_test("recgraph.tuning.worker")
            if running and [*tmp_path.glob("s/trials/*/checkpoints")]:
                running[0].kill()
                killed.append(running[0].pid)
            time.sleep(0.05)

    threading.Thread(target=kill, daemon=True).start()
    study = tune(split, tmp_path / "s", 2, settings=LONG, pruner="none", engine=Engine(name="ray"), workers=1)
    assert len(killed) == 1
    assert [trial.state.name for trial in study.trials].count("COMPLETE") == 2


def test_a_study_on_a_cluster_needs_a_folder(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before anything connects to a cluster, or starts one."""
    with pytest.raises(ConfigError, match="engine needs a folder that its machines share"):
        tune(split, engine=Engine(name="ray"))
