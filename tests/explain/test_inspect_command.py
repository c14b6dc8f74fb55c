"""``recgraph inspect``: the forms of its output, its page, and mistakes; and real films."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from small_recommender import SETTINGS, recommender
from typer.testing import CliRunner, Result

import recgraph as rg
from recgraph.cli.app import app
from recgraph.data.interactions import Interactions
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.serve.recommender import Recommender


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "ours"
    recommender(**SETTINGS).save(folder / "bundle")
    return folder


def test_forms(run: Path) -> None:
    found = rg.explain.explain(run, "ann", k=2)
    done = call("inspect", run, "--user", "ann", "-k", 2, "--format", "json")
    assert json.loads(done.stdout) == json.loads(json.dumps(found.to_dict()))
    done = call("inspect", run, "--user", "ann", "--k", 2, "--format", "tsv")
    rows = list(csv.DictReader(done.stdout.splitlines(), delimiter="\t"))
    assert len(rows) == sum(len(each.evidence) for each in found.recommendations)
    assert rows[0]["meta-path"] == found.recommendations[0].evidence[0].path
    attributed = ("inspect", run, "--user", "ann", "--k", 2, "--attribution", "leave_one_out", "--format")
    refused = call(*attributed, "tsv")
    assert refused.exit_code == 2
    assert "tsv has no attributions: add --format table" in refused.stderr
    assert "has no attributions" not in call(*attributed, "json").stderr
    table = call("inspect", run, "--user", "ann", "--k", 2, "--format", "table").stdout
    for words in (
        "User ann of MEOWRec",
        "History, the last 2 of 2 items",
        "Recommendations",
        "Path weights",
        "nearest of all",
    ):
        assert words in table
    assert re.search(
        r"item-genre-item: adds [+-]\d\.\d+; \d paths?, similarity 0\.\d+, rank \d of \d by this path alone", table
    )


def test_the_page(run: Path, tmp_path: Path) -> None:
    done = call("inspect", run, "--user", "ann", "--out", tmp_path / "a.html", "--map", "none")
    assert done.exit_code == 0, done.output
    assert f"written to {tmp_path / 'a.html'}" in done.stderr
    assert "<svg" not in (tmp_path / "a.html").read_text()
    assert "<svg" not in done.stdout
    call("inspect", run, "--user", "ann", "--out", tmp_path / "b.html", "--map", "tsne", "--color", "genre")
    assert "t-SNE of the embeddings" in (tmp_path / "b.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--user", "anna"), "user = 'anna' is not among the 4 users of this run; the nearest are 'ann'"),
        (("--node", 1), "run is of type Recommender, which embeds no nodes of a graph"),
        (("--user", "ann", "--node", 1), "give one of --user ID"),
        (("--user", "ann", "--color", "genre"), "--color 'genre' is of the page's map; add --out FILE"),
        (("--user", "ann", "--map", "tsne"), "--map tsne is of the page's map; add --out FILE"),
        (("--user", "ann", "--out", "x.html", "--color", "year"), "color = 'year' is no feature"),
        (
            ("--user", "ann", "--out", "x.html", "--map", "none", "--color", "nosuch"),
            "--color 'nosuch' colours the map",
        ),
    ],
)
def test_mistakes(run: Path, arguments: tuple[object, ...], message: str) -> None:
    done = call("inspect", run, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_model_without_vectors(tmp_path: Path) -> None:
    recommender("ease").save(tmp_path / "bundle")
    done = call("inspect", tmp_path, "--user", "ann", "--out", tmp_path / "page.html")
    assert done.exit_code == 0, done.output
    assert "EASE ranks by scores alone and has no item vectors" in done.stderr
    done = call("inspect", tmp_path, "--user", "ann", "--out", tmp_path / "page.html", "--color", "genres")
    assert (done.exit_code, "EASE has no item vectors to be mapped" in done.stderr) == (2, True)


def test_films(shared: Path) -> None:
    """MEOWRec of random weights on MovieLens 100K: its own meta-paths; counts beside products of dense matrices."""
    log = Interactions.read(shared / "data" / "ml-100k")
    split = log.split("leave-one-out")
    graph = HeteroGraph.from_interactions(split.interactions, split.train)
    space = GraphSpace(n_users=split.n_users, n_items=split.n_items, graph=graph)
    model = rg.models.MEOWRec(hidden_dim=16).build(space, seed=0)
    model.setup(split.train)
    whole = Recommender.for_split(model, split)
    user = split.users.ids([7]).to_list()[0]
    found = rg.explain.explain(whole, user, k=3)
    assert {weight.side for weight in found.path_weights} == {"user", "item"}
    assert len(found.related) >= 1
    interacts = graph.adjacency(("user", "interacts", "item")).pattern().to_dense().double()
    together = interacts.T @ interacts
    history = interacts[7].nonzero().flatten()
    for each in found.recommendations:
        item = int(split.items.index([each.item.id])[0])
        (one,) = [e for e in each.evidence if e.path == "item-user-item"]
        assert one.count == int(together[history, item].sum())
        own = together.diagonal()
        alike = 2 * together[history] / (own[history, None] + own)
        scores = alike.mean(0)
        assert one.score == pytest.approx(float(scores[item]))
        unseen = torch.ones(len(split.items), dtype=torch.bool)
        unseen[whole.seen.row(7)] = False
        assert one.rank == 1 + int((scores[unseen] > scores[item] + 1e-9).sum())
        assert one.connections[0].similarity == pytest.approx(float(alike[:, item].max()))
        assert sum(part.value for part in each.parts) == pytest.approx(each.score, abs=1e-4)
    assert sum(each.fitted for each in found.history) == len(history)
