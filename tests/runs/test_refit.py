"""``refit=True``: the epoch is chosen on the validation part, then everything is fitted for so many epochs."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

import recgraph as rg
from recgraph.data.interactions import Interactions
from recgraph.data.split import Split
from recgraph.runs import fit_split as fit_split_module
from recgraph.runs import refit as refit_module
from recgraph.runs.record import RunRecord
from recgraph.runs.run import Run
from recgraph.train.callbacks import Observer

USERS = list(range(14))
#: with which the best of five epochs is neither the first nor the last one
RATES = {"sasrec": 0.003, "lightgcn": 0.003, "meowrec": 0.02}


@pytest.fixture(scope="module")
def split() -> Split:
    rows = [(user, (user * 3 + step * (1 + user % 3)) % 11, step) for user in USERS for step in range(7)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    return Interactions.from_frame(frame, user="user", item="item", timestamp="time").split("leave-one-out")


def fitted(split: Any, out: Path | None = None, *, model: str = "sasrec", **more: Any) -> Run:
    models = {
        "sasrec": lambda: rg.models.SASRec(hidden_dim=8, n_heads=1, n_layers=1),
        "lightgcn": lambda: rg.models.LightGCN(hidden_dim=8),
        "meowrec": lambda: rg.models.MEOWRec(hidden_dim=8),
    }
    settings = {
        "seed": 1,
        "out": out,
        "device": "cpu",
        "batch_size": 16,
        "learning_rate": RATES[model],
        "max_epochs": 5,
    }
    return rg.fit(models[model](), split, **{**settings, **more})  # type: ignore[no-untyped-call]


def same(one: Run, other: Run) -> bool:
    first, second = one.model.state_dict(), other.model.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("has_folder", [False, True])
@pytest.mark.parametrize("model", ["sasrec", "lightgcn", "meowrec"])
def test_it_is_a_fit_on_train_and_one_on_all_for_its_best_epoch(
    model: str, has_folder: bool, split: Split, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run" if has_folder else None
    with caplog.at_level(logging.INFO, logger="recgraph"):
        run = fitted(split, out, model=model, refit=True)
    chosen = fitted(split, model=model)
    epochs = chosen.record.best_epoch
    assert epochs is not None
    assert f"epoch {epochs} of 5 is the best on the validation part" in caplog.text
    expected = fitted(split, model=model, fit_on="all", max_epochs=epochs)
    assert same(run, expected)
    assert (run.record.fitted_on, len(run.history), run.record.best_epoch) == ("all", epochs, epochs)
    assert run.recommender.seen.to_lists() == split.fit_part("all").items.to_lists()
    assert run.record.selection is not None
    kept = run.record.selection
    assert (kept["best_epoch"], kept["best"], len(kept["history"])) == (epochs, chosen.record.best, 5)
    assert kept["training"]["metric"] == "ndcg@10"
    assert run.selection is not None
    assert same(run.selection, chosen)
    with pytest.raises(ValueError, match=r"fitted on all.*run.selection.evaluate\('test'\)"):
        run.evaluate("test")
    # what is measured is what the first fit recommends
    numbers, own = run.selection.evaluate("test"), chosen.evaluate("test")
    assert numbers.to_dict() == own.to_dict()
    if out is not None:
        opened = Run.open(out, split)
        assert isinstance(opened, Run)
        assert opened.record.selection == kept
        assert opened.selection is not None
        assert opened.selection.record.results["test"] == numbers.to_dict()
        again = fitted(split, out, model=model, refit=True, resume=True)
        assert same(again, run)
        assert again.record == opened.record


def test_a_best_epoch_before_the_last(split: Split) -> None:
    """The case that matters: what is fitted is not the selection's number of epochs."""
    run = fitted(split, refit=True, max_epochs=40, patience=3, learning_rate=0.1)
    assert run.selection is not None
    best = run.selection.record.best_epoch
    assert best is not None
    assert best < len(run.selection.history) < 40
    assert len(run.history) == best


def test_its_curves_are_those_of_both_fits(split: Split) -> None:
    run = fitted(split, refit=True)
    drawn = run.plot("curves")
    assert [figure.title for figure in drawn.figures] == ["Loss", "ndcg@10 on valid, of the fit that chose the epochs"]
    assert len(fitted(split, fit_on="all").plot("curves").figures) == 1


def test_it_takes_in_a_new_log(split: Split) -> None:
    run = fitted(split, refit=True, schedule="cosine", max_epochs=8, patience=2, learning_rate=0.3)
    assert run.record.training["schedule_epochs"] == 8
    news = pl.DataFrame([(user, (user + 5) % 11, 7) for user in USERS], schema=["user", "item", "time"], orient="row")
    more = run.update(news, force=True, device="cpu")
    assert more.recommender.seen.lengths.tolist() == [8] * len(USERS)
    assert (more.selection, more.record.selection) == (None, None)


def test_on_train_and_valid_it_can_be_tested(split: Split) -> None:
    run = fitted(split, refit=True, fit_on="train+valid")
    assert run.record.fitted_on == "train+valid"
    assert run.evaluate("test")[0].protocol.fitted_on == "train+valid"
    with pytest.raises(ValueError, match=r"run.selection.evaluate\('valid'\)"):
        run.evaluate("valid")


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_schedule_keeps_its_length(schedule: str, split: Split) -> None:
    run = fitted(split, refit=True, schedule=schedule, max_epochs=8, patience=2, learning_rate=0.3)
    best = run.record.best_epoch
    assert best is not None
    assert best < 8
    assert run.record.training["schedule_epochs"] == 8
    # the rates of the first epochs of a fit on all for eight epochs, which stops after the best
    assert same(
        run, fitted(split, fit_on="all", schedule=schedule, max_epochs=best, schedule_epochs=8, learning_rate=0.3)
    )
    whole = fitted(split, refit=True, schedule=schedule, max_epochs=1)
    assert whole.record.training["schedule_epochs"] == 1


