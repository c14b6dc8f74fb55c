"""The log records of a fit: sizes, each epoch, why it ended, where it is saved; and silence where nobody listens."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

import recgraph as rg
from recgraph.data.split import Split

SETTINGS = {"hidden_dim": 8, "n_heads": 1}


@pytest.fixture(scope="module")
def split() -> Split:
    return rg.load_dataset("synthetic").split("leave-one-out")


def messages(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


def test_a_fit_tells_its_story(split: Split, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="recgraph"):
        rg.fit(rg.models.SASRec(**SETTINGS), split, seed=1, out=tmp_path / "r", max_epochs=2, batch_size=256)
    assert {record.name.split(".")[0] for record in caplog.records} == {"recgraph"}
    told = messages(caplog)
    assert told[0].startswith("fit sasrec, seed 1, to train of a log, leave-one-out: 600 users, 300 items, ")
    assert told[0].endswith(f"parameters, on cpu, in {tmp_path / 'r'}")
    assert [line.split(":")[0] for line in told if line.startswith("epoch")] == ["epoch 1/2", "epoch 2/2"]
    assert told[-3].startswith("all 2 epochs are made; the weights are those of epoch ")
    assert told[-2].startswith("sasrec is fitted after ")
    assert told[-1] == f"run saved in {tmp_path / 'r'}"


def test_early_stopping_is_told(split: Split, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="recgraph"):
        run = rg.fit(
            rg.models.SASRec(**SETTINGS), split, seed=1, max_epochs=50, patience=1, learning_rate=1e-9, batch_size=256
        )
    best, last = run.record.best_epoch, run.history[-1]["epoch"]
    why = f"stopped after epoch {last}: ndcg@10 was no better 1 times in a row; the weights are those of epoch {best}"
    assert any(line.startswith(why) for line in messages(caplog)), messages(caplog)


def test_a_closed_form_model_too(split: Split, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="recgraph"):
        rg.fit(rg.models.EASE(), split, seed=0)
    told = messages(caplog)
    assert told[0].startswith("fit ease, seed 0, to train of a log, leave-one-out: 600 users, 300 items")
    assert told[-1].startswith("ease is fitted after ")


def test_nothing_is_printed_where_the_application_does_not_ask() -> None:
    script = (
        "import logging, recgraph as rg\n"
        "split = rg.load_dataset('synthetic').split('leave-one-out')\n"
        "run = rg.fit(rg.models.Popularity(), split, seed=0)\n"
        "run.evaluate()\n"
        "assert not logging.getLogger().handlers\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
