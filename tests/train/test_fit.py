"""``rg.fit``: what is refused before a run has a folder, what becomes of a finished one, and what it tells."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from refusing import refused

import recgraph as rg
from recgraph import registry
from recgraph.data.split import Interactions, Split
from recgraph.files import InUse, hold
from recgraph.train.config import TrainConfig
from recgraph.train.fit import parts_of
from recgraph.train.record import RunRecord


@pytest.fixture(scope="module")
def split() -> Split:
    rows = [(user, (user + step) % 9, step) for user in range(12) for step in range(6)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    return Interactions.from_frame(frame, user="user", item="item", timestamp="time").split("leave-one-out")


def fitted(split: Split, out: Path | None = None, **more: Any) -> Any:
    model = rg.models.SASRec(hidden_dim=8, encoder={"n_heads": 1, "n_layers": 1})
    return rg.fit(model, split, **{"seed": 0, "out": out, "device": "cpu", "max_epochs": 1, **more})


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        ({"metric": "ndgc@10"}, "ndgc"),
        ({"metric": "gini@10"}, "gini@10"),
        ({"fit_on": "train+valid", "metric": "ndcg@10"}, "metric"),
        ({"device": "abacus"}, "device"),
        ({"batch_size": 0}, "batch_size"),
        ({"init_items": 7}, "init_items"),
    ],
)
def test_a_mistake_leaves_no_folder(mistake: dict[str, Any], named: str, split: Split, tmp_path: Path) -> None:
    with refused(named):
        fitted(split, tmp_path / "run", **mistake)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("model", ["sasrec", "ease"])
def test_a_finished_run_is_given_back_as_it_is(model: str, split: Split, tmp_path: Path) -> None:
    training = {"max_epochs": 1} if model == "sasrec" else {}

    def fit(seed: int = 0, **more: Any) -> Any:
        return rg.fit(model, split, seed=seed, out=tmp_path / "run", device="cpu", **training, **more)

    fit().evaluate("test")
    before = RunRecord.read(tmp_path / "run")
    assert before.unsealed
    assert before.results
    again = fit(resume=True)
    assert RunRecord.read(tmp_path / "run") == again.record == before
    assert again.evaluate("test").to_dict() == before.results["test"]
    assert RunRecord.read(tmp_path / "run").unsealed == before.unsealed * 2, "every opening of the test part"
    with refused("resume=True"):
        fit()
    with refused("seed"):
        fit(seed=1, resume=True)


def test_another_process_in_the_folder_is_refused(split: Split, tmp_path: Path) -> None:
    with hold(tmp_path / "run"), refused("run", by=InUse):
        fitted(split, tmp_path / "run")
    fitted(split, tmp_path / "run")


def test_a_folder_of_something_else_is_refused(split: Split, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with refused("out"):
        fitted(split, tmp_path)


def test_the_valid_part_of_a_run_that_was_fitted_on_it_is_refused(split: Split, tmp_path: Path) -> None:
    run = rg.fit("ease", split, seed=0, out=tmp_path / "run", fit_on="train+valid")
    for one in (run, rg.Run.open(tmp_path / "run", split)):
        with refused("'valid'", "allow_fitted"):
            one.evaluate("valid")
    assert run.record.results == {}
    run.evaluate("test")
    found = run.evaluate("valid", seen="keep", metrics=("ndcg",), allow_fitted=True)
    assert (found[0].protocol.part, found[0].protocol.fitted_on) == ("valid", "train+valid")
    assert run.record.unsealed == ["fit EASE on train+valid", "evaluate EASE on test", "evaluate EASE on valid"]


def test_where_a_split_is_from_does_not_make_another_run(split: Split, tmp_path: Path) -> None:
    fitted(split, tmp_path / "run")
    fitted(split, tmp_path / "run", resume=True, source={"dataset": "mine", "settings": {"split": None}})
    with refused("data"):
        fitted(Split.of(split.interactions, "ratio"), tmp_path / "run", resume=True)
    with refused("data"):
        rg.Run.open(tmp_path / "run", Split.of(split.interactions, "ratio"))


def test_a_finished_run_without_its_bundle_is_made_again(split: Split, tmp_path: Path) -> None:
    run = fitted(split, tmp_path / "run")
    (tmp_path / "run" / "bundle").rename(tmp_path / "away")
    again = fitted(split, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "bundle").is_dir()
    for name, value in run.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value)


def test_settings_of_training_for_a_model_that_is_fitted_in_one_step(split: Split) -> None:
    with refused("max_epochs"):
        rg.fit("ease", split, seed=0, max_epochs=3)
    with refused("l3"):
        rg.fit("ease", split, seed=0, l3=3.0)


def test_a_model_of_a_graph_is_sent_to_fit_graph(split: Split) -> None:
    with refused("MEOW", "fit_graph"):
        rg.fit("meow", split, seed=0)


def test_what_is_given_comes_before_the_models_own_defaults_of_training(split: Split) -> None:
    own = parts_of(registry.load("model", "lightgcn"))["training"]()
    assert (own.batch_size, own.learning_rate) == (4096, 0.01)  # type: ignore[attr-defined]
    assert parts_of(registry.load("model", "sasrec"))["training"]() == TrainConfig()
    run = rg.fit("lightgcn", split, seed=0, device="cpu", max_epochs=1, batch_size=16)
    assert (run.record["training"]["batch_size"], run.record["training"]["learning_rate"]) == (16, 0.01)


def test_a_fit_tells_its_story(split: Split, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="recgraph"):
        fitted(split, tmp_path / "run", max_epochs=2)
    told = [record.getMessage() for record in caplog.records]
    assert told[0].startswith("fit sasrec, seed 0, to train of a log, leave-one-out: 12 users, 9 items, ")
    assert [line.split(":")[0] for line in told if line.startswith("epoch")] == ["epoch 1/2", "epoch 2/2"]
    assert told[-1] == f"run saved in {tmp_path / 'run'}"


def test_nothing_is_printed_where_the_application_does_not_ask() -> None:
    script = (
        "import recgraph as rg\n"
        "split = rg.load_dataset('synthetic').split('leave-one-out')\n"
        "rg.fit(rg.models.Popularity(), split, seed=0).evaluate()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
