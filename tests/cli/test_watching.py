"""What commands show of their work: lines in a pipe, -v, -q, --log-file, and the records of worker processes."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import forked
import pytest
from typer.testing import CliRunner, Result

from recgraph.cli.app import app

SMALL = ("-s", "hidden_dim=8", "-s", "encoder.n_heads=1", "-s", "batch_size=256", "-s", "patience=none")
TRAIN = ("train", "sasrec", "--dataset", "synthetic", *SMALL)
EPOCH = r"epoch \d+/\d+: loss \d\.\d{4}, ndcg@10 0\.\d{4}, best 0\.\d{4} \(epoch \d+\), [\d.]+ (s|min)"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _use_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(home))


def test_a_piped_training_prints_plain_lines(home: Path, tmp_path: Path) -> None:
    with forked.module("recgraph.cli", *TRAIN, "-s", "max_epochs=3", "--out", tmp_path / "r") as done:
        assert done.wait() == 0, done.error
        output, error = done.output, done.error
    assert output == ""
    lines = error.splitlines()
    told = [line for line in lines if line.startswith("epoch")]
    assert told
    assert all(re.fullmatch(rf"{EPOCH}(, about [\d.]+ s left)?", line) for line in told), told
    assert told[0].startswith("epoch 1/3")
    assert told[-1].startswith("epoch 3/3")
    assert lines[-1] == f"saved in {tmp_path / 'r'}; try next: recgraph evaluate {tmp_path / 'r'}"
    assert "\r" not in error
    assert "\x1b" not in error


@pytest.mark.parametrize("where", ["before", "after"])
def test_verbose_shows_the_records_instead_of_the_lines(where: str, tmp_path: Path) -> None:
    command = (*TRAIN, "-s", "max_epochs=2", "--out", tmp_path / "r")
    done = call("-v", *command) if where == "before" else call(*command, "-v")
    assert done.exit_code == 0, done.output
    lines = done.stderr.splitlines()
    sizes = r"\[\d\d:\d\d:\d\d\] fit sasrec, seed 0, to train of synthetic: 600 users, 300 items, [\d,]+ interactions; "
    assert any(re.match(sizes, line) for line in lines), lines
    told = [line for line in lines if "epoch 2/2: " in line]
    assert len(told) == 1
    assert re.search(EPOCH, told[0])
    assert any("all 2 epochs are made; the weights are those of epoch" in line for line in lines)
    assert any(f"run saved in {tmp_path / 'r'}" in line for line in lines)
    assert not any("checkpoint" in line for line in lines)


def test_quiet_shows_errors_alone(tmp_path: Path) -> None:
    command = (*TRAIN, "-s", "max_epochs=1", "--out", tmp_path / "r")
    done = call(*command, "-q")
    assert (done.exit_code, done.output) == (0, "")
    done = call("evaluate", tmp_path / "r", "--quiet")
    assert done.stderr == "", "no note, and no warning that the test part is read"
    assert done.stdout.startswith("metric")
    done = call("-q", *command)
    assert done.exit_code == 2
    assert "holds a run already" in done.stderr


def test_a_log_file_has_it_all_with_times(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    done = call(*TRAIN, "-s", "max_epochs=2", "--out", tmp_path / "r", "-q", "--log-file", log)
    assert (done.exit_code, done.output) == (0, "")
    lines = log.read_text().splitlines()
    assert all(
        re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING) recgraph\.", line) for line in lines
    )
    told = "\n".join(lines)
    for part in ("INFO recgraph.train: epoch 2/2", "DEBUG recgraph.train.trainer: checkpoint", "try next: recgraph"):
        assert part in told
    # an error is there with its traceback, and the file goes on
    call("--log-file", log, *TRAIN, "--out", tmp_path / "r")
    text = log.read_text()
    assert text.startswith(told)
    assert "ERROR recgraph.cli: " in text
    assert "Traceback (most recent call last)" in text


def test_a_password_stays_out_of_the_log_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["recgraph", "tune", "--storage", "postgresql://me:secret@host/db"])
    call("models", "--log-file", tmp_path / "log.txt")
    text = (tmp_path / "log.txt").read_text()
    assert "postgresql://me:***@host/db" in text
    assert "secret" not in text
