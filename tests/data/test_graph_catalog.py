"""Cards of graphs: complete, checked against the published files, prepared once, loaded as graph,
task and split.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from refusing import refused

from recgraph.data import catalog
from recgraph.data.catalog import load_graph, load_node_task, load_split
from recgraph.data.catalog.cards import Card, GraphCard, find_card
from recgraph.data.catalog.logs import SourceError, UnavailableError
from recgraph.data.split import Interactions
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath
from recgraph.sparse.csr import Csr

NODES = ["acm", "aminer", "dblp", "imdb"]
RECOMMENDATION = ["lastfm-hin", "yelp-hin"]
TEXTS = 'name = "{}"\n' + "".join(
    f'{key} = "x"\n' for key in ("title", "description", "licence", "citation", "acknowledgement")
)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))


def _hashes(folder: Path, but: str = "") -> str:
    files = [path for path in sorted(folder.iterdir()) if path.name != but]
    return "[files]\n" + "".join(
        f'"{p.name}" = "{hashlib.sha256(p.read_bytes()).hexdigest()}"\n' for p in files
    )


def _toy_nodes(tmp_path: Path) -> tuple[Path, Path]:
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "ab.txt").write_text("0 1\n2 0\n1 1\n")
    np.save(folder / "labels.npy", np.array([1.0, 3.0, 1.0]))
    sp.save_npz(folder / "f.npz", sp.csr_matrix(np.array([[1, 3], [0, 0], [2, 0]])))
    for part in ("train", "val", "test"):
        np.save(folder / f"{part}.npy", np.array([0, 1]))
    card = tmp_path / "toy.toml"
    card.write_text(
        TEXTS.format("toy")
        + 'task = "nodes"\n'
        + '[nodes.a]\ncount = 3\nfeatures = "f.npz"\n[nodes.b]\ncount = 2\n'
        + '[[edges]]\ntype = ["a", "r", "b"]\nfile = "ab.txt"\ncount = 3\n'
        + '[labels]\ntarget = "a"\nfile = "labels.npy"\nclasses = 2\npaths = ["a-b-a"]\n'
        + '[labels.splits]\n20 = ["train.npy", "val.npy", "test.npy"]\n'
        + _hashes(folder)
        + '[[sources]]\nkind = "local"\nfolder = "toy"\nnote = "of this test"\n'
    )
    return card, folder


def _toy_log(tmp_path: Path) -> tuple[Path, Path]:
    folder = tmp_path / "log"
    folder.mkdir()
    rows = [(user, item) for user in (7, 9) for item in range(1, 11)]
    (folder / "ui.dat").write_text("".join(f"{user}\t{item}\t5\n" for user, item in rows))
    (folder / "uu.dat").write_text("7\t9\t1\n9\t7\t1\n9\t4\t1\n")
    (folder / "it.dat").write_text("3\t20\n1\t10\n3\t10\n")
    card = tmp_path / "log.toml"
    card.write_text(
        TEXTS.format("log")
        + "[nodes.user]\ncount = 2\n[nodes.item]\ncount = 10\n[nodes.tag]\ncount = 2\n"
        + '[[edges]]\ntype = ["user", "friend", "user"]\nfile = "uu.dat"\ncount = 3\n'
        + '[[edges]]\ntype = ["item", "has", "tag"]\nfile = "it.dat"\ncount = 3\n'
        + '[interactions]\nfile = "ui.dat"\ninteractions = 20\npaths = ["user-item-user"]\n'
        + '[interactions.split]\nstrategy = "ratio"\nseed = 3\nvalid = 0.1\ntest = 0.1\n'
        + _hashes(folder)
        + '[[sources]]\nkind = "local"\nfolder = "log"\n'
    )
    return card, folder


def test_a_graph_with_classes(tmp_path: Path) -> None:
    card, folder = _toy_nodes(tmp_path)
    with refused("toy", by=UnavailableError):
        catalog.get(str(card))
    got = catalog.get(str(card), folder)
    assert got.counts == {"a": 3, "b": 2, "edges": 3}
    assert not got.cached
    assert catalog.get(str(card)).cached
    graph, task = load_graph(str(card)), load_node_task(str(card))
    features = graph.features("a")
    assert isinstance(features, Csr)
    assert features.to_dense().tolist() == [[0.25, 0.75], [0, 0], [1, 0]]
    assert (task.target, task.labels.tolist(), task.n_classes, task.paths) == (
        "a",
        [0, 1, 0],
        2,
        ("a-b-a",),
    )
    assert task.splits["20"].valid.tolist() == [0, 1]
    with refused("toy"):
        load_split(str(card))
    with refused("toy"):
        catalog.load_dataset(str(card))


def test_a_card_that_permutes_the_nodes_of_another(tmp_path: Path) -> None:
    card, folder = _toy_nodes(tmp_path)
    other = tmp_path / "toy-permuted.toml"
    other.write_text('extends = "toy"\nname = "toy-permuted"\npermutation = 4\n')
    assert Card.load(other).hash != Card.load(card).hash
    for path in (card, other):
        catalog.get(str(path), folder)
    graph, task = load_graph(str(card)), load_node_task(str(card))
    made, of_made = load_graph(str(other)), load_node_task(str(other))
    edge_type, x = ("a", "r", "b"), made.features("a")
    assert isinstance(x, Csr)
    was = graph.features("a").to_dense().tolist()  # type: ignore[union-attr]
    order = [was.index(row) for row in x.to_dense().tolist()]
    assert order != [0, 1, 2]
    columns = sorted(made.adjacency(edge_type).to_dense().T.tolist())
    assert columns == sorted(graph.adjacency(edge_type).to_dense()[order].T.tolist())
    assert of_made.labels.tolist() == task.labels[order].tolist()
    assert [order[node] for node in of_made.splits["20"].test.tolist()] == task.splits[
        "20"
    ].test.tolist()


def test_a_graph_for_recommendation(tmp_path: Path) -> None:
    card, _ = _toy_log(tmp_path)
    got = catalog.get(str(card), tmp_path)  # the folder in which it lies
    assert got.counts == {"user": 2, "item": 10, "tag": 2, "edges": 5, "interactions": 20}
    split = load_split(str(card))
    assert (split.seed, split.train.n_interactions, len(split.test)) == (3, 16, 2)
    graph = HeteroGraph.from_interactions(split.interactions, split.train)
    assert graph.adjacency(("user", "interacts", "item")).nnz == 16
    assert graph.adjacency(("user", "friend", "user")).to_dense().tolist() == [[0, 1], [1, 0]], (
        "user 4 is not in the log"
    )
    has = graph.adjacency(("item", "has", "tag"))
    assert graph.nodes["tag"].ids.ids(has.indices.tolist()).to_list() == [10, 10, 20]  # type: ignore[union-attr]
    assert len(load_graph(str(card)).edges) == 2
    assert len(catalog.load_dataset(str(card))) == 20
    with refused("log"):
        load_node_task(str(card))
    with refused("synthetic"):
        load_graph("synthetic")


@pytest.mark.parametrize("name", [*NODES, *RECOMMENDATION])
def test_own_cards(name: str, shared: Path) -> None:
    card = find_card(name)
    assert isinstance(card, GraphCard)
    texts = (card.description, card.licence, card.citation, card.acknowledgement)
    assert all(len(text) > 20 for text in texts)
    got = catalog.get(name, shared / "data" / ("hin" if name in NODES else "hin-rec"))
    row = next(row for row in catalog.rows() if row["name"] == name)
    assert row["prepared"]
    assert (
        catalog.info(name)["task"] == card.task == ("nodes" if name in NODES else "recommendation")
    )
    graph = load_graph(name)
    if card.task == "nodes":
        task = load_node_task(name)
        assert task.labels.numel() == graph.count(task.target)
        assert set(task.splits) == {"20", "40", "60"}
        assert all(
            split.valid.numel() == split.test.numel() == 1000 for split in task.splits.values()
        )
        assert (
            torch.bincount(task.labels[task.splits["20"].train]).tolist() == [20] * task.n_classes
        )
    else:
        assert len(Interactions.load(got.path)) == row["interactions"]
        split = load_split(name)
        graph = HeteroGraph.from_interactions(split.interactions, split.train)
        assert graph.adjacency(("user", "interacts", "item")).nnz == split.train.n_interactions
    for path in card.paths:
        assert MetaPath(path).cost(graph).nnz > 0


def test_what_is_refused(tmp_path: Path) -> None:
    card, folder = _toy_nodes(tmp_path)
    text = card.read_text()
    with refused("ab.txt"):
        catalog.get(str(card), folder / "ab.txt")
    card.write_text(text.replace("count = 3\n[labels]", "count = 4\n[labels]"))
    with refused("ab.txt", "4", "3", by=SourceError):
        catalog.get(str(card), folder)
    card.write_text(text)
    (folder / "ab.txt").write_text("0 1\n2 0\n1 0\n")
    with refused("ab.txt", by=SourceError):
        catalog.get(str(card), folder)
    (folder / "ab.txt").unlink()
    with refused("ab.txt", by=SourceError):
        catalog.get(str(card), folder)
    assert not list((catalog.home() / "prepared").glob("*/*"))
