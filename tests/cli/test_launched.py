"""``torchrun -m recgraph ...`` on two processes: one run as of one process; a killed process ends
both, and the run goes on."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import refused, works
from forked import ROOT, torchrun
from safetensors.torch import load_file

from recgraph.train.checkpoint import candidates

#: a model that fails on one of several processes, where the variable FAULT says so (KIND:RANK:STEP)
OWN = """
import os
import signal

import recgraph as rg
from recgraph.models.sequence.sasrec import SASRec


@rg.register("model", "faulty")
class Faulty(SASRec):
    n_steps = 0

    def forward(self, batch, terms):
        kind, rank, step = os.environ.get("FAULT", "none:0:0").split(":")
        Faulty.n_steps += self.training
        if self.training and Faulty.n_steps == int(step) and os.environ.get("RANK") == rank and kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(batch, terms)
"""
#: five batches an epoch, of two processes each; a checkpoint after every second
SETTINGS = (
    "batch_size=120",
    "checkpoint_every=2",
    "hidden_dim=16",
    "encoder.n_layers=1",
    "max_epochs=2",
)
WITHOUT_DROPOUT = ("dropout=0", "encoder.attention_dropout=0")
GRACE = 120.0


def launched(*arguments: str, **variables: str) -> tuple[int | None, str]:
    """The exit code of two processes of a command under torchrun, and what they have printed."""
    paths = os.pathsep.join([str(ROOT), *sys.path])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **variables}
    process = torchrun(2, *arguments, env=env)
    try:
        process.wait(GRACE)
    finally:
        process.send_signal(signal.SIGTERM)  # the launcher ends its processes
        process.wait()
    with process:
        return process.returncode, process.said


def command(out: Path, *settings: str) -> list[str]:
    given = [f"--set={one}" for one in (*SETTINGS, *settings)]
    own = str(out.parent / "faulty.py")
    return ["--import", own, "train", "faulty", "--dataset", "synthetic", "--out", str(out), *given]


def weights(run: Path) -> dict[str, torch.Tensor]:
    newest = candidates(run / "checkpoints")[0]
    return load_file(newest / "model.safetensors")


def record(run: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run / "record.json").read_text())
    return values


def history(run: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row.items() if "second" not in name}
        for row in record(run)["history"]
    ]


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))
    works("data get synthetic")
    (tmp_path / "faulty.py").write_text(OWN)


def test_two_processes_make_the_run_of_one(tmp_path: Path) -> None:
    """Without dropout the numbers of validation are those of one process, and weights equal up to
    rounding.
    """
    code, printed = launched(*command(tmp_path / "two", *WITHOUT_DROPOUT))
    assert code == 0, printed
    assert printed.count("saved in") == 1, "one process speaks"
    works(*command(tmp_path / "one", *WITHOUT_DROPOUT))
    here, there = record(tmp_path / "one"), record(tmp_path / "two")
    assert there["n_ranks"] == 2
    for name in (
        "model",
        "config",
        "training",
        "seed",
        "data",
        "best",
        "best_epoch",
        "n_parameters",
    ):
        assert here[name] == there[name]
    for ours, others in zip(history(tmp_path / "one"), history(tmp_path / "two"), strict=True):
        assert ours == pytest.approx(others, rel=1e-6)
    for name, value in weights(tmp_path / "one").items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_the_run_goes_on(tmp_path: Path) -> None:
    launched(*command(tmp_path / "whole"))
    code, printed = launched(*command(tmp_path / "killed"), FAULT="kill:1:8")
    assert code == 1
    assert "rank 0 lost the others" in printed
    assert launched(*command(tmp_path / "killed"), "--resume")[0] == 0
    assert history(tmp_path / "killed") == history(tmp_path / "whole")
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(weights(tmp_path / "killed")[name], value), name


@pytest.mark.parametrize("line", ["tune sasrec -d synthetic", "recommend x --all"])
def test_a_command_for_one_process_refuses_several(
    line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert f"`recgraph {line.split()[0]}` runs in one process" in refused(line)
