"""The node task from the command line: train, evaluate, and what is refused."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from node_data import N_PAPERS, make_card
from typer.testing import CliRunner, Result

from recgraph.cli.app import app
from recgraph.data import catalog

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
    extra = ("--set", "n_clusters=[3, 5]", "--set", "probe_learning_rate=0.1", "--set", "probe_repeats=4")
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
    assert config["evaluation"]["probe_learning_rate"] == 0.1
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
    done = call("evaluate", run, "--set", "probe_learning_rate=0.05")
    assert "linear probe: learning_rate 0.05, weight_decay 0.0, repeats 4, steps 200; protocol " in done.stderr
    assert done.stdout.startswith("probe\tlabels\tmacro_f1\t")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--split", "valid"), "are for runs that recommend"),
        (("--set", "probe_rate=1"), "unknown setting 'probe_rate'; did you mean"),
        (("--set", "probe_steps=0"), "probe_steps = 0"),
    ],
)
def test_evaluate_mistakes(run: Path, arguments: tuple[str, ...], message: str) -> None:
    done = call("evaluate", run, *arguments)
    assert done.exit_code == 2, done.output
    assert message in done.stderr


def test_a_changed_graph_is_not_evaluated(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = make_card(tmp_path)
    lines = (tmp_path / "tiny" / "pa.txt").read_text().splitlines(keepends=True)
    (tmp_path / "tiny" / "pa.txt").write_text("".join(["0\t29\n", *lines[1:]]))
    new = hashlib.sha256((tmp_path / "tiny" / "pa.txt").read_bytes()).hexdigest()
    card.write_text(re.sub(r'"pa.txt" = "\w+"', f'"pa.txt" = "{new}"', card.read_text()))
    monkeypatch.setenv("RECGRAPH_CARDS", str(tmp_path))
    catalog.get("tiny", tmp_path / "tiny")
    done = call("evaluate", run)
    assert done.exit_code == 2
    assert "'tiny' is not what the run was fitted on" in done.stderr


def test_recommend_says_what_the_run_holds(run: Path) -> None:
    done = call("recommend", run, "-u", "1")
    assert done.exit_code == 2
    assert "holds no recommender: it holds embeddings of nodes" in done.stderr


@pytest.mark.parametrize(
    ("model", "dataset", "settings", "message"),
    [
        ("sasrec", "tiny", (), "SASRec recommends items; use one of adameow, heco, meow"),
        ("MEOW", "synthetic", (), "MEOW embeds the nodes of a graph; use one of"),
        ("MEOW", "synthetic", (), "rg.fit_graph(model, HeteroGraph.from_frames(...), seed=0), or by a card with"),
        ("MEOW", "tiny", ("metric=ndcg@10",), "metric = 'ndcg@10': Input should be 'loss' or 'last'"),
        ("MEOW", "tiny", ("split=ratio",), "unknown setting 'split'"),
        ("MEOW", "tiny", ('metapaths=["author-paper-author"]',), "embed 'author' nodes"),
        ("MEOW", "tiny", ("top_k=[3, 4]",), "top_k = (3, 4) has 2 values for 1 meta-paths"),
        ("MEOW", "tiny", ('metapaths=["paper-venue-paper"]',), "venue"),
    ],
)
def test_train_mistakes(tmp_path: Path, model: str, dataset: str, settings: tuple[str, ...], message: str) -> None:
    given = [part for setting in settings for part in ("--set", setting)]
    done = call("train", model, "--dataset", dataset, "--out", tmp_path / "run", *given)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert not (tmp_path / "run").exists(), "a mistake leaves no folder behind"


def test_models_shows_the_settings_of_such_a_run() -> None:
    found = {row["setting"]: row for row in rows("models", "MEOW")}
    assert (found["metric"]["default"], found["max_epochs"]["default"]) == ("loss", "5000")
    assert found["probe_learning_rate"]["of"] == "probe"
    assert "split" not in found


def test_published_settings_are_settings() -> None:
    from recgraph import registry
    from recgraph.config import distribute, load_toml
    from recgraph.data.catalog.cards import GraphCard, find_card
    from recgraph.runs.run import ProbeSettings
    from recgraph.train.config import GraphTrainConfig

    files = [(model, dataset) for model in ("meow", "adameow") for dataset in ("acm", "dblp", "imdb", "aminer")]
    three = [(model, dataset) for model in ("heco",) for dataset in ("acm", "dblp", "aminer")]
    for model, dataset in [*files, *three]:
        cls, card = registry.load("model", model), find_card(dataset)
        assert isinstance(card, GraphCard)
        values = load_toml(CONFIGS / f"{model}-{dataset}.toml")
        parts = distribute(values, {"model": cls.Config, "training": GraphTrainConfig, "probe": ProbeSettings})
        config = cls.Config.of(parts["model"])
        assert set(config.features) <= set(card.nodes)
        assert (model, dataset) not in files or len(config.top_k) == len(card.paths)
        GraphTrainConfig.of(parts["training"])
        ProbeSettings.of(parts["probe"])


@pytest.mark.parametrize("model", ["AdaMEOW", "HeCo"])
def test_the_other_models(tmp_path: Path, model: str) -> None:
    done = call("train", model, "--dataset", "tiny", "--out", tmp_path / "run", *SMALL)
    assert done.exit_code == 0, done.output
    table = pl.read_parquet(tmp_path / "run" / "bundle" / "embeddings.parquet")
    assert (table.columns, table.height) == (["paper", "embedding"], N_PAPERS)


def test_acm(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))
    assert call("data", "get", "acm", "--from", shared / "data" / "hin").exit_code == 0
    out = tmp_path / "run"
    few = ("--set", "max_epochs=2", "--set", "probe_repeats=2", "--set", "probe_steps=20")
    config = ("--config", CONFIGS / "meow-acm.toml")
    done = call("train", "MEOW", "--dataset", "acm", "--out", out, *config, *few, "--device", "cpu")
    assert done.exit_code == 0, done.output
    found = rows("evaluate", out)
    assert [row["labels"] for row in found] == ["20", "40", "60", "20", "40", "60", "none"]
    assert min(row["micro_f1"] for row in found[3:6]) > 0.5
    size = sum(path.stat().st_size for path in (out / "bundle").rglob("*") if path.is_file())
    assert size < 6 * 2**20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("evaluate", "--save-users", "users"),
            "--memory-limit and --engine are for runs that recommend",
        ),
        (("evaluate", "--engine", "ray"), "--memory-limit and --engine are for runs that recommend"),
        (("evaluate", "--data", "log.csv"), "is opened without data; leave data out (--data)"),
        (("plot", "--out", "a.svg", "--metric", "ndcg@5"), "--split and --metric are for --kind groups"),
        (("plot", "--out", "a.svg", "--split", "test"), "--split and --metric are for --kind groups"),
    ],
)
def test_options_that_would_be_ignored_are_refused(run: Path, arguments: tuple[str, ...], message: str) -> None:
    done = call(arguments[0], run, *arguments[1:])
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
