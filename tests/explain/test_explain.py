"""Explanations of users and nodes: worked by hand, every kind of model, the rows, the page, the
map, the command.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from math import sqrt
from pathlib import Path
from typing import Any

import browser
import polars as pl
import pytest
import torch
from explain_cases import (
    INTERACTIONS,
    ITEMS,
    SETTINGS,
    chance,
    every_path,
    recommender,
    small_graph,
)
from refusing import refused
from typer.testing import CliRunner, Result

import recgraph as rg
from recgraph.cli.app import app
from recgraph.explain.explanation import Evidence, Explanation, Node
from recgraph.explain.nodes import nearest
from recgraph.explain.page import why_lines
from recgraph.explain.paths import Walks
from recgraph.graph.hetero import HeteroGraph
from recgraph.serve.recommender import Recommender
from recgraph.sparse.ragged import Ragged
from recgraph.train.run import NodeRun


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def walk(path: tuple[Node, ...]) -> str:
    return " > ".join(f"user {node.title}" if node.type == "user" else node.title for node in path)


@pytest.fixture(scope="module")
def whole() -> Recommender:
    return recommender(**SETTINGS)


@pytest.fixture(scope="module")
def found(whole: Recommender) -> Explanation:
    return rg.explain.explain(whole, "ann", k=3)


def evidence(found: Explanation, item: str) -> dict[tuple[str, str], Evidence]:
    (each,) = (each for each in found.recommendations if each.item.id == item)
    return {(one.side, one.path): one for one in each.evidence}


def test_history_and_recommendations(found: Explanation) -> None:
    """Ann had A and B; the rest are C, D and E."""
    assert [each.item.id for each in found.history] == ["A", "B"]
    assert [each.item.title for each in found.history] == ["Alien", "Brazil"]
    assert all(each.fitted for each in found.history)
    assert found.history[1].item.fields == {"genres": ("sf", "tense")}
    assert {each.item.id: each.item.title for each in found.recommendations} == {
        "C": "Cube",
        "D": "D",
        "E": "E",
    }
    assert [each.rank for each in found.recommendations] == [1, 2, 3]
    scores = [each.score for each in found.recommendations]
    assert scores == sorted(scores, reverse=True)
    assert found.related == {}
    assert (found.model, found.dataset, found.user) == ("MEOWRec", None, "ann")
    assert json.loads(json.dumps(found.to_dict()))["user"] == "ann"


def test_attention_and_parts(found: Explanation) -> None:
    for side in ("user", "item"):
        assert sum(
            each.weight for each in found.path_weights if each.side == side
        ) == pytest.approx(1)
    for each in found.recommendations:
        assert sum(part.value for part in each.parts) == pytest.approx(each.score, abs=1e-6)
        assert {(part.side, part.path) for part in each.parts} == {
            ("", ""),
            *((weight.side, weight.path) for weight in found.path_weights),
        }


def test_evidence_by_hand(found: Explanation) -> None:
    genre = evidence(found, "C")["item", "item-genre-item"]
    # A shares one genre with C, B shares two: PathSim 2/3 and 1
    assert genre.count == 3
    assert genre.score == pytest.approx((2 / 3 + 1) / 2)
    assert (genre.rank, genre.n_ranked) == (1, 3)
    first, second = genre.connections
    assert (first.via.title, first.similarity, first.count) == ("Brazil", 1.0, 2)
    assert (second.via.title, second.count) == ("Alien", 1)
    # sf leads to three items, tense to four: the more specific genre first
    assert [walk(path) for path in first.paths] == [
        "user ann > Brazil > sf > Cube",
        "user ann > Brazil > tense > Cube",
    ]
    # users: bob shares A with ann, cat shares B; each had two or three items: PathSim 2/(2+2) and
    # 2/(2+3)
    alike = evidence(found, "C")["user", "user-item-user"]
    assert alike.count == 2
    assert alike.score == pytest.approx(1.0)
    assert {(each.via.id, each.count) for each in alike.connections} == {("bob", 1), ("cat", 1)}
    assert evidence(found, "D")["user", "user-item-user"].score == pytest.approx(0.4 / (0.4 + 0.5))
    assert [walk(path) for path in alike.connections[0].paths] == [
        "user ann > Alien > user bob > Cube"
    ]
    # dan is ann's one friend and had E alone
    friends = evidence(found, "E")
    assert friends["user", "user-user"].count == 1
    assert friends["user", "user-user"].score == 1
    assert ("item", "item-user-item") not in friends
    assert evidence(found, "D").keys() == {
        ("user", "user-item-user"),
        ("item", "item-genre-item"),
        ("item", "item-user-item"),
    }


def test_nearest_items(found: Explanation) -> None:
    vectors = recommender(**SETTINGS).model.encode_items().detach().double()
    cosines = torch.nn.functional.cosine_similarity(
        vectors[:, None], vectors[None], dim=-1
    ).fill_diagonal_(-2)
    for each in found.recommendations:
        row = cosines[ITEMS.index(each.item.id)]
        assert [near.node.id for near in each.nearest] == [
            ITEMS[i] for i in row.argsort(descending=True)[:4].tolist()
        ]
        assert each.nearest[0].similarity == pytest.approx(float(row.max()), abs=1e-6)
        assert {near.node.id for near in each.nearest if near.seen} == {"A", "B"}
        assert {near.node.id for near in each.nearest_seen} == {"A", "B"}
    assert len(found.history[0].nearest) == 4


def test_what_was_fitted_to_and_users_who_have_friends_alone() -> None:
    whole = recommender(**SETTINGS)
    whole.seen = Ragged.from_lists([[0, 1, 3], [0, 2], [1, 2, 3], [4]])
    found = rg.explain.explain(whole, "ann", k=5)
    assert [each.fitted for each in found.history] == [True, True, False]
    # places are among what is not in the history
    assert evidence(found, "C")["item", "item-genre-item"].n_ranked == 2
    # dan did nothing; his friend ann had A and B
    without = [(user, item) for user, item in INTERACTIONS if user != 3]
    found = rg.explain.explain(recommender(**SETTINGS, interactions=without), "dan", k=5)
    assert found.history == ()
    first_paths = {
        each.item.id: [walk(one.connections[0].paths[0]) for one in each.evidence]
        for each in found.recommendations
    }
    lead = "user dan > user ann > "
    assert first_paths == {"A": [f"{lead}Alien"], "B": [f"{lead}Brazil"], "C": [], "D": [], "E": []}
    assert "No path of the graph connects it with the user." in rg.explain.page(found)


@pytest.mark.parametrize("name", ["itemknn", "ease", "popularity", "lightgcn", "sasrec"])
def test_models_without_meta_paths_show_what_was_had_together(name: str) -> None:
    whole = recommender(name)
    found = rg.explain.explain(whole, "ann", k=2)
    assert found.path_weights == ()
    for each in found.recommendations:
        assert each.parts == ()
        assert {one.path for one in each.evidence} <= {"item-user-item"}
        assert bool(each.nearest) == whole.model.has_vectors
    assert [each.fitted for each in found.history] == [None] * 2
    assert list(why_lines(found))
    assert "Alien" in rg.explain.page(found)


def test_nearest_among_ties() -> None:
    vectors = torch.randint(-1, 2, (60, 3), generator=torch.Generator().manual_seed(0)).double()
    units = torch.nn.functional.normalize(vectors, dim=1)
    for k in (0, 1, 7, 59, 80):
        for row, found in enumerate(nearest(vectors, torch.arange(60), k)):
            there = [other for other in range(60) if other != row and vectors[other].any()]
            cosines = {other: round(float(units[row] @ units[other]), 9) for other in there}
            best = (
                sorted(there, key=lambda other, by=cosines: (-by[other], other))[:k]
                if vectors[row].any()
                else []
            )
            assert [cosines[other] for other, _ in found] == [cosines[other] for other in best]


@pytest.fixture(scope="module")
def page_file(whole: Recommender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = rg.explain.explain(whole, "ann", k=3, attribution=["leave_one_out", "attention"])
    return rg.explain.write_page(found, tmp_path_factory.mktemp("page") / "why.html")


def test_the_page_needs_nothing_from_elsewhere(page_file: Path) -> None:
    text = page_file.read_text()
    assert not re.search(
        r"https?:|//[a-z]|<script|<link|<img|<iframe|@import|url\(|\b(src|href)=", text
    )
    assert text.count("<details") == text.count('aria-label="Attribution of') == 3
    for words in (
        "Cube",
        "user ann → Brazil → sf → Cube",
        "item-genre-item",
        "own vectors",
        "random order",
    ):
        assert words in text


def test_names_are_escaped() -> None:
    found = recommender(**SETTINGS)
    bad = "<script>alert(1)</script>"
    features = pl.DataFrame({"item": ["A", "C"], "title": [bad, bad]})
    found = Recommender(found.model, found.users, found.items, found.seen, item_features=features)
    why = rg.explain.explain(found, "ann", attribution=["leave_one_out"])
    for text in (rg.explain.page(why), why.attributed[0]._repr_html_()):
        assert "<script" not in text
        assert "&lt;script&gt;" in text


@pytest.mark.parametrize(
    "window", [{"dark": False}, {"dark": True, "width": 390}], ids=["a desk", "a dark phone"]
)
def test_the_page_in_a_browser(page_file: Path, chromium: Any, window: dict[str, Any]) -> None:
    """Silent, alone, nothing that axe finds, nothing wider than the window; all opened."""
    with chromium.opened(page_file, **window) as opened:
        for summary in opened.query_selector_all("details:not([open]) summary"):
            summary.click()
        assert browser.violations(opened) == []
        wide, inner = opened.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= inner


def test_from_a_bundle_and_the_command_line_the_same(whole: Recommender, tmp_path: Path) -> None:
    whole.save(tmp_path / "run" / "bundle")
    inspect = (
        "inspect",
        tmp_path / "run",
        "--user",
        "ann",
        "-k",
        2,
        "-a",
        "leave_one_out,attention",
    )
    found = rg.explain.explain(whole, "ann", k=2, attribution=["leave_one_out", "attention"])
    done = call(*inspect, "--format", "json", "--out", tmp_path / "b.html")
    assert json.loads(done.stdout) == json.loads(json.dumps(found.to_dict()))
    assert "Recommendations for user ann" in (tmp_path / "b.html").read_text()
    table = call(*inspect, "--format", "table").stdout
    for words in ("User ann of MEOWRec", "path weight", *why_lines(found)):
        assert words in table
    rows = list(
        csv.DictReader(call(*inspect[:6], "--format", "tsv").stdout.splitlines(), delimiter="\t")
    )
    assert rows[0]["meta-path"] == found.recommendations[0].evidence[0].path
    for arguments in (("--user", "anna"), ("--node", 1), ("--user", "ann", "-a", "leave_one")):
        done = call("inspect", tmp_path / "run", *arguments)
        assert (done.exit_code, str(arguments[-1]) in done.stderr or "run" in done.stderr) == (
            2,
            True,
        )


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> NodeRun:
    """Papers 0 and 1 share author 0 and subject 0; 2 and 5 have a subject in common with them, or
    an author.
    """
    edges = {
        ("paper", "by", "author"): ([0, 1, 1, 2, 3, 4, 5, 5], [0, 0, 1, 2, 2, 3, 3, 0]),
        ("paper", "on", "subject"): ([0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 1]),
    }
    graph = HeteroGraph.from_edge_lists({"paper": 6, "author": 4, "subject": 2}, edges)
    model = rg.models.MEOW(
        metapaths=("paper-author-paper", "paper-subject-paper"),
        hidden_dim=8,
        prototypes={"n_clusters": (2,)},
    )
    return rg.fit_graph(
        model, graph, seed=0, max_epochs=2, out=tmp_path_factory.mktemp("runs") / "papers"
    )


def test_what_nodes_share(nodes: NodeRun, tmp_path: Path) -> None:
    found = rg.explain.explain_node(nodes, 0, k=5)
    by_author, by_subject = (each.path for each in found.path_weights)
    assert found.related == {"author": ("0",), "subject": ("0",)}
    vectors = torch.nn.functional.normalize(nodes.embedder.vectors.double(), dim=1)
    cosines = vectors[0] @ vectors.T
    order = cosines[1:].argsort(descending=True) + 1
    assert [each.near.node.id for each in found.neighbours] == order.tolist()
    assert [each.near.similarity for each in found.neighbours] == pytest.approx(
        cosines[order].tolist(), abs=1e-6
    )
    shared = {
        each.near.node.id: {one.path: one for one in each.evidence} for each in found.neighbours
    }
    author = shared[1][by_author]
    # one author in common; 0 has one author, 1 two
    assert (author.count, author.score) == (1, pytest.approx(2 / 3))
    assert [node.title for node in author.connections[0].paths[0]] == ["0", "0", "1"]
    assert (author.rank, author.n_ranked) == (1, 2)
    assert (shared[5].keys(), shared[2].keys()) == ({by_author}, {by_subject})
    assert shared[3] == shared[4] == {}
    out = tmp_path / "node.html"
    done = call("inspect", nodes.folder, "--node", 0, "--k", 5, "--format", "json", "--out", out)
    assert json.loads(done.stdout) == json.loads(json.dumps(found.to_dict()))
    assert "Nodes nearest to paper 0" in out.read_text()
    table = call("inspect", nodes.folder, "--node", 0, "--format", "table").stdout
    assert "paper-author-paper: 1 path, similarity 0.667" in table
    with refused("node", "6"):
        rg.explain.explain_node(nodes, 6)


# -- paths counted, compared and named, beside walking them one by one

PATHS = [
    "item-genre-item",
    "item-user-item",
    "user-item-user",
    "user-user",
    "user>friend>user<friend<user",
    "user-item-genre-item-user",
    "user>friend>user>friend>user<friend<user",
]


def reached(walks: Walks, starts: list[int]) -> dict[tuple[int, int], tuple[float, float]]:
    found = {}
    for part in walks.reach(torch.tensor(starts)):
        for start, end, similarity, count in zip(
            *(column.tolist() for column in part), strict=True
        ):
            assert (starts[start], end) not in found
            found[starts[start], end] = count, similarity
    return found


@pytest.mark.parametrize("path", PATHS)
def test_counts_and_similarities_are_those_of_all_paths(path: str) -> None:
    graph = small_graph()
    walks = Walks(path, graph)
    n = graph.count(walks.types[0])
    counts = Counter(
        (start, nodes[-1]) for start in range(n) for nodes in every_path(graph, path, start)
    )
    out, into = Counter[int](), Counter[int]()
    for (start, end), count in counts.items():
        out[start] += count
        into[end] += count
    starts = [3, *range(3), *range(4, n)]
    found = reached(walks, starts)
    assert set(found) == {key for key in counts if key[0] != key[1]}
    for (a, b), (count, similarity) in found.items():
        assert count == counts[a, b]
        if walks.round_trip:
            assert similarity == pytest.approx(2 * count / (counts[a, a] + counts[b, b]))
        else:
            assert similarity == pytest.approx(count / sqrt(out[a] * into[b]))
        assert 0 < similarity <= 1 + 1e-12


@pytest.mark.parametrize("path", PATHS)
def test_the_best_paths_are_the_likeliest_of_all(path: str) -> None:
    graph = small_graph()
    walks = Walks(path, graph)
    starts = [*range(graph.count(walks.types[0]))]
    for end in range(graph.count(walks.types[-1])):
        for start, found in zip(
            starts, walks.best_paths(torch.tensor(starts), end, 3), strict=True
        ):
            every = [nodes for nodes in every_path(graph, path, start) if nodes[-1] == end]
            chances = sorted((chance(graph, path, nodes) for nodes in every), reverse=True)
            assert len(set(found)) == len(found) == min(3, len(every))
            assert set(found) <= set(every)
            assert [chance(graph, path, nodes) for nodes in found] == pytest.approx(chances[:3])
