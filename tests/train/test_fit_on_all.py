"""A fit on everything: what is read, what selects, what the users are known to have done, and what is not evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from refusing import refused

import recgraph as rg
from recgraph.data.split import Interactions, SealedTestError, without_test_data
from recgraph.train.run import Run

N_USERS, N_ITEMS, LENGTH = 12, 9, 6
EPOCHS: dict[str, Any] = {"max_epochs": 2, "batch_size": 16}


def rows(length: int = LENGTH) -> list[tuple[int, int, int]]:
    return [(user, (user + step * (1 + user % 2)) % N_ITEMS, step) for user in range(N_USERS) for step in range(length)]


def log_of(found: list[tuple[int, int, int]]) -> Interactions:
    frame = pl.DataFrame(found, schema=["user", "item", "time"], orient="row")
    return Interactions.from_frame(frame, user="user", item="item", timestamp="time")


@pytest.fixture(scope="module")
def log() -> Interactions:
    return log_of(rows())


def fitted(name: str, data: Any, **more: Any) -> Run:
    if name == "ease":
        return rg.fit("ease", data, **{"seed": 0, **more})
    model = (
        rg.models.SASRec(hidden_dim=8, encoder={"n_heads": 1, "n_layers": 1})
        if name == "sasrec"
        else rg.models.MEOWRec(hidden_dim=8)
    )
    return rg.fit(model, data, **{"seed": 0, "device": "cpu", **EPOCHS, **more})


@pytest.mark.parametrize("name", ["ease", "sasrec", "meowrec"])
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
def test_a_run_on_all_knows_each_users_newest_item(name: str, log: Interactions, tmp_path: Path) -> None:
    run = fitted(name, log.split("leave-one-out"), fit_on="all", out=tmp_path / "run")
    loaded = rg.load(tmp_path / "run")
    done = {(user, item) for user, item, _ in rows()}
    for recommender in (run, loaded):
        found = recommender.recommend(users=list(range(N_USERS)), k=N_ITEMS)
        assert len(found)
        assert not done & set(found.select("user", "item").iter_rows())
    assert loaded.seen.to_lists() == log.ordered.items.to_lists()


def test_a_run_on_all_is_not_evaluated(log: Interactions, tmp_path: Path) -> None:
    split = log.split("leave-one-out")
    run = fitted("ease", split, fit_on="all", out=tmp_path / "run")
    for one in (run, Run.open(tmp_path / "run", split)):
        with refused("'test'", "allow_fitted"):
            one.evaluate("test")
    assert run.evaluate("test", seen="keep", allow_fitted=True)[0].protocol.fitted_on == "all"
    fitted("ease", log, out=tmp_path / "whole")
    with refused("part"):
        Run.open(tmp_path / "whole", log).evaluate("test")


def test_reading_everything_of_a_split_is_an_opening_of_its_test_part(log: Interactions) -> None:
    split = log.split("leave-one-out")
    assert fitted("ease", split, fit_on="all").record.unsealed == ["fit EASE on all"]
    assert fitted("ease", log).record.unsealed == []
    for handle in (split.sealed().without_test(), split):
        with without_test_data("a trial runs"), pytest.raises(SealedTestError):
            fitted("ease", handle, fit_on="all")


def test_every_epoch_is_trained_and_the_last_one_is_kept(log: Interactions) -> None:
    run = fitted("sasrec", log, max_epochs=3, learning_rate=30.0)
    losses = [row["loss"] for row in run.history]
    assert losses[2] > min(losses)  # the loss would not choose the last one
    assert (run.record.best_epoch, run.record.best) == (3, None)
    assert (run.record.training["metric"], run.record.training["patience"]) == ("last", None)
    by_loss = fitted("sasrec", log, max_epochs=3, learning_rate=30.0, metric="loss")
    assert by_loss.record.best_epoch == losses.index(min(losses)) + 1


def test_a_metric_needs_a_validation_part(log: Interactions, tmp_path: Path) -> None:
    with refused("metric"):
        fitted("sasrec", log, out=tmp_path / "run", metric="ndcg@10")
    assert not (tmp_path / "run").exists()
