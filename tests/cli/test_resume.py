"""A training process that is killed loses nothing: resumed, it ends with the same weights, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SETTINGS = {
    "hidden_dim": 16,
    "inner_dim": 32,
    "max_epochs": 4,
    "batch_size": 32,
    "checkpoint_every": 5,
    "patience": 10,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def start(home: Path, out: Path, *more: str, seed: int = 5) -> subprocess.Popen[str]:
    settings = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "recgraph.cli", "train", "mclrec", "--dataset", "synthetic", "--seed", str(seed)]
    return subprocess.Popen(
        [*command, "--out", str(out), "--device", "cpu", *settings, *more],
        env={**os.environ, "RECGRAPH_HOME": str(home), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """-> (exit code, what it wrote to stderr)."""
    _, error = process.communicate(timeout=240)
    return process.returncode, error


def wait_for(path: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    """Until a file of that pattern is there; the process must still be running then."""
    deadline = time.monotonic() + 120
    while not list(path.glob(pattern)):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"no {pattern} in {path}"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def whole(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    code, error = finish(start(home, out))
    assert code == 0, error
    return out


def assert_same(one: Path, other: Path) -> None:
    for path in ("best.safetensors", next(p.relative_to(one).as_posix() for p in one.glob("bundle/*.safetensors"))):
        a, b = load_file(one / path), load_file(other / path)
        assert a.keys() == b.keys()
        for name in a:
            assert torch.equal(a[name], b[name]), f"{path}: {name}"
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (one, other)]
    timed = {"seconds", "cpu_seconds", "targets_per_second"}
    first, second = ([{k: v for k, v in row.items() if k not in timed} for row in log] for log in logs)
    assert first == second


# inside an epoch, and while a checkpoint is being written
@pytest.mark.parametrize("moment", ["checkpoints/step-000000005", "checkpoints/.step-*"])
def test_a_killed_run_that_is_resumed_ends_with_the_same_weights(
    home: Path, whole: Path, tmp_path: Path, moment: str
) -> None:
    out = tmp_path / "run"
    process = start(home, out)
    wait_for(out, moment, process)
    process.send_signal(signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    code, error = finish(start(home, out))
    assert code == 2
    assert "--resume" in error
    code, error = finish(start(home, out, "--resume"))
    assert code == 0, error
    assert_same(whole, out)


def test_a_killed_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_earlier(
    home: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = start(home, out)
    wait_for(out, "checkpoints/step-000000010", process)
    process.send_signal(signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    newest, earlier = sorted((out / "checkpoints").glob("step-*"), reverse=True)[:2]
    (newest / "model.safetensors").write_bytes(b"")
    code, error = finish(start(home, out, "--resume"))
    assert code == 0, error
    assert str(newest) in error
    assert f"goes on from {earlier.name}" in error
    assert_same(whole, out)


def test_an_interrupted_run_saves_and_says_how_to_go_on(home: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(home, out)
    wait_for(out, "checkpoints/step-*", process)
    process.send_signal(signal.SIGINT)
    code, error = finish(process)
    assert code == 130
    assert "--resume" in error
    assert "Traceback" not in error
    code, error = finish(start(home, out, "--resume"))
    assert code == 0, error
    assert_same(whole, out)


def test_of_two_runs_that_begin_at_once_in_one_folder_one_is_refused(home: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ended = [finish(process) for process in [start(home, out), start(home, out, seed=6)]]
    assert sorted(code for code, _ in ended) == [0, 2]
    (error,) = [error for code, error in ended if code]
    assert str(out) in error
    assert "is in use: process" in error
    assert "Traceback" not in error
    record = json.loads((out / "record.json").read_text())
    assert record["seed"] == json.loads((out / "config.json").read_text())["seed"]
    if record["seed"] == 5:
        assert_same(whole, out)


def test_a_run_that_is_at_work_is_not_gone_on_with(home: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(home, out)
    wait_for(out, "checkpoints/step-*", process)
    process.send_signal(signal.SIGSTOP)
    code, error = finish(start(home, out, "--resume"))
    process.send_signal(signal.SIGCONT)
    first, said = finish(process)
    assert code == 2
    assert f"{out} is in use: process {process.pid} on " in error
    assert first == 0, said
    assert_same(whole, out)


@pytest.fixture(scope="module")
def refitted(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("refitted") / "run"
    code, error = finish(start(home, out, "--refit"))
    assert code == 0, error
    chosen = json.loads((out / "record.json").read_text())["selection"]
    assert f"epoch {chosen['best_epoch']} of {len(chosen['history'])} is the best on the validation part" in error
    assert f"now a new fit to all, of {chosen['best_epoch']} epochs" in error
    assert f"recgraph evaluate {out / 'selection'}" in error
    return out


# while it chooses the epoch, and while it fits anew
@pytest.mark.parametrize("moment", ["selection/checkpoints/step-000000005", "checkpoints/step-000000005"])
def test_a_killed_refit_that_is_resumed_ends_with_the_same_weights(
    home: Path, refitted: Path, tmp_path: Path, moment: str
) -> None:
    out = tmp_path / "run"
    process = start(home, out, "--refit")
    wait_for(out, moment, process)
    process.send_signal(signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    code, error = finish(start(home, out, "--refit", "--resume"))
    assert code == 0, error
    assert_same(refitted / "selection", out / "selection")
    weights = next(path.name for path in (out / "bundle").glob("*.safetensors") if path.name != "seen.safetensors")
    one, other = (load_file(run / "bundle" / weights) for run in (refitted, out))
    assert all(torch.equal(one[name], other[name]) for name in one)
