"""Typed graphs: every way in, every way out and back, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
import torch
from refusing import refused

from recgraph.data.ids import IdMap
from recgraph.data.split import Interactions
from recgraph.files import CorruptFileError, DataError
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.node_task import NodeSplit, NodeTask
from recgraph.graph.schema import Edges, EdgeType, GraphError, Nodes
from recgraph.sparse.csr import Csr

WRITES: EdgeType = ("author", "writes", "paper")
CITES: EdgeType = ("paper", "cites", "paper")


def graph() -> HeteroGraph:
    """Everything a graph can hold: ids, dense and sparse features, weights, times, repeated edges,
    a lonely type.
    """
    draw = torch.Generator().manual_seed(0)
    sparse = Csr.from_dense((torch.rand(4, 6, generator=draw) > 0.6).float() * 0.5)
    return HeteroGraph.from_edge_lists(
        {"author": 3, "paper": 4, "venue": 2},
        {WRITES: ([2, 0, 0, 2, 0], [3, 1, 1, 0, 0]), CITES: np.array([[3, 0], [0, 2], [3, 0]])},
        features={"author": torch.rand(3, 2, generator=draw, dtype=torch.float64), "paper": sparse},
        weights={WRITES: [0.5, 1.0, 2.0, 3.0, 4.0]},
        times={CITES: [30, 20, 10]},
        ids={"author": IdMap(pl.Series(["ann", "bob", "eve"]))},
    )


def test_edges_are_sorted_and_keep_weights_times_and_repetitions() -> None:
    made = graph()
    writes = made.adjacency(WRITES)
    assert writes.rows.tolist() == [0, 0, 0, 2, 2]
    assert writes.indices.tolist() == [0, 1, 1, 0, 3]
    assert writes.values().tolist() == [4, 1, 2, 3, 0.5]
    times = made.edges[CITES].times
    assert times is not None
    assert times.tolist() == [20, 30, 10]
    assert times.dtype == torch.int64
    assert made.count("venue") == 2
    assert "5 author-writes-paper" in repr(made)


def test_pyg_in_another_order_and_with_attributes() -> None:
    from torch_geometric.data import HeteroData

    data = HeteroData()
    data["a"].num_nodes = 3
    data["b"].x = torch.eye(2)
    data["a", "to", "b"].edge_index = torch.tensor([[2, 0, 2], [1, 0, 1]])
    data["a", "to", "b"].edge_attr = torch.tensor([[1.0], [2.0], [3.0]])
    adj = HeteroGraph.from_pyg(data).adjacency(("a", "to", "b"))
    assert adj.values().tolist() == [2, 1, 3]


def test_disk_and_back(tmp_path: Path) -> None:
    graph().save(tmp_path)
    assert HeteroGraph.load(tmp_path).hash == graph().hash
    assert not list(tmp_path.glob(".*"))
    (tmp_path / "features.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(CorruptFileError):
        HeteroGraph.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        HeteroGraph.load(tmp_path / "elsewhere")


def test_the_hash_is_of_all_that_it_holds() -> None:
    plain = graph()
    assert plain.hash == graph().hash
    cites = plain.edges[CITES]
    others = [
        plain.with_edges({CITES: Edges(cites.adj)}),
        plain.with_edges({CITES: Edges(cites.adj.with_weights(torch.ones(3)), cites.times)}),
        plain.with_features({"paper": None}),
        plain.with_features({"author": torch.zeros(3, 2)}),
        HeteroGraph({**plain.nodes, "venue": Nodes(3)}, plain.edges),
        HeteroGraph({**plain.nodes, "venue": Nodes(2, IdMap(pl.Series([1, 2])))}, plain.edges),
    ]
    assert len({plain.hash, *(other.hash for other in others)}) == 7


def test_scipy() -> None:
    pa = sp.csr_array(np.array([[1, 0, 1], [0, 1, 0]]))
    ps = sp.coo_array(np.array([[2.0], [0.0]]))
    made = HeteroGraph.from_scipy(
        {("paper", "by", "author"): pa, ("paper", "on", "subject"): ps}, {"paper": sp.eye_array(2)}
    )
    assert {name: made.count(name) for name in made.node_types} == {
        "paper": 2,
        "author": 3,
        "subject": 1,
    }
    assert made.adjacency(("paper", "by", "author")).weights is None
    assert made.adjacency(("paper", "on", "subject")).values().tolist() == [2]
    assert isinstance(made.features("paper"), Csr)
    with pytest.raises(GraphError):
        HeteroGraph.from_scipy({("paper", "by", "author"): pa, ("paper", "on", "subject"): pa.T})


@pytest.mark.parametrize("kind", ["polars", "pandas"])
def test_frames(kind: str) -> None:
    edges = pl.DataFrame(
        {
            "who": ["bob", "ann", "bob"],
            "what": [7, 9, 7],
            "weight": [1.0, 2.0, 3.0],
            "time": [3, 2, 1],
        }
    )
    people = pl.DataFrame({"name": ["ann", "bob"], "age": [30, 40]})
    as_kind = (lambda frame: frame.to_pandas()) if kind == "pandas" else (lambda frame: frame)
    made = HeteroGraph.from_frames(
        {WRITES: as_kind(edges)}, {"author": as_kind(people)}, {"author": ["age"]}
    )
    assert made.nodes["paper"].ids.values.to_list() == [7, 9]  # type: ignore[union-attr]
    adj = made.adjacency(WRITES)
    assert (adj.rows.tolist(), adj.indices.tolist()) == ([0, 1, 1], [1, 0, 0])
    assert adj.values().tolist() == [2, 1, 3]
    assert made.edges[WRITES].times.tolist() == [2, 3, 1]  # type: ignore[union-attr]
    features = made.features("author")
    assert isinstance(features, torch.Tensor)
    assert features.tolist() == [[30], [40]]
    with pytest.raises(GraphError):
        HeteroGraph.from_frames({WRITES: edges}, {"author": people[:1]})
    with pytest.raises(ValueError):
        HeteroGraph.from_frames({WRITES: edges}, {"author": people}, {"author": ["name"]})


def _log() -> Interactions:
    log = pl.DataFrame({"u": [1, 1, 2, 3], "i": ["x", "y", "x", "z"], "t": [1, 2, 3, 4]})
    films = pl.DataFrame(
        {
            "i": ["x", "y", "z", "q"],
            "genres": [["war", "love"], ["war"], [], ["law"]],
            "title": list("abcd"),
        }
    )
    people = pl.DataFrame(
        {"u": [1, 2, 3, 9], "job": ["cook", "cook", None, "spy"], "age": [1, 2, 3, 4]}
    )
    return Interactions.from_frame(log, user="u", item="i", timestamp="t").with_features(
        people, films
    )


def test_interactions_with_what_is_known_of_users_and_items() -> None:
    made = HeteroGraph.from_interactions(_log(), item_relations={"genres": "genre"})
    assert set(made.node_types) == {"user", "item", "genre", "job"}
    genres = made.adjacency(("item", "has_genre", "genre"))
    assert made.nodes["genre"].ids.values.to_list() == ["war", "love"]  # type: ignore[union-attr]
    assert genres.to_dense().tolist() == [[1, 1], [1, 0], [0, 0]]
    assert made.adjacency(("user", "has_job", "job")).to_dense().tolist() == [[1], [1], [0]]
    assert made.adjacency(("user", "interacts", "item")).to_dense().tolist() == [
        [1, 1, 0],
        [1, 0, 0],
        [0, 0, 1],
    ]


def test_interactions_of_a_part_alone() -> None:
    log = pl.DataFrame({"u": [1] * 4 + [2] * 4, "i": list("abcdabcd"), "t": list(range(8))})
    split = Interactions.from_frame(log, user="u", item="i", timestamp="t").split("leave-one-out")
    made = HeteroGraph.from_interactions(split.interactions, split.train)
    assert made.adjacency(("user", "interacts", "item")).nnz == 4
    assert made.edges["user", "interacts", "item"].times.tolist() == [0, 1, 4, 5]  # type: ignore[union-attr]
    with pytest.raises(GraphError):
        HeteroGraph.from_interactions(_log(), item_relations={"genres": "item"})


def test_interactions_with_a_graph_of_relations(tmp_path: Path) -> None:
    """Users and items are found by their ids, also after filtering and from disk; the log's own
    edges stay.
    """
    nodes = {"user": pl.DataFrame({"id": [9, 2, 1]}), "item": pl.DataFrame({"id": ["z", "x"]})}
    relations = HeteroGraph.from_frames(
        {
            ("user", "friend", "user"): pl.DataFrame({"a": [1, 2, 9], "b": [2, 1, 1]}),
            ("item", "has", "tag"): pl.DataFrame(
                {"a": ["x", "z", "x"], "b": ["t", "t", "s"], "weight": [1.0, 2.0, 3.0]}
            ),
        },
        nodes,
    )
    log = _log().with_features(graph=relations)
    log.save(tmp_path)
    for data in (
        log,
        Interactions.load(tmp_path),
        Interactions.load(tmp_path).deduplicate("first"),
    ):
        made = HeteroGraph.from_interactions(data)
        assert made.adjacency(("user", "friend", "user")).to_dense().tolist() == [
            [0, 1, 0],
            [1, 0, 0],
            [0, 0, 0],
        ]
        has = made.adjacency(("item", "has", "tag")).to_dense()
        assert has.tolist() == [[1, 3], [0, 0], [2, 0]]
        assert made.adjacency(("user", "interacts", "item")).nnz == 4
    with pytest.raises(DataError):
        log.with_features(graph=HeteroGraph.from_edge_lists({"a": 1, "b": 1}, {}))


@pytest.mark.parametrize("sparse", [False, True])
def test_interactions_with_a_graph_of_features(sparse: bool) -> None:
    vectors = torch.tensor([[1.0, 0.0], [2.0, 3.0], [0.0, 4.0]])
    nodes = {
        "item": Nodes(
            3, IdMap(pl.Series(["z", "new", "x"])), Csr.from_dense(vectors) if sparse else vectors
        )
    }
    data = _log().with_features(graph=HeteroGraph(nodes)).with_ids(items=["new"])
    found = HeteroGraph.from_interactions(data).features("item")
    dense = found.to_dense() if isinstance(found, Csr) else found
    assert dense is not None
    assert dense.tolist() == [[0, 4], [0, 0], [1, 0], [2, 3]]  # x, y, z, new


@pytest.mark.parametrize(
    ("edges", "names"),
    [
        ({WRITES: ([0, 5], [0, 0])}, (f"{WRITES}", "row 1", "source 'author' = 5")),
        ({WRITES: ([0], [0, 1])}, (f"{WRITES}",)),
        ({WRITES: np.zeros((2, 3), dtype=int)}, (f"{WRITES}",)),
        ({("autor", "writes", "paper"): ([0], [0])}, ("autor", "author")),
    ],
)
def test_wrong_edges(edges: Any, names: tuple[str, ...]) -> None:
    with refused(*names, by=GraphError):
        HeteroGraph.from_edge_lists({"author": 3, "paper": 4}, edges)


def test_nodes_in_other_orders(tmp_path: Path) -> None:
    """Node by node: features, ids, edges with their weights and times, classes and splits of what
    they were.
    """
    made = graph()
    order, of_authors = torch.tensor([2, 0, 3, 1]), torch.tensor([1, 2, 0])
    moved = made.permuted({"paper": order, "author": of_authors})
    for name, rows, columns in ((WRITES, of_authors, order), (CITES, order, order)):
        before, after = made.adjacency(name).to_dense(), moved.adjacency(name).to_dense()
        assert torch.equal(after, before[rows][:, columns])
    assert torch.equal(moved.features("author"), made.features("author")[of_authors])  # type: ignore[index, arg-type]
    assert torch.equal(moved.features("paper").to_dense(), made.features("paper").to_dense()[order])  # type: ignore[union-attr]
    assert moved.nodes["author"].ids.ids([0, 1, 2]).to_list() == ["bob", "eve", "ann"]  # type: ignore[union-attr]
    assert (
        moved.permuted({"paper": order.argsort(), "author": of_authors.argsort()}).hash == made.hash
    )
    with pytest.raises(ValueError):
        made.permuted({"author": torch.tensor([0, 0, 1])})
    split = NodeSplit(torch.tensor([0, 1]), torch.tensor([2]), torch.tensor([3]))
    task = NodeTask("paper", torch.tensor([0, 1, 2, 1]), {"1": split}, ("paper-author-paper",))
    other = task.permuted(order)
    assert torch.equal(order[other.splits["1"].train], split.train)
    assert torch.equal(other.labels[other.splits["1"].train], task.labels[split.train])
    other.save(tmp_path)
    again = NodeTask.load(tmp_path)
    assert (again.target, again.paths, again.hash) == (other.target, other.paths, other.hash)
