"""Going on: a stopped run ends as one that was not, and a finished one given more epochs is the longer run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from refusing import refused

import recgraph as rg
from recgraph.data.split import Interactions, Split
from recgraph.serve.recommender import Recommender
from recgraph.train.observers import Observer
from recgraph.train.record import RunRecord
from recgraph.train.run import Run

TIMED = {"seconds", "cpu_seconds", "targets_per_second"}


@pytest.fixture(scope="module")
def split() -> Split:
    rows = [(user, (user + step * (1 + user % 2)) % 9, step) for user in range(12) for step in range(7)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    return Interactions.from_frame(frame, user="user", item="item", timestamp="time").split("leave-one-out")


def fitted(split: Split, out: Path | None = None, *, model: str = "sasrec", **more: Any) -> Run:
    kind = {"sasrec": rg.models.SASRec, "mclrec": rg.models.MCLRec}[model]
    settings = {"seed": 0, "out": out, "device": "cpu", "batch_size": 16, "patience": None, **more}
    return rg.fit(kind(hidden_dim=8, encoder={"n_heads": 1, "n_layers": 1}), split, **settings)


def assert_same(one: Run, other: Run) -> None:
    first, second = one.model.state_dict(), other.model.state_dict()
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    curves = [[{key: row[key] for key in row.keys() - TIMED} for row in run.history] for run in (one, other)]
    assert curves[0] == curves[1]
    assert (one.record.best_epoch, one.record.best) == (other.record.best_epoch, other.record.best)
    assert one.record.training == other.record.training


class Killed(Exception):
    pass


class KillAt(Observer):
    """Ends the process's work, as a kill does, after an epoch or after so many batches."""

    def __init__(self, epoch: int = 0, batch: int = 0) -> None:
        self.epoch, self.left = epoch, batch

    def advance(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed

    def end_epoch(self, row: Any) -> None:
        if row["epoch"] == self.epoch:
            raise Killed


@pytest.mark.parametrize("model", ["sasrec", "mclrec"])
def test_a_run_that_is_killed_goes_on_with_the_same_command_to_the_same_result(
    model: str, split: Split, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"model": model, "max_epochs": 3, "batch_size": 4, "checkpoint_every": 2}
    whole = fitted(split, tmp_path / "whole", **settings)
    for kill in (KillAt(batch=1), KillAt(batch=4), KillAt(epoch=2)):
        with pytest.raises(Killed):
            fitted(split, tmp_path / "run", observers=(kill,), resume=True, **settings)
    assert_same(fitted(split, tmp_path / "run", resume=True, **settings), whole)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in log] == [1, 2, 3]


def test_a_finished_run_with_more_epochs_is_one_that_had_them_at_once(split: Split, tmp_path: Path) -> None:
    whole, out = fitted(split, tmp_path / "whole", max_epochs=4), tmp_path / "run"
    first = fitted(split, out, max_epochs=2)
    first.evaluate("test")
    with pytest.raises(Killed):
        fitted(split, out, max_epochs=4, resume=True, observers=(KillAt(3),))
    # until it is finished again it serves as it did
    served = Recommender.load(out / "bundle").model.state_dict()
    assert all(torch.equal(served[name], value) for name, value in first.model.state_dict().items())
    assert len(RunRecord.read(out).history) == 2
    more = fitted(split, out, max_epochs=4, resume=True)
    assert_same(more, whole)
    assert more.record.results == {}  # those of fewer epochs
    assert more.record.unsealed == first.record.unsealed  # but its test part has been read
    assert_same(Run.open(out, split), whole)  # type: ignore[arg-type]
    users = list(range(12))
    assert Recommender.load(out / "bundle").recommend(users=users).equals(whole.recommend(users=users))


def test_what_differs_is_named(split: Split, tmp_path: Path) -> None:
    out = tmp_path / "run"
    fitted(split, out, max_epochs=1)
    before = (out / "config.json").read_text()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"learning_rate": 0.5, "max_epochs": 2}, "learning_rate"),
        ({"seed": 4, "max_epochs": 2}, "seed"),
        ({"model": "mclrec"}, "model"),
        ({"max_epochs": 0}, "max_epochs"),
    ]
    for settings, named in wrong:
        with refused(named):
            fitted(split, out, **{"max_epochs": 1, **settings}, resume=True)
    assert (out / "config.json").read_text() == before


def test_a_schedule_that_is_laid_out_for_more_goes_on(split: Split, tmp_path: Path) -> None:
    fitted(split, tmp_path / "run", max_epochs=2, schedule="cosine")
    with refused("max_epochs"):
        fitted(split, tmp_path / "run", max_epochs=4, schedule="cosine", resume=True)
    laid_out: dict[str, Any] = {"schedule": "cosine", "schedule_epochs": 4, "warmup_steps": 3}
    fitted(split, tmp_path / "long", max_epochs=2, **laid_out)
    assert_same(
        fitted(split, tmp_path / "long", max_epochs=4, **laid_out, resume=True), fitted(split, max_epochs=4, **laid_out)
    )


def test_a_run_that_stopped_early_goes_on_with_more_patience(split: Split, tmp_path: Path) -> None:
    # a learning rate of 0 in effect: the metric never improves
    still = {"learning_rate": 1e-30, "metric": "ndcg@5", "max_epochs": 12}
    assert len(fitted(split, tmp_path / "run", patience=2, **still).history) == 3
    more = fitted(split, tmp_path / "run", patience=4, **still, resume=True)
    assert_same(more, fitted(split, patience=4, **still))


def test_a_run_without_checkpoints_begins_again(split: Split, tmp_path: Path) -> None:
    fitted(split, tmp_path / "run", max_epochs=1)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert_same(fitted(split, tmp_path / "run", max_epochs=2, resume=True), fitted(split, max_epochs=2))
