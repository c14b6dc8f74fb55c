"""A fit on everything: what is read, what selects, what the users are known to have done, and what is not evaluated."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

import recgraph as rg
from recgraph.data.interactions import Interactions
from recgraph.data.sealing import SealedTestError, without_test_data
from recgraph.models.base import Model
from recgraph.runs.run import Run

N_USERS, N_ITEMS, LENGTH = 12, 9, 6
EPOCHS: dict[str, Any] = {"max_epochs": 2, "batch_size": 16}
MODELS = {
    "ease": (lambda: rg.models.EASE(), {}),
    "sasrec": (lambda: rg.models.SASRec(hidden_dim=8, n_heads=1, n_layers=1), EPOCHS),
    "lightgcn": (lambda: rg.models.LightGCN(hidden_dim=8), EPOCHS),
    "meowrec": (lambda: rg.models.MEOWRec(hidden_dim=8), EPOCHS),
}


def rows(length: int = LENGTH) -> list[tuple[int, int, int]]:
    return [(user, (user + step * (1 + user % 2)) % N_ITEMS, step) for user in range(N_USERS) for step in range(length)]


def log_of(found: list[tuple[int, int, int]]) -> Interactions:
    frame = pl.DataFrame(found, schema=["user", "item", "time"], orient="row")
    return Interactions.from_frame(frame, user="user", item="item", timestamp="time")


@pytest.fixture(scope="module")
def log() -> Interactions:
    return log_of(rows())


def made(name: str) -> tuple[Model, dict[str, Any]]:
    make, training = MODELS[name]
    return make(), training  # type: ignore[no-untyped-call]


def fitted(name: str, data: Any, **more: Any) -> Run:
    model, training = made(name)
    return rg.fit(model, data, **{"seed": 0, "device": "cpu", **training, **more})


@pytest.mark.parametrize("name", MODELS)
def test_all_of_a_log_is_what_the_train_part_of_a_longer_log_is(name: str, log: Interactions) -> None:
    later = [(user, 0, LENGTH + step) for user in range(N_USERS) for step in range(2)]
    longer = log_of(rows() + later).split("leave-one-out")
    more = {} if name == "ease" else {"metric": "last"}
    expected = fitted(name, longer, **more).model.state_dict()
    for run in (fitted(name, log), fitted(name, log.split("leave-one-out"), fit_on="all")):
        assert run.record.fitted_on == "all"
        assert run.model.state_dict().keys() == expected.keys()
        for key, value in run.model.state_dict().items():
            assert torch.equal(value, expected[key]), key


@pytest.mark.parametrize("name", ["ease", "sasrec"])
@pytest.mark.parametrize("has_folder", [False, True])
@pytest.mark.parametrize("is_split", [False, True])
def test_a_run_on_all_knows_each_users_newest_item(
    name: str, has_folder: bool, is_split: bool, log: Interactions, tmp_path: Path
) -> None:
    data = log.split("leave-one-out") if is_split else log
    run = fitted(name, data, fit_on="all", out=tmp_path / "run" if has_folder else None)
    run.save(tmp_path / "bundle")
    loaded = rg.load(tmp_path / "bundle")
    for recommender in (run, loaded):
        found = recommender.recommend(users=list(range(N_USERS)), k=N_ITEMS)
        done = {(user, item) for user, item, _ in rows()}
        assert len(found)
        assert not done & set(found.select("user", "item").iter_rows())
    assert loaded.seen.to_lists() == log.ordered.items.to_lists()
    blind = fitted(name, log.split("leave-one-out")).recommend(users=list(range(N_USERS)), k=N_ITEMS)
    newest = {(user, item) for user, item, step in rows() if step == LENGTH - 1}
    assert newest & set(blind.select("user", "item").iter_rows())


@pytest.mark.parametrize("part", ["valid", "test"])
def test_a_run_on_all_is_not_evaluated(part: str, log: Interactions, tmp_path: Path) -> None:
    split = log.split("leave-one-out")
    run = fitted("ease", split, fit_on="all", out=tmp_path / "run")
    again = Run.open(tmp_path / "run", split)
    assert isinstance(again, Run)
    for one in (run, again):
        with pytest.raises(ValueError, match=rf"part = '{part}': .* fitted on all.*fit_on='train'.*allow_fitted=True"):
            one.evaluate(part)
    found = run.evaluate(part, seen="keep", allow_fitted=True)
    assert found[0].protocol.fitted_on == "all"
    own = rg.evaluate.evaluate(
        run.model, getattr(split, part), seen=("keep",), fit_part=split.fit_part("all"), cutoffs=(5, 10, 20)
    )
    assert found[0].metrics == own[0].metrics
    with pytest.raises(ValueError, match="is in fitted_on = 'all'"):
        rg.evaluate.evaluate(run.model, split.test, part=part, fitted_on="all")


def test_a_run_on_a_log_has_nothing_to_evaluate(log: Interactions, tmp_path: Path) -> None:
    fitted("ease", log, out=tmp_path / "run")
    run = Run.open(tmp_path / "run", log)
    assert isinstance(run, Run)
    for allowed in (False, True):
        with pytest.raises(ValueError, match=r"all of a log .* not split.*data.split\('leave-one-out'\)"):
            run.evaluate("test", allow_fitted=allowed)
    with pytest.raises(ValueError, match="is not the run's"):
        Run.open(tmp_path / "run", log_of(rows(5)))


def test_reading_everything_of_a_split_is_an_opening_of_its_test_part(log: Interactions) -> None:
    split = log.split("leave-one-out")
    assert fitted("ease", split, fit_on="all").record.unsealed == ["fit EASE on all"]
    assert fitted("ease", log).record.unsealed == []
    for handle in (split.sealed().without_test(), split):
        with without_test_data("a trial runs"), pytest.raises(SealedTestError):
            fitted("ease", handle, fit_on="all")
    with pytest.raises(SealedTestError, match="fitting on all leaves nothing"):
        split.sealed().fit_part("all")


def test_every_epoch_is_trained_and_the_last_one_is_kept(log: Interactions, tmp_path: Path) -> None:
    run = fitted("sasrec", log, max_epochs=3, learning_rate=30.0, out=tmp_path / "run")
    assert [row["epoch"] for row in run.history] == [1, 2, 3]
    losses = [row["loss"] for row in run.history]
    assert losses[2] > min(losses)  # the loss would not choose the last one
    assert (run.record.best_epoch, run.record.best) == (3, None)
    training = run.record.training
    assert (training["metric"], training["patience"]) == ("last", None)
    by_loss = fitted("sasrec", log, max_epochs=3, learning_rate=30.0, metric="loss")
    assert by_loss.record.best_epoch == losses.index(min(losses)) + 1
    last, best = run.model.state_dict(), by_loss.model.state_dict()
    assert any(not torch.equal(last[key], best[key]) for key in last)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["fitted_on"], config["data"]["split"]) == ("all", "all")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "ndcg@10"}, r"metric = 'ndcg@10' needs a validation part, and fit_on = 'all' leaves none.*refit"),
        ({"patience": 3}, r"patience = 3 .*fit_on = 'all'.*max_epochs"),
        ({"metric": "last", "patience": 3}, r"patience = 3 .*fit_on = 'all'.*max_epochs"),
        ({"fit_on": "train"}, r"fit_on = 'train' .*data.split\('leave-one-out'\)"),
        ({"fit_on": "train+valid"}, r"fit_on = 'train\+valid' .*data.split\('leave-one-out'\)"),
    ],
)
def test_what_needs_a_validation_is_refused(
    settings: dict[str, Any], message: str, log: Interactions, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        fitted("sasrec", log, out=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_the_last_epoch_of_a_fit_on_train_takes_no_patience(log: Interactions) -> None:
    split = log.split("leave-one-out")
    with pytest.raises(ValueError, match="patience = 3 waits for a better metric, and with metric = 'last'"):
        fitted("sasrec", split, metric="last", patience=3)
    assert "ndcg@10" not in fitted("sasrec", split, metric="last").history[0]


def test_a_number_of_epochs_that_nobody_chose_is_said(log: Interactions, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="recgraph"):
        fitted("sasrec", log)
        assert "max_epochs" not in caplog.text
        rg.fit(rg.models.BPRMF(hidden_dim=4), log, seed=0, device="cpu", batch_size=512)
    assert "all 100 epochs, the default of max_epochs" in caplog.text


def test_init_items_of_a_run_on_all_are_a_leak(log: Interactions, caplog: pytest.LogCaptureFixture) -> None:
    split = log.split("leave-one-out")
    source = fitted("sasrec", split, fit_on="all")
    fitted("sasrec", split, fit_on="train+valid", init_items=source)
    assert "fitted on all: it knows what is asked for in validation and test" in caplog.text
    caplog.clear()
    fitted("sasrec", split, fit_on="all", init_items=source)
    assert "it knows" not in caplog.text


def test_a_run_on_all_is_resumed(log: Interactions, tmp_path: Path) -> None:
    run = fitted("sasrec", log, out=tmp_path / "run")
    assert repr(run) == f"Run(sasrec on a log, fitted on all, in {tmp_path / 'run'})"
    again = fitted("sasrec", log, out=tmp_path / "run", resume=True)
    assert again.record == run.record
    with pytest.raises(ValueError, match="another"):
        fitted("sasrec", log.split("leave-one-out"), out=tmp_path / "run", resume=True)


def test_a_run_that_was_opened_keeps_what_its_users_have_done(log: Interactions, tmp_path: Path) -> None:
    split = log.split("leave-one-out")
    run = fitted("ease", split, fit_on="all", out=tmp_path)
    opened = Run.open(tmp_path, split)
    assert isinstance(opened, Run)
    opened.keep()
    kept = rg.load(tmp_path)
    assert isinstance(kept, rg.Recommender)
    assert kept.seen.to_lists() == run.recommender.seen.to_lists()
