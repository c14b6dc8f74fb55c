"""The node task from the command line: train, evaluate, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from node_data import N_PAPERS, make_card
from typer.testing import CliRunner, Result

from recgraph.cli.app import app

CONFIGS = Path(__file__).resolve().parents[2] / "experiments" / "configs"
SMALL = ("--set", "hidden_dim=8", "--set", "max_epochs=4", "--device", "cpu")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def rows(*arguments: object) -> list[dict[str, Any]]:
    done = call(*arguments, "--format", "json")
    assert done.exit_code == 0, done.output
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECGRAPH_HOME", str(folder / "home"))
        patch.setenv("RECGRAPH_CARDS", str(folder))
        make_card(folder)
        done = call("data", "get", "tiny", "--from", folder / "tiny")
        assert done.exit_code == 0, done.output
        yield folder


@pytest.fixture(autouse=True)
def _use_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(home / "home"))
    monkeypatch.setenv("RECGRAPH_CARDS", str(home))


@pytest.fixture(scope="module")
def run(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "meow"
    extra = ("--set", "prototypes.n_clusters=[3, 5]", "--set", "probe.learning_rate=0.1", "--set", "probe.repeats=4")
    done = call("train", "MEOW", "--dataset", "tiny", "--out", out, *SMALL, *extra, "--seed", 3)
    assert done.exit_code == 0, done.output
    assert f"try next: recgraph evaluate {out}" in done.stderr
    # other tests evaluate it
    assert json.loads((out / "record.json").read_text())["unsealed"] == []
    return out


def test_train_takes_paths_and_features_from_the_card(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    assert config["config"]["metapaths"] == ["paper-author-paper"]
    assert config["config"]["raw_features"] == ["paper"]
    assert (config["task"], config["fitted_on"], config["training"]["metric"]) == ("nodes", "graph", "loss")
    assert config["evaluation"]["probe"]["learning_rate"] == 0.1
    assert (config["data"]["dataset"], config["data"]["target"], config["data"]["nodes"]["paper"]) == (
        "tiny",
        "paper",
        N_PAPERS,
    )
    assert len((run / "log.jsonl").read_text().splitlines()) == 4


def test_evaluate_prints_the_tables(run: Path) -> None:
    found = rows("evaluate", run)
    assert [(row["probe"], row["labels"]) for row in found] == [
        ("linear", "10"),
        ("logistic", "10"),
        ("k-means", "none"),
    ]
    assert set(found[0]) == {"probe", "labels", "macro_f1", "micro_f1", "auc", "nmi", "ari"}
    assert found[0]["nmi"] is None
    assert found[1]["macro_f1"] > 0.6
    record = json.loads((run / "record.json").read_text())
    assert record["results"]["nodes"]["protocol"]["probe"]["learning_rate"] == 0.1
    assert record["results"]["nodes"]["protocol"]["probe"]["repeats"] == 4
    assert record["unsealed"]
    done = call("evaluate", run, "--set", "probe.learning_rate=0.05")
    assert "linear probe: learning_rate 0.05, weight_decay 0.0, repeats 4, steps 200; protocol " in done.stderr
    assert done.stdout.startswith("probe\tlabels\tmacro_f1\t")


def test_recommend_says_what_the_run_holds(run: Path) -> None:
    done = call("recommend", run, "-u", "1")
    assert done.exit_code == 2
    assert "recommender" in done.stderr
    assert json.loads(call("inspect", run, "--node", "1", "-k", 3, "--format", "json").stdout)["neighbours"]


@pytest.mark.slow
def test_acm(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))
    assert call("data", "get", "acm", "--from", shared / "data" / "hin").exit_code == 0
    out = tmp_path / "run"
    few = ("--set", "max_epochs=2", "--set", "probe.repeats=2", "--set", "probe.steps=20")
    config = ("--config", CONFIGS / "meow-acm.toml")
    done = call("train", "MEOW", "--dataset", "acm", "--out", out, *config, *few, "--device", "cpu")
    assert done.exit_code == 0, done.output
    found = rows("evaluate", out)
    assert [row["labels"] for row in found] == ["20", "40", "60", "20", "40", "60", "none"]
    assert min(row["micro_f1"] for row in found[3:6]) > 0.5
    size = sum(path.stat().st_size for path in (out / "bundle").rglob("*") if path.is_file())
    assert size < 6 * 2**20
