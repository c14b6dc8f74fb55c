"""More epochs on a run: after it is finished it is the run that the larger number would have given at once."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

import recgraph as rg
from recgraph.data.interactions import Interactions
from recgraph.data.split import Split
from recgraph.runs.record import RunRecord
from recgraph.runs.run import Run
from recgraph.serve.recommender import Recommender
from recgraph.train.callbacks import Observer

TIMED = {"seconds", "cpu_seconds", "targets_per_second"}


@pytest.fixture(scope="module")
def split() -> Split:
    rows = [(user, (user + step * (1 + user % 2)) % 9, step) for user in range(12) for step in range(7)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    return Interactions.from_frame(frame, user="user", item="item", timestamp="time").split("leave-one-out")


def fitted(split: Split, out: Path | None = None, *, model: str = "sasrec", **more: Any) -> Run:
    models = {
        "sasrec": lambda: rg.models.SASRec(hidden_dim=8, n_heads=1, n_layers=1),
        "mclrec": lambda: rg.models.MCLRec(hidden_dim=8, n_heads=1, n_layers=1),
        "lightgcn": lambda: rg.models.LightGCN(hidden_dim=8),
    }
    settings = {"seed": 0, "out": out, "device": "cpu", "batch_size": 16, "patience": None, **more}
    return rg.fit(models[model](), split, **settings)  # type: ignore[no-untyped-call]


def curve(run: Run) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in TIMED} for row in run.history]


def assert_same(one: Run, other: Run) -> None:
    first, second = one.model.state_dict(), other.model.state_dict()
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    assert curve(one) == curve(other)
    assert (one.record.best_epoch, one.record.best) == (other.record.best_epoch, other.record.best)
    assert one.record.training == other.record.training


@pytest.mark.parametrize("model", ["sasrec", "mclrec", "lightgcn"])
def test_a_finished_run_with_more_epochs_is_one_that_had_them_at_once(model: str, split: Split, tmp_path: Path) -> None:
    whole = fitted(split, tmp_path / "whole", model=model, max_epochs=4)
    out = tmp_path / "run"
    first = fitted(split, out, model=model, max_epochs=2)
    first.evaluate("test")
    more = fitted(split, out, model=model, max_epochs=4, resume=True)
    assert_same(more, whole)
    assert more.record.results == {}  # those of fewer epochs
    assert more.record.unsealed == first.record.unsealed  # but its test part has been read
    opened = Run.open(out, split)
    assert isinstance(opened, Run)
    assert_same(opened, whole)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in log] == [1, 2, 3, 4]
    users = list(range(12))
    assert Recommender.load(out / "bundle").recommend(users=users).equals(whole.recommend(users=users))
    again = fitted(split, out, model=model, max_epochs=4, resume=True)
    assert again.record == more.record


def test_a_fit_on_all_goes_on(split: Split, tmp_path: Path) -> None:
    whole = fitted(split, fit_on="all", max_epochs=3)
    fitted(split, tmp_path / "run", fit_on="all", max_epochs=1)
    more = fitted(split, tmp_path / "run", fit_on="all", max_epochs=3, resume=True)
    assert_same(more, whole)
    assert more.record.unsealed == ["fit SASRec on all"]
    assert more.recommender.seen.to_lists() == split.fit_part("all").items.to_lists()


def test_a_run_that_is_killed_while_it_goes_on_is_resumed(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    first = fitted(split, out, max_epochs=1)

    class Killed(Exception):
        pass

    class Kill(Observer):
        def end_epoch(self, row: Any) -> None:
            if row["epoch"] == 2:
                raise Killed

    with pytest.raises(Killed):
        fitted(split, out, max_epochs=3, resume=True, observers=(Kill(),))
    # until it is finished again it serves as it did, and is no run of three epochs
    served = Recommender.load(out / "bundle").model.state_dict()
    assert all(torch.equal(served[name], value) for name, value in first.model.state_dict().items())
    assert len(RunRecord.read(out).history) == 1
    with pytest.raises(ValueError, match=r"max_epochs = 1: .* holds a run of 3 epochs"):
        fitted(split, out, max_epochs=1, resume=True)
    assert_same(fitted(split, out, max_epochs=3, resume=True), fitted(split, max_epochs=3))


def test_what_differs_is_named(split: Split, tmp_path: Path) -> None:
    out = tmp_path / "run"
    fitted(split, out, max_epochs=1)
    before = (out / "config.json").read_text()
    wrong = [
        ({"learning_rate": 0.5, "max_epochs": 2}, r"another training \(learning_rate = 0.001, now 0.5\); resume"),
        ({"seed": 4, "max_epochs": 2}, "another seed; resume"),
        ({"seed": 4, "batch_size": 8}, r"another training \(batch_size = 16, now 8\), seed; "),
        ({"max_epochs": 0}, r"max_epochs = 0: .* holds a run of 1 epochs.*at least 1"),
        ({"patience": 2, "max_epochs": 2}, r"patience = 2: .* a run of patience none"),
        ({"fit_on": "all", "max_epochs": 2, "metric": "loss"}, r"another training \(metric = .*fitted_on"),
    ]
    for settings, message in wrong:
        with pytest.raises(ValueError, match=message):
            fitted(split, out, **{"max_epochs": 1, **settings}, resume=True)
    with pytest.raises(ValueError, match=r"another config \(hidden_dim = 8, now 16\)"):
        rg.fit(
            rg.models.SASRec(hidden_dim=16, n_heads=1, n_layers=1),
            split,
            seed=0,
            out=out,
            batch_size=16,
            patience=None,
            max_epochs=2,
            resume=True,
        )
    assert (out / "config.json").read_text() == before
    assert not (out / ".lock").exists()


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_schedule_that_has_ended_is_not_stretched(schedule: str, split: Split, tmp_path: Path) -> None:
    fitted(split, tmp_path / "run", max_epochs=2, schedule=schedule)
    message = rf"the {schedule} schedule .* down to 0 over its 2 epochs.*another folder.*schedule_epochs=4"
    with pytest.raises(ValueError, match=message):
        fitted(split, tmp_path / "run", max_epochs=4, schedule=schedule, resume=True)
    # laid out for more from the beginning, it goes on, also with a warm-up
    laid_out: dict[str, Any] = {"schedule": schedule, "schedule_epochs": 4, "warmup_steps": 3}
    fitted(split, tmp_path / "long", max_epochs=2, **laid_out)
    more = fitted(split, tmp_path / "long", max_epochs=4, **laid_out, resume=True)
    assert_same(more, fitted(split, max_epochs=4, **laid_out))
    at_once = fitted(split, max_epochs=4, schedule=schedule, warmup_steps=3)
    for name, value in at_once.model.state_dict().items():
        assert torch.equal(more.model.state_dict()[name], value)


def test_more_epochs_follow_a_schedule_of_drops(split: Split, tmp_path: Path) -> None:
    drops: dict[str, Any] = {"schedule": "step", "drop_after": [1, 3]}
    fitted(split, tmp_path / "run", max_epochs=2, **drops)
    more = fitted(split, tmp_path / "run", max_epochs=4, **drops, resume=True)
    assert_same(more, fitted(split, max_epochs=4, **drops))
    with pytest.raises(ValueError, match="drop_after"):
        fitted(split, tmp_path / "run", max_epochs=4, schedule="step", drop_after=[1, 2], resume=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule_epochs": 5}, "schedule_epochs = 5: the constant schedule has no length"),
        ({"schedule": "cosine", "schedule_epochs": 1}, "schedule_epochs = 1: the rate would be 0 before the last"),
    ],
)
def test_a_length_that_does_not_fit_is_refused(settings: dict[str, Any], message: str, split: Split) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(split, max_epochs=2, **settings)


def test_a_run_that_stopped_early_needs_more_patience(
    split: Split, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # a learning rate of 0 in effect: the metric never improves
    still = {"learning_rate": 1e-30, "metric": "ndcg@5"}
    first = fitted(split, tmp_path / "run", max_epochs=9, patience=2, **still)
    assert len(first.history) == 3
    caplog.set_level(logging.WARNING, logger="recgraph")
    same = fitted(split, tmp_path / "run", max_epochs=12, patience=2, **still, resume=True)
    assert len(same.history) == 3
    assert "had stopped after epoch 3, when ndcg@5 was no better 2 times in a row" in caplog.text
    more = fitted(split, tmp_path / "run", max_epochs=12, patience=4, **still, resume=True)
    assert_same(more, fitted(split, max_epochs=12, patience=4, **still))
    with pytest.raises(ValueError, match=r"patience = 3: .* holds a run of patience 4"):
        fitted(split, tmp_path / "run", max_epochs=12, patience=3, **still, resume=True)


def test_a_run_without_checkpoints_begins_again(split: Split, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fitted(split, tmp_path / "run", max_epochs=1)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    more = fitted(split, tmp_path / "run", max_epochs=2, resume=True)
    assert "has no checkpoint to go on from; the training begins again" in caplog.text
    assert_same(more, fitted(split, max_epochs=2))
