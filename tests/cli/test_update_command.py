"""``recgraph update``: a new run from a run or a bundle, or a refusal with nothing written."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner, Result

import recgraph as rg
from recgraph.cli.app import app
from recgraph.data.interactions import Interactions
from recgraph.models.sequence.sasrec import SASRec
from recgraph.runs.record import RunRecord

COLUMNS = ["user", "item", "time"]


def frame(users: range, steps: range) -> pl.DataFrame:
    rows = [(user, (user + step) % 9, step) for user in users for step in steps]
    return pl.DataFrame(rows, schema=COLUMNS, orient="row")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "old"
    log = Interactions.from_frame(frame(range(12), range(6)), user="user", item="item", timestamp="time")
    model = SASRec(hidden_dim=8, n_heads=1, n_layers=1, max_len=6)
    rg.fit(model, log.split(), seed=0, out=out, device="cpu", max_epochs=30, batch_size=4, learning_rate=0.01)
    return out


@pytest.fixture
def news(tmp_path: Path) -> Path:
    frame(range(6, 14), range(6, 10)).write_parquet(tmp_path / "new.parquet")
    return tmp_path / "new.parquet"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_features_of_items_are_a_file(run: Path, news: Path, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item,title\n0,Nothing\n1,One\n")
    out = tmp_path / "new"
    more = ("--item-features", tmp_path / "items.csv", "--epochs", 1, "--device", "cpu", "--force")
    done = call("update", run, "--data", news, "--out", out, *more)
    assert done.exit_code == 0, done.output
    assert rg.load(out).item_features["title"].to_list() == ["Nothing", "One"]


@pytest.mark.parametrize("part", [".", "bundle"])
def test_a_run_and_a_bundle_are_updated(part: str, run: Path, news: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    more = ("--valid", 0.3, "--epochs", 2, "--replay", 0.5, "--learning-rate", 1e-4, "--device", "cpu", "--force")
    done = call("update", run / part, "--data", news, "--out", out, *more)
    assert done.exit_code == 0, done.output
    assert "new: 32 interactions, 2 users, 0 items" in done.output
    assert "after" in done.output
    assert re.search(r"^epoch 2/2: loss \d", done.stderr, re.MULTILINE), "it is seen while it works"
    update = RunRecord.read(out).update
    assert update is not None
    assert (update["epochs"], update["replay"], update["learning_rate"]) == (2, 0.5, 1e-4)
    assert update["optimiser"] == ("kept" if part == "." else "fresh: the run has no checkpoint")
    listed = call("recommend", out, "--user", 13, "-k", 2, "--format", "json")
    assert listed.exit_code == 0, listed.output


def test_a_worse_result_is_refused(run: Path, news: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    done = call("update", run, "--data", news, "--out", out, "--valid", 0.3, "--learning-rate", 9, "--device", "cpu")
    assert done.exit_code == 1
    assert "after the update and" in done.output
    assert "--force keeps it" in done.output
    assert not out.exists()


def test_a_model_that_cannot_is_refused(tmp_path: Path, news: Path) -> None:
    log = Interactions.from_frame(frame(range(12), range(6)), user="user", item="item", timestamp="time")
    rg.fit("meowrec", log.split(), seed=0, out=tmp_path / "old", device="cpu", max_epochs=1)
    done = call("update", tmp_path / "old", "--data", news, "--out", tmp_path / "new")
    assert done.exit_code == 2
    assert "MEOWRec cannot be updated" in done.output


def test_models_say_whether_they_can() -> None:
    import json

    listed = {row["model"]: row["update"] for row in json.loads(call("models", "--format", "json").output)}
    assert (listed["sasrec"], listed["ease"], listed["meow"]) == ("trained on", "fitted again", "no")
