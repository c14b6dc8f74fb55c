"""Fits that go on: stopped ones, finished ones with more epochs, on everything, and with
``refit=True``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from refusing import refused
from safetensors.torch import load_file
from test_trainer import toy, trainer_of

import recgraph as rg
from recgraph.data.split import Interactions, SealedTestError, Split, without_test_data
from recgraph.serve.recommender import Recommender
from recgraph.train.checkpoint import Checkpoint, CheckpointError
from recgraph.train.observers import Observer
from recgraph.train.record import RunRecord
from recgraph.train.run import Run

USERS = list(range(14))


@pytest.fixture(scope="module")
def split() -> Split:
    rows = [
        (user, (user * 3 + step * (1 + user % 3)) % 11, step) for user in USERS for step in range(7)
    ]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    return Interactions.from_frame(frame, user="user", item="item", timestamp="time").split(
        "leave-one-out"
    )


def fitted(split: Any, out: Path | None = None, **more: Any) -> Run:
    model = rg.models.SASRec(hidden_dim=8, encoder={"n_heads": 1, "n_layers": 1})
    # with this rate the best of five epochs is neither the first nor the last one
    settings = {"batch_size": 16, "learning_rate": 0.003, "max_epochs": 5}
    return rg.fit(model, split, **{"seed": 1, "out": out, "device": "cpu", **settings, **more})


def same(one: Run, other: Run) -> bool:
    first, second = one.model.state_dict(), other.model.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_it_is_a_fit_on_train_and_one_on_all_for_its_best_epoch(
    split: Split, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run, chosen = fitted(split, out, refit=True), fitted(split)
    epochs = chosen.record.best_epoch
    assert same(run, fitted(split, fit_on="all", max_epochs=epochs))
    assert (run.record.fitted_on, len(run.history), run.record.best_epoch) == (
        "all",
        epochs,
        epochs,
    )
    assert run.recommender.seen.to_lists() == split.fit_part("all").items.to_lists()
    kept = run.record.selection
    assert kept is not None
    assert (kept["best_epoch"], kept["best"], len(kept["history"])) == (
        epochs,
        chosen.record.best,
        5,
    )
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
    assert [figure.title for figure in run.plot().figures][1:] == [
        "ndcg@10 on valid, of the fit that chose the epochs"
    ]


def test_on_train_and_valid_it_can_be_tested(split: Split) -> None:
    run = fitted(split, refit=True, fit_on="train+valid")
    assert run.evaluate("test")[0].protocol.fitted_on == "train+valid"


def test_a_folder_that_holds_something_else_is_refused_before_the_selection(
    split: Split, tmp_path: Path
) -> None:
    fitted(split, tmp_path / "plain", max_epochs=1)
    for resume in (False, True):
        with refused("refit"):
            fitted(split, tmp_path / "plain", refit=True, resume=resume)
    assert not (tmp_path / "plain" / "selection").exists()
    with refused("ndgc"):
        fitted(split, tmp_path / "run", refit=True, metric="ndgc@10")
    assert not (tmp_path / "run").exists()


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


N_USERS, N_ITEMS, LENGTH = 12, 9, 6


EPOCHS: dict[str, Any] = {"max_epochs": 2, "batch_size": 16}


def rows(length: int = LENGTH) -> list[tuple[int, int, int]]:
    return [
        (user, (user + step * (1 + user % 2)) % N_ITEMS, step)
        for user in range(N_USERS)
        for step in range(length)
    ]


def log_of(found: list[tuple[int, int, int]]) -> Interactions:
    frame = pl.DataFrame(found, schema=["user", "item", "time"], orient="row")
    return Interactions.from_frame(frame, user="user", item="item", timestamp="time")


@pytest.fixture(scope="module")
def log() -> Interactions:
    return log_of(rows())


def fitted_on(name: str, data: Any, **more: Any) -> Run:
    if name == "ease":
        return rg.fit("ease", data, **{"seed": 0, **more})
    model = (
        rg.models.SASRec(hidden_dim=8, encoder={"n_heads": 1, "n_layers": 1})
        if name == "sasrec"
        else rg.models.MEOWRec(hidden_dim=8)
    )
    return rg.fit(model, data, **{"seed": 0, "device": "cpu", **EPOCHS, **more})


@pytest.mark.parametrize("name", ["ease", "sasrec", "meowrec"])
def test_all_of_a_log_is_what_the_train_part_of_a_longer_log_is(
    name: str, log: Interactions
) -> None:
    later = [(user, 0, LENGTH + step) for user in range(N_USERS) for step in range(2)]
    longer = log_of(rows() + later).split("leave-one-out")
    more = {} if name == "ease" else {"metric": "last"}
    expected = fitted_on(name, longer, **more).model.state_dict()
    for run in (fitted_on(name, log), fitted_on(name, log.split("leave-one-out"), fit_on="all")):
        assert run.record.fitted_on == "all"
        assert run.model.state_dict().keys() == expected.keys()
        for key, value in run.model.state_dict().items():
            assert torch.equal(value, expected[key]), key


@pytest.mark.parametrize("name", ["ease", "sasrec"])
def test_a_run_on_all_knows_each_users_newest_item(
    name: str, log: Interactions, tmp_path: Path
) -> None:
    run = fitted_on(name, log.split("leave-one-out"), fit_on="all", out=tmp_path / "run")
    loaded = rg.load(tmp_path / "run")
    done = {(user, item) for user, item, _ in rows()}
    for recommender in (run, loaded):
        found = recommender.recommend(users=list(range(N_USERS)), k=N_ITEMS)
        assert len(found)
        assert not done & set(found.select("user", "item").iter_rows())
    assert loaded.seen.to_lists() == log.ordered.items.to_lists()


def test_a_run_on_all_is_not_evaluated(log: Interactions, tmp_path: Path) -> None:
    split = log.split("leave-one-out")
    run = fitted_on("ease", split, fit_on="all", out=tmp_path / "run")
    for one in (run, Run.open(tmp_path / "run", split)):
        with refused("'test'", "allow_fitted"):
            one.evaluate("test")
    assert run.evaluate("test", seen="keep", allow_fitted=True)[0].protocol.fitted_on == "all"
    fitted_on("ease", log, out=tmp_path / "whole")
    with refused("part"):
        Run.open(tmp_path / "whole", log).evaluate("test")


def test_reading_everything_of_a_split_is_an_opening_of_its_test_part(log: Interactions) -> None:
    split = log.split("leave-one-out")
    assert fitted_on("ease", split, fit_on="all").record.unsealed == ["fit EASE on all"]
    assert fitted_on("ease", log).record.unsealed == []
    for handle in (split.sealed().without_test(), split):
        with without_test_data("a trial runs"), pytest.raises(SealedTestError):
            fitted_on("ease", handle, fit_on="all")


def test_every_epoch_is_trained_and_the_last_one_is_kept(log: Interactions) -> None:
    run = fitted_on("sasrec", log, max_epochs=3, learning_rate=30.0)
    losses = [row["loss"] for row in run.history]
    assert losses[2] > min(losses)  # the loss would not choose the last one
    assert (run.record.best_epoch, run.record.best) == (3, None)
    assert (run.record.training["metric"], run.record.training["patience"]) == ("last", None)
    by_loss = fitted_on("sasrec", log, max_epochs=3, learning_rate=30.0, metric="loss")
    assert by_loss.record.best_epoch == losses.index(min(losses)) + 1


TIMED = {"seconds", "cpu_seconds", "targets_per_second"}


@pytest.fixture(scope="module")
def short() -> Split:
    rows = [
        (user, (user + step * (1 + user % 2)) % 9, step) for user in range(12) for step in range(7)
    ]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    return Interactions.from_frame(frame, user="user", item="item", timestamp="time").split(
        "leave-one-out"
    )


def trained(short: Split, out: Path | None = None, *, model: str = "sasrec", **more: Any) -> Run:
    kind = {"sasrec": rg.models.SASRec, "mclrec": rg.models.MCLRec}[model]
    settings = {"seed": 0, "out": out, "device": "cpu", "batch_size": 16, "patience": None, **more}
    return rg.fit(kind(hidden_dim=8, encoder={"n_heads": 1, "n_layers": 1}), short, **settings)


def assert_same(one: Run, other: Run) -> None:
    first, second = one.model.state_dict(), other.model.state_dict()
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    curves = [
        [{key: row[key] for key in row.keys() - TIMED} for row in run.history]
        for run in (one, other)
    ]
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
    model: str, short: Split, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "model": model,
        "max_epochs": 3,
        "batch_size": 4,
        "checkpoint_every": 2,
    }
    whole = trained(short, tmp_path / "whole", **settings)
    for kill in (KillAt(batch=1), KillAt(batch=4), KillAt(epoch=2)):
        with pytest.raises(Killed):
            trained(short, tmp_path / "run", observers=(kill,), resume=True, **settings)
    assert_same(trained(short, tmp_path / "run", resume=True, **settings), whole)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in log] == [1, 2, 3]


def test_a_finished_run_with_more_epochs_is_one_that_had_them_at_once(
    short: Split, tmp_path: Path
) -> None:
    whole, out = trained(short, tmp_path / "whole", max_epochs=4), tmp_path / "run"
    first = trained(short, out, max_epochs=2)
    first.evaluate("test")
    with pytest.raises(Killed):
        trained(short, out, max_epochs=4, resume=True, observers=(KillAt(3),))
    # until it is finished again it serves as it did
    served = Recommender.load(out / "bundle").model.state_dict()
    assert all(torch.equal(served[name], value) for name, value in first.model.state_dict().items())
    assert len(RunRecord.read(out).history) == 2
    more = trained(short, out, max_epochs=4, resume=True)
    assert_same(more, whole)
    assert more.record.results == {}  # those of fewer epochs
    assert more.record.unsealed == first.record.unsealed  # but its test part has been read
    assert_same(Run.open(out, short), whole)  # type: ignore[arg-type]
    users = list(range(12))
    assert (
        Recommender.load(out / "bundle").recommend(users=users).equals(whole.recommend(users=users))
    )


def test_what_differs_is_named(short: Split, tmp_path: Path) -> None:
    out = tmp_path / "run"
    trained(short, out, max_epochs=1)
    before = (out / "config.json").read_text()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"learning_rate": 0.5, "max_epochs": 2}, "learning_rate"),
        ({"seed": 4, "max_epochs": 2}, "seed"),
        ({"model": "mclrec"}, "model"),
        ({"max_epochs": 0}, "max_epochs"),
    ]
    for settings, named in wrong:
        with refused(named):
            trained(short, out, **{"max_epochs": 1, **settings}, resume=True)
    assert (out / "config.json").read_text() == before


def test_one_that_is_stopped_while_it_chooses_goes_on(split: Split, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Killed):
        fitted(split, out, refit=True, observers=(KillAt(2),))
    run, whole = fitted(split, out, refit=True, resume=True), fitted(split, refit=True)
    assert same(run, whole)
    assert run.selection is not None
    assert whole.selection is not None
    assert same(run.selection, whole.selection)


# -- checkpoints: what is kept, and what is read where the newest is damaged

VALUES = [2.0, 1.0, -1.0, 0.5, 3.0]


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in (folder / "checkpoints").glob("step-*"))


def whole(value: float, step: int, epoch: int) -> Checkpoint:
    tensors = {"a": torch.full((3,), value)}
    return Checkpoint(
        tensors,
        tensors,
        {"stream": torch.zeros(2, dtype=torch.uint8)},
        {"step": step, "epoch": epoch},
    )


def test_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    trainer_of(toy(), VALUES, tmp_path, max_epochs=4).fit()
    assert steps(tmp_path) == [15, 20]


def test_the_best_weights_are_written_before_the_checkpoint_that_counts_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    replace = os.replace

    def note(source: Any, target: Any) -> None:
        calls.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", note)
    trainer_of(toy(), [1.0], tmp_path).fit()
    assert calls.index("best.safetensors") < calls.index("step-000000001-000001")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def flip(path: Path) -> None:
    """Change one bit, in what a reader cannot tell from other numbers."""
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", flip),
        ("best.safetensors", cut),
        ("optimisers.safetensors", Path.unlink),
        ("state.json", cut),
    ],
)
def test_a_training_goes_on_from_the_earlier_checkpoint_where_the_newest_is_damaged(
    tmp_path: Path, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    never_stopped, model, folder = toy(), toy(), tmp_path / "run"
    expected = trainer_of(never_stopped, VALUES, tmp_path / "whole", max_epochs=5)
    expected.fit()
    trainer_of(toy(), VALUES, folder, max_epochs=3).fit()
    damage(folder / "checkpoints" / "step-000000015-000003" / name)
    trainer = trainer_of(model, VALUES, folder, max_epochs=5)
    assert trainer.resume()
    assert trainer.progress.epoch == 2
    assert "step-000000015" in caplog.text
    trainer.fit()
    assert torch.equal(model.a, never_stopped.a)
    assert torch.equal(model.b, never_stopped.b)
    assert expected.best is not None
    for key, value in expected.best.items():
        assert torch.equal(load_file(folder / "best.safetensors")[key], value)
    assert steps(folder) == [20, 25]


def test_two_damaged_checkpoints_are_an_error_that_names_them(tmp_path: Path) -> None:
    trainer_of(toy(), VALUES, tmp_path, max_epochs=3).fit()
    for step in (10, 15):
        cut(tmp_path / "checkpoints" / f"step-{step:09d}-{step // 5:06d}" / "model.safetensors")
    with refused("step-000000015", "step-000000010", by=CheckpointError):
        trainer_of(toy(), VALUES, tmp_path, max_epochs=3).resume()


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    trainer_of(toy(), VALUES, tmp_path, max_epochs=3).fit()
    with refused("learning_rate", by=CheckpointError):
        trainer_of(toy(), VALUES, tmp_path, max_epochs=3, learning_rate=0.2).resume()
