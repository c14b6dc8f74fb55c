"""A training of several phases, or one that is fitted anew, loses nothing when its process is killed within an epoch.

Moments at which files are written, other faults and other commands: tests/faults.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import forked
import pytest
import torch
from forked import Printing
from safetensors.torch import load_file

SETTINGS = {
    "hidden_dim": 16,
    "inner_dim": 32,
    "max_epochs": 2,
    "batch_size": 64,
    "checkpoint_every": 5,
    "patience": 10,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def start(home: Path, out: Path, *more: str, killed_after: str = "none") -> Printing:
    """Start a training; it is killed as it begins to write the checkpoint after the one that is named."""
    settings = [f"--set={name}={value}" for name, value in SETTINGS.items()]
    command = ["train", "mclrec", "--dataset", "synthetic", "--seed=5", f"--out={out}", "--device=cpu", *settings]
    paths = os.pathsep.join([str(Path(__file__).parent), str(forked.ROOT)])
    env = {**os.environ, "RECGRAPH_HOME": str(home), "PYTHONPATH": paths}
    return forked.call("killed", "command", str(out / killed_after), [*command, *more], env=env)


def finish(process: Printing) -> tuple[int, str]:
    """-> (exit code, what it wrote to stderr)."""
    with process:
        return process.wait(), process.error


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


def test_a_killed_run_that_is_resumed_ends_with_the_same_weights(home: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert finish(start(home, out, killed_after="checkpoints/step-000000005"))[0] == -signal.SIGKILL
    code, error = finish(start(home, out))
    assert code == 2
    assert "--resume" in error
    code, error = finish(start(home, out, "--resume"))
    assert code == 0, error
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
    assert finish(start(home, out, "--refit", killed_after=moment))[0] == -signal.SIGKILL
    code, error = finish(start(home, out, "--refit", "--resume"))
    assert code == 0, error
    assert_same(refitted / "selection", out / "selection")
    weights = next(path.name for path in (out / "bundle").glob("*.safetensors") if path.name != "seen.safetensors")
    one, other = (load_file(run / "bundle" / weights) for run in (refitted, out))
    assert all(torch.equal(one[name], other[name]) for name in one)
