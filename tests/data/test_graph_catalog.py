"""Cards of graphs: complete, checked against the published files, prepared once, loaded as graph, task and split."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recgraph.config import ConfigError
from recgraph.data import catalog
from recgraph.data.catalog import load_graph, load_node_task, load_split
from recgraph.data.catalog.cards import Card, GraphCard, find_card
from recgraph.data.catalog.sources import CountError, HashMismatchError, SourceError, UnavailableError
from recgraph.data.errors import CorruptFileError
from recgraph.data.interactions import Interactions
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath
from recgraph.sparse.csr import Csr

NODES = ["acm", "aminer", "dblp", "imdb"]
RECOMMENDATION = ["lastfm-hin", "yelp-hin"]
TEXTS = 'kind = "graph"\nname = "{}"\n' + "".join(
    f'{key} = "x"\n' for key in ("title", "description", "licence", "citation", "acknowledgement")
)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))


def _hashes(folder: Path, but: str = "") -> str:
    files = [path for path in sorted(folder.iterdir()) if path.name != but]
    return "[files]\n" + "".join(f'"{p.name}" = "{hashlib.sha256(p.read_bytes()).hexdigest()}"\n' for p in files)


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
        + '[nodes.a]\ncount = 3\nfeatures = "f.npz"\n[nodes.b]\ncount = 2\n'
        + '[[edges]]\ntype = ["a", "r", "b"]\nfile = "ab.txt"\ncount = 3\n'
        + '[task]\nkind = "nodes"\ntarget = "a"\nlabels = "labels.npy"\nclasses = 2\npaths = ["a-b-a"]\n'
        + '[task.splits]\n20 = ["train.npy", "val.npy", "test.npy"]\n'
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
        + '[task]\nkind = "recommendation"\nfile = "ui.dat"\ninteractions = 20\npaths = ["user-item-user"]\n'
        + '[task.split]\nstrategy = "ratio"\nseed = 3\nvalid = 0.1\ntest = 0.1\n'
        + _hashes(folder)
        + '[[sources]]\nkind = "local"\nfolder = "log"\n'
    )
    return card, folder


def test_a_graph_with_classes(tmp_path: Path) -> None:
    card, folder = _toy_nodes(tmp_path)
    with pytest.raises(UnavailableError, match=r"no address \(of this test\).*--from FOLDER"):
        catalog.get(str(card))
    got = catalog.get(str(card), folder)
    assert got.counts == {"a": 3, "b": 2, "edges": 3}
    assert not got.cached
    assert catalog.get(str(card)).cached
    graph, task = load_graph(str(card)), load_node_task(str(card))
    features = graph.features("a")
    assert isinstance(features, Csr)
    assert features.to_dense().tolist() == [[0.25, 0.75], [0, 0], [1, 0]]
    assert (task.target, task.labels.tolist(), task.n_classes, task.paths) == ("a", [0, 1, 0], 2, ("a-b-a",))
    assert task.splits["20"].valid.tolist() == [0, 1]
    with pytest.raises(ValueError, match="no interactions"):
        load_split(str(card))
    with pytest.raises(ValueError, match="classes of nodes"):
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
    assert [order[node] for node in of_made.splits["20"].test.tolist()] == task.splits["20"].test.tolist()
    other.write_text('extends = "no-such"\nname = "toy-permuted"\n')
    with pytest.raises(ConfigError, match="extends = 'no-such' must be the name of a card in the same folder"):
        Card.load(other)


def test_users_and_items_are_not_permuted(tmp_path: Path) -> None:
    card, _ = _toy_log(tmp_path)
    card.write_text(card.read_text().replace("[nodes.user]", "permutation = 1\n[nodes.user]"))
    with pytest.raises(ConfigError, match='permutation is of task = "nodes"'):
        Card.load(card)


def test_an_earlier_card_and_its_present_form_are_one(tmp_path: Path) -> None:
    nodes, _ = _toy_nodes(tmp_path)
    log, _ = _toy_log(tmp_path)
    for path, task, table in ((nodes, "nodes", "labels"), (log, "recommendation", "interactions")):
        earlier = Card.load(path)
        text = (
            path.read_text()
            .replace('kind = "graph"', f'task = "{task}"')
            .replace(f'[task]\nkind = "{task}"', f"[{table}]")
        )
        path.write_text(text.replace("\nlabels =", "\nfile =").replace("[task.", f"[{table}."))
        assert Card.load(path) == earlier
        assert (earlier.task, Card.load(path).hash) == (task, earlier.hash)


def test_a_task_and_its_table_belong_together(tmp_path: Path) -> None:
    card, _ = _toy_nodes(tmp_path)
    text = card.read_text()
    for old, new, message in (
        ('kind = "nodes"', 'kind = "links"', "task.kind = 'links' must be 'nodes' or 'recommendation'"),
        ('kind = "graph"', 'task = "recommendation"', "task = 'recommendation' has no table [labels]"),
        ('kind = "graph"', 'task = "nodes"', "task = 'nodes' needs a table [labels]"),
    ):
        changed = text.replace(old, new)
        if "task = " in new:
            changed = changed.replace('[task]\nkind = "nodes"', "[labels]").replace("[task.", "[labels.")
        if message.startswith("task = 'nodes'"):
            changed = changed[: changed.index("[labels]")] + changed[changed.index("[files]") :]
        card.write_text(changed)
        with pytest.raises(ConfigError) as raised:
            Card.load(card)
        assert message in str(raised.value)


def test_features_that_shares_would_destroy(tmp_path: Path) -> None:
    card, folder = _toy_nodes(tmp_path)
    before = _hashes(folder)
    sp.save_npz(folder / "f.npz", sp.csr_matrix(np.array([[1, -3], [0, 0], [2, 0]])))
    text = card.read_text().replace(before, _hashes(folder))
    card.write_text(text)
    with pytest.raises(ValueError, match="normalise = false"):
        catalog.get(str(card), folder)
    card.write_text(text.replace('features = "f.npz"', 'features = "f.npz"\nnormalise = false'))
    catalog.get(str(card), folder)
    features = load_graph(str(card)).features("a")
    assert isinstance(features, Csr)
    assert features.to_dense().tolist() == [[1, -3], [0, 0], [2, 0]]


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
    with pytest.raises(ValueError, match="no classes"):
        load_node_task(str(card))
    with pytest.raises(ValueError, match="is a log"):
        load_graph("synthetic")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[nodes.user]\ncount = 2\n", "", "nodes.user is missing; there are "),
        ("[nodes.tag]\ncount = 2\n", "", "nodes.tag is missing"),
        ("[nodes.tag]\n", "[nodes.label]\ncount = 2\n[nodes.tag]\n", "nodes.label is in no edge"),
        ("[nodes.tag]\n", '[nodes.tag]\nfeatures = "it.dat"\n', "nodes.tag.features: features of nodes are read where"),
    ],
)
def test_nodes_that_do_not_fit_are_refused_and_hide_no_other_card(
    old: str, new: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, _ = _toy_log(tmp_path)
    assert old in card.read_text()
    card.write_text(card.read_text().replace(old, new))
    with pytest.raises(ConfigError) as raised:
        Card.load(card)
    assert message in str(raised.value)
    monkeypatch.setenv("RECGRAPH_CARDS", str(tmp_path))
    rows = {row["name"]: row for row in catalog.rows()}
    assert message in rows["log"]["title"]
    assert rows["acm"]["sources"] == ["local"]


def test_the_kind_of_source_is_not_ignored(tmp_path: Path) -> None:
    card, folder = _toy_nodes(tmp_path)
    for _ in range(2):  # before and after it is prepared
        with pytest.raises(ValueError, match="source = 'wheel': the card 'toy' has sources of kind local"):
            catalog.get(str(card), folder, source="wheel")
        catalog.get(str(card), folder, source="local")
    assert catalog.get(str(card), source="local").cached


def test_what_is_refused(tmp_path: Path) -> None:
    card, folder = _toy_nodes(tmp_path)
    text = card.read_text()
    with pytest.raises(ValueError, match="is not a folder"):
        catalog.get(str(card), folder / "ab.txt")
    card.write_text(text.replace("count = 3\n[task]", "count = 4\n[task]"))
    with pytest.raises(CountError, match=r"lines of ab\.txt: expected 4, got 3"):
        catalog.get(str(card), folder)
    card.write_text(text)
    (folder / "ab.txt").write_text("0 1\n2 0\n1 0\n")
    with pytest.raises(HashMismatchError, match=r"ab\.txt is not the published file"):
        catalog.get(str(card), folder)
    (folder / "ab.txt").unlink()
    with pytest.raises(SourceError, match=r"has no file 'ab\.txt'"):
        catalog.get(str(card), folder)
    assert not (catalog.home() / "data").exists()
    card.write_text("\n".join(line for line in text.splitlines() if not line.startswith('"labels.npy"')))
    with pytest.raises(ConfigError, match=r"labels\.npy"):
        Card.load(card)
    shutil.copy(card, tmp_path / "other.toml")
    with pytest.raises(ConfigError):
        Card.load(tmp_path / "other.toml")


@pytest.mark.parametrize("name", [*NODES, *RECOMMENDATION])
def test_own_cards(name: str, shared: Path) -> None:
    card = find_card(name)
    assert isinstance(card, GraphCard)
    texts = (card.description, card.licence, card.citation, card.acknowledgement)
    assert all(len(text) > 20 for text in texts)
    got = catalog.get(name, shared / "data" / ("hin" if name in NODES else "hin-rec"))
    row = next(row for row in catalog.rows() if row["name"] == name)
    assert row["prepared"]
    assert catalog.info(name)["task"] == card.task == ("nodes" if name in NODES else "recommendation")
    graph = load_graph(name)
    if card.task == "nodes":
        task = load_node_task(name)
        assert task.labels.numel() == graph.count(task.target)
        assert set(task.splits) == {"20", "40", "60"}
        assert all(split.valid.numel() == split.test.numel() == 1000 for split in task.splits.values())
        assert torch.bincount(task.labels[task.splits["20"].train]).tolist() == [20] * task.n_classes
    else:
        assert len(Interactions.load(got.path)) == row["interactions"]
        split = load_split(name)
        graph = HeteroGraph.from_interactions(split.interactions, split.train)
        assert graph.adjacency(("user", "interacts", "item")).nnz == split.train.n_interactions
    for path in card.paths:
        assert MetaPath(path).cost(graph).nnz > 0


def _written_anew(card: Path, folder: Path, **arrays: np.ndarray) -> Path:
    """The card of the toy with other files."""
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    text = card.read_text()
    begin, end = text.index("[files]"), text.index("[[sources]]")
    card.write_text(text[:begin] + _hashes(folder) + text[end:])
    return card


@pytest.mark.parametrize("unknown", [-1.0, np.nan])
def test_masks_and_unknown_classes_of_a_card(tmp_path: Path, unknown: float) -> None:
    masks = {"train": np.array([True, True, False]), "val": np.array([False, True, False])}
    card = _written_anew(*_toy_nodes(tmp_path), labels=np.array([4.0, 3.0, unknown]), **masks)
    catalog.get(str(card), tmp_path)
    task = load_node_task(str(card))
    assert task.labels.tolist() == [1, 0, -1]
    split = task.splits["20"]
    assert [part.tolist() for part in (split.train, split.valid, split.test)] == [[0, 1], [1], [0, 1]]


def test_a_third_column_of_edges_is_refused(tmp_path: Path) -> None:
    card, folder = _toy_nodes(tmp_path)
    (folder / "ab.txt").write_text("# a b\n0 1\n2\t0\t.5\n1 1 2\n")
    with pytest.raises(CorruptFileError, match=r"ab\.txt, row 2"):
        catalog.get(str(_written_anew(card, folder)), tmp_path)


def test_the_command_for_a_card_of_ones_own_names_its_file(tmp_path: Path) -> None:
    card, _ = _toy_nodes(tmp_path)
    with pytest.raises(UnavailableError, match=f"recgraph data get {card} --from FOLDER"):
        catalog.get(str(card))
