"""Explanations of nodes, by hand and from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

import recgraph as rg
from recgraph.cli.app import app
from recgraph.graph.hetero import HeteroGraph
from recgraph.runs.run import NodeRun

PATHS = ("paper-author-paper", "paper-subject-paper")


def graph() -> HeteroGraph:
    """Papers 0 and 1 share author 0 and subject 0; 2 and 5 have a subject in common with them, or an author."""
    return HeteroGraph.from_edge_lists(
        {"paper": 6, "author": 4, "subject": 2},
        {
            ("paper", "by", "author"): ([0, 1, 1, 2, 3, 4, 5, 5], [0, 0, 1, 2, 2, 3, 3, 0]),
            ("paper", "on", "subject"): ([0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 1]),
        },
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> NodeRun:
    model = rg.models.MEOW(metapaths=PATHS, hidden_dim=8, n_clusters=(2,))
    return rg.fit_graph(model, graph(), seed=0, max_epochs=2, out=tmp_path_factory.mktemp("runs") / "papers")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_what_is_shared(run: NodeRun) -> None:
    found = rg.explain.explain_node(run, 0, k=5)
    assert sum(each.weight for each in found.path_weights) == pytest.approx(1)
    assert [each.path for each in found.path_weights] == list(PATHS)
    assert found.related == {"author": ("0",), "subject": ("0",)}
    vectors = torch.nn.functional.normalize(run.embedder.vectors.double(), dim=1)
    cosines = vectors[0] @ vectors.T
    order = cosines[1:].argsort(descending=True) + 1
    assert [each.near.node.id for each in found.neighbours] == order.tolist()
    assert [each.near.similarity for each in found.neighbours] == pytest.approx(cosines[order].tolist())
    shared = {each.near.node.id: {one.path: one for one in each.evidence} for each in found.neighbours}
    author = shared[1][PATHS[0]]
    # one author in common; 0 has one author, 1 two
    assert (author.count, author.score) == (1, pytest.approx(2 / 3))
    assert [node.title for node in author.connections[0].paths[0]] == ["0", "0", "1"]
    assert (author.rank, author.n_ranked) == (1, 2)
    assert shared[5].keys() == {PATHS[0]}
    assert shared[2].keys() == {PATHS[1]}
    assert shared[3] == shared[4] == {}


def test_from_the_command_line(run: NodeRun, tmp_path: Path) -> None:
    out = tmp_path / "node.html"
    done = call("inspect", run.folder, "--node", 0, "--k", 5, "--format", "json", "--out", out, "--color", "subject")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == json.loads(json.dumps(rg.explain.explain_node(run, 0, k=5).to_dict()))
    text = out.read_text()
    assert "Nodes nearest to paper 0" in text
    assert "No meta-path connects the two" in text
    assert "coloured by subject" in text
    done = call("inspect", run.folder, "--node", 0, "--format", "table")
    assert "paper-author-paper: 1 path, similarity 0.667" in done.stdout
    assert "no meta-path connects the two" in done.stdout
    rows = call("inspect", run.folder, "--node", 0, "--format", "tsv").stdout.splitlines()
    assert len({row.count("\t") for row in rows}) == 1


def test_ids_of_another_type_are_told_apart_from_those_of_the_graph(run: NodeRun) -> None:
    with pytest.raises(ValueError, match=r"paper = 'x': .* are texts, but the graph's ids are integers; give ids such"):
        rg.explain.explain_node(run, "x")


def test_a_node_that_is_kept_twice_is_one_point(run: NodeRun) -> None:
    found = rg.explain.node_map(run, limit=3, keep=[5, 2, 5, 5])
    assert found == rg.explain.node_map(run, limit=3, keep=[5, 2])
    assert len({point.node.id for point in found.points}) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--node", 6), "paper = 6 is not among the 6 papers of this run; the nearest are 3, 4, 5"),
        (("--node", "x"), "--node 'x' is no node of this run"),
        (("--user", 1), "run is of type Embedder, which has no users to recommend to"),
        ((), "give one of --user ID"),
    ],
)
def test_mistakes(run: NodeRun, arguments: tuple[Any, ...], message: str) -> None:
    done = call("inspect", run.folder, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


def test_the_page_in_a_browser(run: NodeRun, chromium: Any, tmp_path: Path) -> None:
    import browser

    path = rg.explain.write_page(rg.explain.explain_node(run, 0), tmp_path / "node.html", rg.explain.node_map(run))
    with chromium.opened(path) as page:
        assert browser.violations(page) == []
