"""``refit=True``: the epoch is chosen on the validation part, then everything is fitted for so many epochs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from refusing import refused

import recgraph as rg
from recgraph.data.split import Interactions, Split
from recgraph.train.observers import Observer
from recgraph.train.record import RunRecord
from recgraph.train.run import Run

USERS = list(range(14))


@pytest.fixture(scope="module")
def split() -> Split:
    rows = [(user, (user * 3 + step * (1 + user % 3)) % 11, step) for user in USERS for step in range(7)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    return Interactions.from_frame(frame, user="user", item="item", timestamp="time").split("leave-one-out")


def fitted(split: Any, out: Path | None = None, **more: Any) -> Run:
    model = rg.models.SASRec(hidden_dim=8, encoder={"n_heads": 1, "n_layers": 1})
    # with this rate the best of five epochs is neither the first nor the last one
    settings = {"batch_size": 16, "learning_rate": 0.003, "max_epochs": 5}
    return rg.fit(model, split, **{"seed": 1, "out": out, "device": "cpu", **settings, **more})


def same(one: Run, other: Run) -> bool:
    first, second = one.model.state_dict(), other.model.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_it_is_a_fit_on_train_and_one_on_all_for_its_best_epoch(split: Split, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run, chosen = fitted(split, out, refit=True), fitted(split)
    epochs = chosen.record.best_epoch
    assert same(run, fitted(split, fit_on="all", max_epochs=epochs))
    assert (run.record.fitted_on, len(run.history), run.record.best_epoch) == ("all", epochs, epochs)
    assert run.recommender.seen.to_lists() == split.fit_part("all").items.to_lists()
    kept = run.record.selection
    assert kept is not None
    assert (kept["best_epoch"], kept["best"], len(kept["history"])) == (epochs, chosen.record.best, 5)
    assert run.selection is not None
    assert same(run.selection, chosen)
    with refused("'test'", "run.selection"):
        run.evaluate("test")
    # what is measured is what the first fit recommends
    assert run.selection.evaluate("test").to_dict() == chosen.evaluate("test").to_dict()
    opened = Run.open(out, split)
    assert isinstance(opened, Run)
    assert opened.selection is not None
    assert opened.selection.record.results["test"]
    again = fitted(split, out, refit=True, resume=True)
    assert same(again, run)
    assert again.record == opened.record
    assert [figure.title for figure in run.plot("curves").figures][1:] == [
        "ndcg@10 on valid, of the fit that chose the epochs"
    ]


def test_on_train_and_valid_it_can_be_tested(split: Split) -> None:
    run = fitted(split, refit=True, fit_on="train+valid")
    assert run.evaluate("test")[0].protocol.fitted_on == "train+valid"


def test_a_schedule_keeps_its_length(split: Split) -> None:
    falling: dict[str, Any] = {"schedule": "cosine", "learning_rate": 0.3}
    run = fitted(split, refit=True, max_epochs=8, patience=2, **falling)
    best = run.record.best_epoch
    assert best is not None
    assert best < 8
    # the rates of the first epochs of a fit on all for eight epochs, which stops after the best
    assert same(run, fitted(split, fit_on="all", max_epochs=best, schedule_epochs=8, **falling))


def test_a_model_that_is_fitted_in_one_step_is_fitted_to_all_at_once(split: Split) -> None:
    run = rg.fit("ease", split, seed=0, refit=True)
    assert (run.record.fitted_on, run.selection, run.record.selection) == ("all", None, None)
    assert same(run, rg.fit("ease", split.interactions, seed=0))


def test_a_folder_that_holds_something_else_is_refused_before_the_selection(split: Split, tmp_path: Path) -> None:
    fitted(split, tmp_path / "plain", max_epochs=1)
    for resume in (False, True):
        with refused("refit"):
            fitted(split, tmp_path / "plain", refit=True, resume=resume)
    assert not (tmp_path / "plain" / "selection").exists()
    with refused("ndgc"):
        fitted(split, tmp_path / "run", refit=True, metric="ndgc@10")
    assert not (tmp_path / "run").exists()


class Killed(Exception):
    pass


class KillAt(Observer):
    def end_epoch(self, row: Mapping[str, Any]) -> None:
        if row["epoch"] == 2:
            raise Killed


def test_one_that_is_stopped_while_it_chooses_goes_on(split: Split, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Killed):
        fitted(split, out, refit=True, observers=(KillAt(),))
    with refused("resume=True"):
        fitted(split, out, refit=True)
    run, whole = fitted(split, out, refit=True, resume=True), fitted(split, refit=True)
    assert same(run, whole)
    assert run.selection is not None
    assert whole.selection is not None
    assert same(run.selection, whole.selection)


def test_more_epochs_for_the_choice(split: Split, tmp_path: Path) -> None:
    quick: dict[str, Any] = {"refit": True, "patience": None, "learning_rate": 0.05}
    fitted(split, tmp_path / "run", max_epochs=1, **quick)
    more = fitted(split, tmp_path / "run", max_epochs=5, resume=True, **quick)
    whole = fitted(split, max_epochs=5, **quick)
    assert whole.record.best_epoch != 1
    assert same(more, whole)
    record = RunRecord.read(tmp_path / "run")
    assert record.selection is not None
    assert len(record.selection["history"]) == 5
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["training"]["max_epochs"] == more.record.best_epoch
