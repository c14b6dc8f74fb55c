"""``rg.fit``: what is refused before a run has a folder, and what becomes of one that is finished."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

import recgraph as rg
from recgraph.data import files
from recgraph.data.interactions import Interactions
from recgraph.data.split import Split
from recgraph.models.base import ClosedFormModel
from recgraph.models.closed_form.linear import EASE
from recgraph.models.sequence.sasrec import SASRec
from recgraph.runs import fit_split as experiment
from recgraph.runs.record import RunRecord


@pytest.fixture(scope="module")
def split() -> Split:
    rows = [(user, (user + step) % 9, step) for user in range(12) for step in range(6)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    return Interactions.from_frame(frame, user="user", item="item", timestamp="time").split("leave-one-out")


def fitted(split: Split, out: Path | None = None, **more: Any) -> Any:
    model = SASRec(hidden_dim=8, n_heads=1, n_layers=1)
    return rg.fit(model, split, **{"seed": 0, "out": out, "device": "cpu", "max_epochs": 1, **more})


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"metric": "ndgc@10"}, "metric 'ndgc' does not exist"),
        ({"metric": "gini@10"}, "metric = 'gini@10' cannot select the best epoch: it is better when it is lower"),
        ({"fit_on": "train+valid", "metric": "ndcg@10"}, "needs a validation part"),
        ({"device": "abacus"}, "device = 'abacus' is not there"),
        ({"tensorboard": True}, "needs the extra"),
    ],
)
def test_a_mistake_leaves_no_folder(
    mistake: dict[str, Any], message: str, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)  # not installed
    with pytest.raises(ValueError, match=message):
        fitted(split, tmp_path / "run", **mistake)
    assert not (tmp_path / "run").exists()
    fitted(split, tmp_path / "run")


def test_runs_in_memory_have_folders_of_their_own_in_tensorboard(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch.utils.tensorboard", reason="tensorboard is not installed", exc_type=ImportError)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        rg.fit("sasrec", split, seed=0, max_epochs=1, device="cpu", tensorboard=True)
    folders = list((tmp_path / "runs" / "tensorboard").iterdir())
    assert len(folders) == 2
    assert [len(list(folder.glob("events.*"))) for folder in folders] == [1, 1]
    rg.fit("sasrec", split, seed=0, max_epochs=1, device="cpu", tensorboard=True, out=tmp_path / "one")
    assert len(list((tmp_path / "one" / "tensorboard").glob("events.*"))) == 1


@pytest.mark.parametrize("model", ["sasrec", "ease"])
def test_a_finished_run_is_given_back_as_it_is(model: str, split: Split, tmp_path: Path) -> None:
    def fit(**more: Any) -> Any:
        training = {"max_epochs": 1} if model == "sasrec" else {}
        return rg.fit(model, split, seed=0, out=tmp_path / "run", device="cpu", **training, **more)

    fit().evaluate("test")
    before = RunRecord.read(tmp_path / "run")
    assert before.unsealed
    assert before.results
    again = fit(resume=True)
    assert RunRecord.read(tmp_path / "run") == again.record == before
    assert again.evaluate("test").to_dict() == before.results["test"]
    with pytest.raises(ValueError, match="another seed"):
        rg.fit(
            model, split, seed=1, out=tmp_path / "run", resume=True, **({"max_epochs": 1} if model != "ease" else {})
        )


def test_a_run_is_evaluated_by_any_metric(split: Split) -> None:
    results = fitted(split).evaluate("test", seen="exclude", cutoffs=(3,), metrics=("ndcg", "novelty", "gini"))
    assert list(results[0].metrics) == ["ndcg@3", "novelty@3", "gini@3"]


def test_the_valid_part_of_a_run_that_was_fitted_on_it_is_refused(split: Split, tmp_path: Path) -> None:
    run = rg.fit("ease", split, seed=0, out=tmp_path / "run", fit_on="train+valid")
    message = r"part = 'valid': .* fitted on train\+valid.*evaluate\('test'\).*fit_on='train'.*allow_fitted=True"
    for one in (run, rg.Run.open(tmp_path / "run", split)):
        assert isinstance(one, rg.Run)
        with pytest.raises(ValueError, match=message):
            one.evaluate("valid")
    assert run.record.results == {}
    run.evaluate("test")
    rg.fit("ease", split, seed=0).evaluate("valid")


def test_how_well_a_run_fits_its_valid_part_is_measured_where_it_is_asked_for(split: Split) -> None:
    run = rg.fit("ease", split, seed=0, fit_on="train+valid")
    found = run.evaluate("valid", seen="keep", metrics=("ndcg", "average_popularity"), allow_fitted=True)
    assert (found[0].protocol.part, found[0].protocol.fitted_on) == ("valid", "train+valid")
    fitted = split.fit_part("train+valid")
    own = rg.evaluate.evaluate(
        run.model, split.valid, seen=("keep",), metrics=("ndcg", "average_popularity"), fit_part=fitted
    )
    assert found[0].metrics == own[0].metrics
    assert run.record.unsealed == ["fit EASE on train+valid", "evaluate EASE on valid"]


def test_every_opening_of_the_test_part_stays_in_the_record(split: Split, tmp_path: Path) -> None:
    fitted(split, tmp_path / "run").evaluate("test")
    for times in (2, 3):
        again = rg.Run.open(tmp_path / "run", split)
        assert isinstance(again, rg.Run)
        again.evaluate("test")
        assert RunRecord.read(tmp_path / "run").unsealed == ["evaluate SASRec on test"] * times


def test_where_a_split_is_from_does_not_make_another_run(split: Split, tmp_path: Path) -> None:
    fitted(split, tmp_path / "run")
    fitted(split, tmp_path / "run", resume=True, source={"dataset": "mine", "settings": {"split": None}})
    other = Split.of(split.interactions, "ratio")
    with pytest.raises(ValueError, match="another data"):
        fitted(other, tmp_path / "run", resume=True)


def test_a_finished_run_without_its_bundle_is_made_again(split: Split, tmp_path: Path) -> None:
    run = fitted(split, tmp_path / "run")
    (tmp_path / "run" / "bundle").rename(tmp_path / "away")
    again = fitted(split, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "bundle").is_dir()
    for name, value in run.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("more", [{}, {"refit": True, "fit_on": "all", "metric": "ndcg@10"}])
def test_a_run_that_was_killed_before_it_had_a_configuration_begins_again(
    split: Split, tmp_path: Path, resume: bool, more: dict[str, Any]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    temporary, lock = files._owned(folder / "config.json")
    assert lock is not None
    os.close(lock)  # as the system does when the process is killed
    (folder / ".lock").write_text("{}")
    fitted(split, folder, resume=resume, **more)
    assert (folder / "record.json").is_file()
    assert not temporary.exists()


def test_a_valid_part_without_users_is_an_error_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pl.DataFrame({"user": [0, 0, 1, 1], "item": [0, 1, 1, 0], "time": [0, 1, 2, 3]})
    log = Interactions.from_frame(frame, user="user", item="item", timestamp="time")
    split = log.split("leave-one-out", short_users="train")
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "build", None)
        with pytest.raises(ValueError, match=r"the valid part of split .* is empty; use metric='loss'"):
            fitted(split)
    fitted(split, metric="loss")
    rg.fit("ease", split, seed=0)


@pytest.mark.parametrize("given", [{"max_epochs": 3}, {"learning_rate": 3.0, "metric": "ndcg@5"}])
def test_a_model_that_is_fitted_in_one_step_takes_no_settings_of_training(given: dict[str, Any], split: Split) -> None:
    message = f"EASE .* no settings of training: leave out {', '.join(given)}; its own settings are l2"
    with pytest.raises(ValueError, match=message):
        rg.fit("ease", split, seed=0, **given)


def test_other_settings_beside_a_model_that_is_fitted_in_one_step(split: Split) -> None:
    with pytest.raises(ValueError, match=r"^l2 is a setting of the model: give it there, as EASE\(l2=\.\.\.\)$"):
        rg.fit("ease", split, seed=0, l2=3.0)
    with pytest.raises(ValueError, match=r"^EASE: unknown setting 'l3'; known settings: l2"):
        rg.fit("ease", split, seed=0, l3=3.0)
    with pytest.raises(ValueError, match=r"leave out max_epochs; it has no settings of its own$"):
        rg.fit("popularity", split, seed=0, max_epochs=3)


def test_a_model_that_is_fitted_in_one_step_is_fitted_on_the_device(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="device = 'abacus' is not there; this machine has cpu"):
        rg.fit("ease", split, seed=0, out=tmp_path / "run", device="abacus")
    assert not (tmp_path / "run").exists()
    moved = []

    def to(self: ClosedFormModel, device: torch.device) -> ClosedFormModel:
        moved.append((device, bool(self.weights.any())))  # type: ignore[operator, union-attr]
        return self

    monkeypatch.setattr(EASE, "to", to)
    rg.fit("ease", split, seed=0, device="cpu")
    assert moved == [(torch.device("cpu"), False)]


def test_a_model_of_a_graph_is_sent_to_fit_graph() -> None:
    split = rg.load_dataset("synthetic").split("leave-one-out")
    with pytest.raises(ValueError, match=r"MEOW embeds the nodes of a typed graph .* rg.fit_graph"):
        rg.fit("meow", split, seed=0)
