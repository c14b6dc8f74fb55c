"""What objects look like in a notebook: escaped, small, without test data, and cheap."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from node_data import make_card

import recgraph as rg
from recgraph import notebook
from recgraph.data import catalog
from recgraph.data.sealing import without_test_data
from recgraph.data.split import SealedSplit, Split
from recgraph.evaluate.node_probe import ProbeConfig
from recgraph.graph.hetero import HeteroGraph

HOSTILE = "<script>alert(1)</script>"


class Tags(HTMLParser):
    """The elements of a text, and whether each is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def html(value: Any) -> str:
    """The block of an object, which must be small, well formed and free of scripts."""
    text: str = value._repr_html_()
    tags = Tags(text)
    assert tags.open == []
    assert "script" not in tags.seen
    assert len(text) < 20_000
    assert "http" not in text, "it stands alone"
    return text


@pytest.fixture(scope="module")
def data() -> rg.Interactions:
    return rg.load_dataset("synthetic")


@pytest.fixture(scope="module")
def split(data: rg.Interactions) -> Split:
    return data.split("leave-one-out")


@pytest.fixture(scope="module")
def run(split: Split) -> rg.Run:
    return rg.fit(rg.models.SASRec(hidden_dim=8, n_heads=1), split, seed=0, max_epochs=2, batch_size=256)


def test_values_are_escaped_and_long_tables_are_cut() -> None:
    rows = [{HOSTILE: HOSTILE, "n": n} for n in range(1000)]
    text = notebook.block(HOSTILE, {HOSTILE: HOSTILE, "none": None}, [notebook.table(rows, HOSTILE)], HOSTILE)
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 35 + 1
    assert "and 970 more" in text
    assert "none" not in text
    assert notebook.table([]) == ""
    assert "<td>1,234</td><td>0.5000</td><td>yes</td><td></td>" in notebook.table(
        [{"a": 1234, "b": 0.5, "c": True, "d": None}]
    )


def test_interactions(data: rg.Interactions) -> None:
    text = html(data)
    assert "<dt>users</dt><dd>600</dd>" in text
    assert f"<dd>{len(data):,}</dd>" in text


def test_hostile_column_names_are_text() -> None:
    frame = pl.DataFrame({HOSTILE: ["a", "b"], "item": [HOSTILE, "y"]})
    made = rg.Interactions.from_frame(frame, user=HOSTILE, item="item")
    assert "&lt;script&gt;" in html(made)


def test_a_run(run: rg.Run) -> None:
    assert repr(run).startswith("Run(sasrec on leave-one-out, fitted on train, ndcg@10 0.")
    assert "at epoch" in repr(run)
    before = html(run)
    assert "results on" not in before
    results = run.evaluate("valid")
    assert "<caption>results on valid</caption>" in html(run)
    assert f"<td>{results['exclude']['ndcg@10']:.4f}</td>" in html(run)
    assert f"<td>{results['exclude']['ndcg@10']:.4f}</td>" in html(results)
    assert results["exclude"].hash in html(results)
    assert html(results["exclude"])
    assert repr(results["exclude"]).startswith("Result(600 users, protocol ")
    assert "<dt>users</dt><dd>600</dd>" in html(run.recommender)


def test_no_repr_reads_test_data(split: Split) -> None:
    def refuse() -> Split:
        raise AssertionError("the test part was read")

    sealed = split.sealed()
    handle = SealedSplit(
        sealed.interactions, sealed.labels, sealed.strategy, sealed.name, sealed.seed, sealed.hash, refuse
    )
    run = rg.fit(rg.models.Popularity(), handle, seed=0)
    with without_test_data("objects are shown"):
        for value in (handle, run, run.recommender, split, split.sealed()):
            html(value)
            repr(value)
    assert run.record.unsealed == []
    assert "The test part is sealed." in html(handle)
    assert "<dt>test</dt>" not in html(handle)
    assert f"<dt>test</dt><dd>{600:,}</dd>" in html(split)


def test_a_split_of_a_large_log_is_shown_without_a_pass_over_it() -> None:
    n = 2_000_000
    generator = np.random.default_rng(0)
    frame = pl.DataFrame({"user": generator.integers(0, 50_000, n), "item": generator.integers(0, 9_000, n)})
    data = rg.Interactions.from_frame(frame, user="user", item="item")
    split = data.split("leave-one-out")
    for value in (data, split):
        html(value)
        repr(value)
    assert "hash" not in vars(split), "it takes a pass over the log"
    known = split.hash
    assert known[:12] in repr(split)
    assert known[:12] in html(split)


def test_a_graph(data: rg.Interactions) -> None:
    graph = HeteroGraph.from_interactions(data)
    text = html(graph)
    assert "<td>user</td><td>600</td>" in text
    assert "user - " in text


def test_runs_of_nodes_and_their_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = make_card(tmp_path / "cards")
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RECGRAPH_CARDS", str(card.parent))
    catalog.get("tiny", card.parent / "tiny")
    model = rg.models.MEOW(metapaths=("paper-author-paper",), hidden_dim=8, n_clusters=(3,))
    run = rg.fit_graph(model, catalog.load_graph("tiny"), seed=0, device="cpu", max_epochs=2)
    assert repr(run).startswith("NodeRun(meow on a graph, paper, fitted on graph, loss ")
    assert "paper 60" in html(run)
    assert "60 paper" in html(run.embedder)
    results = run.evaluate(catalog.load_node_task("tiny"), probe=ProbeConfig(repeats=2, steps=5))
    for shown in (html(results), html(run)):
        assert f"<td>{results.rows()[0]['macro_f1']:.4f}</td>" in shown
    assert repr(results).startswith(f"NodeResults(protocol {results.hash})\n")