@pytest.mark.parametrize("length", [None, 5])
def test_more_patience_may_make_the_last_epoch_the_best(
    length: int | None, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([0.1, 0.5, 0.2, 0.3, 0.6])
    measured = fit_split_module.validation
    monkeypatch.setattr(
        fit_split_module, "validation", lambda *a, **more: {**measured(*a, **more), "ndcg@10": next(values)}
    )
    asked: dict[str, Any] = {"refit": True, "schedule": "cosine", "schedule_epochs": length}
    first = fitted(split, tmp_path / "run", patience=2, **asked)
    assert first.record.best_epoch == 2
    more = fitted(split, tmp_path / "run", patience=5, **asked, resume=True)
    assert more.record.best_epoch == 5
    assert same(more, fitted(split, fit_on="all", schedule="cosine", max_epochs=5))


def test_a_fit_that_an_earlier_version_gave_no_length_is_the_same(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"refit": True, "schedule": "cosine", "max_epochs": 1}
    with monkeypatch.context() as earlier:
        earlier.setattr(refit_module, "_says_no_length", lambda *_: True)
        run = fitted(split, tmp_path / "run", **asked)
    assert run.record.training["schedule_epochs"] is None
    assert same(fitted(split, tmp_path / "run", **asked, resume=True), run)


def test_a_schedule_of_drops_keeps_its_epochs(split: Split) -> None:
    drops: dict[str, Any] = {"schedule": "step", "drop_after": [1, 5], "learning_rate": 0.3}
    run = fitted(split, refit=True, max_epochs=8, patience=2, **drops)
    best = run.record.best_epoch
    assert best is not None
    assert same(run, fitted(split, fit_on="all", max_epochs=best, **drops))


def test_a_model_that_is_fitted_in_one_step_is_fitted_to_all_at_once(split: Split, tmp_path: Path) -> None:
    run = rg.fit("ease", split, seed=0, out=tmp_path / "run", refit=True)
    assert (run.record.fitted_on, run.selection, run.record.selection) == ("all", None, None)
    assert same(run, rg.fit("ease", split.interactions, seed=0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "loss"}, "metric = 'loss' chooses nothing on the validation part"),
        ({"metric": "last"}, "metric = 'last' chooses nothing on the validation part"),
        ({"fit_on": "train"}, "fit_on = 'train' is what refit=True selects on"),
        ({"metric": "ndgc@10"}, "metric 'ndgc' does not exist"),
    ],
)
def test_mistakes_leave_no_folder(settings: dict[str, Any], message: str, split: Split, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(split, tmp_path / "run", refit=True, **settings)
    assert not (tmp_path / "run").exists()


def test_a_log_has_no_validation_part(split: Split, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data is not split; give data.split\('leave-one-out'\)"):
        fitted(split.interactions, tmp_path / "run", refit=True)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_something_else_is_refused_before_the_selection(split: Split, tmp_path: Path) -> None:
    fitted(split, tmp_path / "plain", max_epochs=1)
    with pytest.raises(ValueError, match="holds a run already"):
        fitted(split, tmp_path / "plain", refit=True)
    with pytest.raises(ValueError, match=r"was not made with refit=True"):
        fitted(split, tmp_path / "plain", refit=True, resume=True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("")
    with pytest.raises(ValueError, match="is not a run"):
        fitted(split, tmp_path / "notes", refit=True)
    for folder in ("plain", "notes"):
        assert not (tmp_path / folder / "selection").exists()


class Killed(Exception):
    pass


class KillAt(Observer):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def end_epoch(self, row: Mapping[str, Any]) -> None:
        if row["epoch"] == self.epoch:
            raise Killed


def test_one_that_is_stopped_while_it_chooses_goes_on(split: Split, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Killed):
        fitted(split, out, refit=True, observers=(KillAt(2),))
    assert not (out / "record.json").exists()
    with pytest.raises(ValueError, match="holds a refit that was stopped"):
        fitted(split, out, resume=True)
    with pytest.raises(ValueError, match="holds a run already"):
        fitted(split, out, refit=True)
    run, whole = fitted(split, out, refit=True, resume=True), fitted(split, refit=True)
    assert same(run, whole)
    assert run.selection is not None
    assert whole.selection is not None
    assert same(run.selection, whole.selection)


def test_more_epochs_for_the_choice(split: Split, tmp_path: Path) -> None:
    out = tmp_path / "run"
    quick: dict[str, Any] = {"refit": True, "patience": None, "learning_rate": 0.05}
    few = fitted(split, out, max_epochs=1, **quick)
    assert few.record.training["max_epochs"] == 1
    more = fitted(split, out, max_epochs=5, resume=True, **quick)
    whole = fitted(split, max_epochs=5, **quick)
    assert whole.record.best_epoch != 1
    assert same(more, whole)
    record = RunRecord.read(out)
    assert record.selection is not None
    assert len(record.selection["history"]) == 5
    assert json.loads((out / "config.json").read_text())["training"]["max_epochs"] == more.record.best_epoch


def test_a_run_whose_selection_is_gone_still_serves(split: Split, tmp_path: Path) -> None:
    run = fitted(split, tmp_path / "run", refit=True)
    shutil.rmtree(tmp_path / "run" / "selection")
    with pytest.raises(ValueError, match="was not made with refit=True"):
        fitted(split, tmp_path / "run", refit=True, resume=True)
    assert same(Run.open(tmp_path / "run", split), run)  # type: ignore[arg-type]
