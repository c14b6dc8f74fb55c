"""Graphs of PyTorch Geometric and DGL, in and out: labels and masks, homogeneous graphs, and what has no place."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_hetero import assert_same

import recgraph as rg
from recgraph.data.ids import IdMap
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.node_task import MASKS, NodeSplit, NodeTask
from recgraph.graph.schema import EdgeIndexError, EdgeType, GraphError, LeftOutWarning

pytestmark = pytest.mark.filterwarnings("error::recgraph.graph.schema.LeftOutWarning")


def same_task(a: NodeTask, b: NodeTask) -> bool:
    return (a.hash, a.paths, list(a.splits)) == (b.hash, b.paths, list(b.splits))


def masks(n: int, seed: int = 0) -> dict[str, torch.Tensor]:
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    found = {}
    for name, index in zip(("train_mask", "val_mask", "test_mask"), order.chunk(3), strict=True):
        found[name] = torch.zeros(n, dtype=torch.bool)
        found[name][index] = True
    return found


def homogeneous(n: int = 12, **more: Any) -> Any:
    from torch_geometric.data import Data

    ring = torch.stack([torch.arange(n), (torch.arange(n) + 1) % n])
    return Data(
        x=torch.eye(n), edge_index=torch.cat([ring, ring.flip(0)], 1), y=torch.arange(n) % 2, **masks(n), **more
    )


def test_a_homogeneous_graph_with_its_labels_and_back() -> None:
    data = homogeneous()
    graph, task = HeteroGraph.from_pyg_with_task(data, node_type="paper", relation="cites")
    assert (graph.node_types, graph.edge_types) == (["paper"], [("paper", "cites", "paper")])
    assert (task.target, list(task.splits)) == ("paper", ["masks"])
    assert torch.equal(task.labels, data.y)
    assert torch.equal(task.splits["masks"].valid, data.val_mask.nonzero().flatten())
    again = graph.to_pyg(task, homogeneous=True)
    assert type(again) is type(data)
    for name in ("x", "y", "train_mask", "val_mask", "test_mask"):
        assert torch.equal(again[name], data[name])
    order = (data.edge_index[0] * 12 + data.edge_index[1]).argsort()
    assert torch.equal(again.edge_index, data.edge_index[:, order])
    assert HeteroGraph.from_pyg_with_task(again)[0].node_types == ["node"]


def test_it_is_fitted_and_evaluated() -> None:
    graph, task = HeteroGraph.from_pyg_with_task(homogeneous(24), node_type="paper")
    model = rg.models.MEOW(metapaths=("paper-paper", "paper-paper-paper"), hidden_dim=8, n_clusters=(2,))
    run = rg.fit_graph(model, graph, seed=0, max_epochs=2, progress=False)
    assert [row["labels"] for row in run.evaluate(task).rows()] == ["masks", "masks", "none"]


def test_labels_that_nobody_reads_are_named() -> None:
    with pytest.warns(LeftOutWarning, match=r"labels and masks of 'node' are no part .* from_pyg_with_task reads them"):
        HeteroGraph.from_pyg(homogeneous())


def test_what_has_no_place_is_named() -> None:
    from torch_geometric.data import HeteroData

    with pytest.warns(LeftOutWarning, match="no place for pos, edge_year$"):
        HeteroGraph.from_pyg_with_task(homogeneous(pos=torch.zeros(12, 2), edge_year=torch.zeros(24)))
    data = HeteroData(source="somewhere")
    data["a"].num_nodes = 2
    data["a"].year = torch.tensor([1, 2])
    data["a", "to", "a"].edge_index = torch.tensor([[0, 1], [1, 0]])
    data["a", "to", "a"].edge_weight = torch.ones(2)
    data["a", "to", "a"].edge_attr = torch.ones(2, 1)
    with pytest.warns(LeftOutWarning, match=r"no place for a\.year, a-to-a\.edge_attr, source$"):
        HeteroGraph.from_pyg(data)


def test_types_that_edges_alone_name() -> None:
    from torch_geometric.data import HeteroData

    data = HeteroData()
    data["a"].x = torch.eye(3)
    data["a", "to", "b"].edge_index = torch.tensor([[0, 2], [4, 1]])
    data["c", "to", "b"].edge_index = torch.tensor([[1], [6]], dtype=torch.int32)
    data["c", "none", "d"].edge_index = torch.empty(2, 0, dtype=torch.int64)
    graph = HeteroGraph.from_pyg(data)
    assert {name: graph.count(name) for name in graph.node_types} == {"a": 3, "b": 7, "c": 2, "d": 0}
    data["a", "to", "b"].edge_index = torch.tensor([[0, 3], [4, 1]])
    with pytest.raises(EdgeIndexError, match=r"row 1 \(from 0\): source 'a' = 3 is out of range"):
        HeteroGraph.from_pyg(data)
    from torch_geometric.data import Data

    assert HeteroGraph.from_pyg(Data(edge_index=torch.tensor([[0, 5], [2, 1]]))).count("node") == 6


def test_ids_of_nodes_are_kept() -> None:
    for ids in (["a", "b", "c"], np.array([7, 5, 3]), torch.tensor([7, 5, 3])):
        graph, _ = HeteroGraph.from_pyg_with_task(homogeneous(3, node_id=ids))
        held = graph.nodes["node"].ids
        assert held is not None
        assert held.values.to_list() == [*(each if isinstance(each, str) else int(each) for each in ids)]
        assert_same(
            HeteroGraph.from_pyg_with_task(graph.to_pyg(HeteroGraph.from_pyg_with_task(homogeneous(3))[1]))[0], graph
        )
    with pytest.raises(GraphError, match="'node': id 5 occurs several times"):
        HeteroGraph.from_pyg_with_task(homogeneous(3, node_id=torch.tensor([7, 5, 5])))


def test_edges_held_in_another_way_are_refused() -> None:
    from torch_geometric.data import Data

    with pytest.raises(GraphError, match="have no edge_index; turn adj_t into edge_index first"):
        HeteroGraph.from_pyg(Data(x=torch.eye(2), adj_t=torch.eye(2).to_sparse_csr()))
    with pytest.raises(GraphError, match=r"edge_index must be integers \[2, E\], not torch.float32 \[2, 2\]"):
        HeteroGraph.from_pyg(Data(edge_index=torch.zeros(2, 2)))
    index = torch.tensor([[0, 1], [1, 0]])
    assert HeteroGraph.from_pyg(Data(edge_index=index, edge_weight=[1.0, 2.0], time=np.array([3, 4]))).edges
    with pytest.raises(GraphError, match="edge_attr are no numbers"):
        HeteroGraph.from_pyg(Data(edge_index=index, edge_attr=["a", "b"]))
    with pytest.raises(GraphError, match=r"num_nodes = 8\.5 must be a whole number"):
        HeteroGraph.from_pyg(Data(edge_index=index, num_nodes=8.5))
    with pytest.raises(GraphError, match="ids of 'node': node 1 has none"):
        HeteroGraph.from_pyg(Data(edge_index=index, ids=["a", None], num_nodes=2))
    with pytest.raises(GraphError, match=r"data = .* must be a HeteroData or a Data"):
        HeteroGraph.from_pyg({"x": 1})
    with pytest.raises(GraphError, match=r"graph = .* must be a graph of DGL"):
        HeteroGraph.from_dgl(Data(edge_index=index))


def test_which_type_has_the_labels() -> None:
    data = HeteroGraph.from_edge_lists({"a": 4, "b": 3}, {("a", "to", "b"): ([0, 1], [0, 2])}).to_pyg()
    with pytest.raises(GraphError, match=r"no nodes have labels \(y\)$"):
        HeteroGraph.from_pyg_with_task(data)
    data["a"].y = torch.tensor([0, 1, 0, 1])
    assert HeteroGraph.from_pyg_with_task(data)[1].target == "a"
    with pytest.raises(GraphError, match=r"no nodes of 'b' have labels \(y\); give target, one of a$"):
        HeteroGraph.from_pyg_with_task(data, target="b")
    data["b"].y = torch.tensor([[0], [1], [-1]])
    with pytest.raises(GraphError, match=r"several types have labels \(y\); give target, one of a, b"):
        HeteroGraph.from_pyg_with_task(data)
    assert HeteroGraph.from_pyg_with_task(data, target="b")[1].labels.tolist() == [0, 1, -1]
    with pytest.raises(GraphError, match="the task has labels of 4 'a' nodes, but the graph has 5 of them"):
        HeteroGraph.from_edge_lists({"a": 5}, {}).to_pyg(NodeTask("a", [0, 1, 0, 1]))  # type: ignore[arg-type]
    with pytest.raises(GraphError, match="a Data holds one type of nodes and one of edges"):
        HeteroGraph.from_pyg_with_task(data, target="b")[0].to_pyg(homogeneous=True)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("y", torch.zeros(12, 3), r"y of 'node' has shape \(12, 3\): a node has one class"),
        ("y", torch.arange(12) + 0.5, r"y and masks of 'node': labels: 0\.5 in row 0 \(from 0\) is no integer"),
        ("val_mask", None, "have train_mask, test_mask but no val_mask"),
        ("val_mask", torch.zeros(11, dtype=torch.bool), r"val_mask of 'node' must be booleans, \[12\] or \[12, S\]"),
        ("val_mask", torch.zeros(12), r"val_mask of 'node' must be booleans.* not torch\.float32"),
        ("y", torch.full((12,), -1), "there is no node whose class is known"),
        ("y", torch.tensor([-1] + [0, 1] * 5 + [1]), r"split 'masks': \w+ holds node 0, whose class is not known"),
    ],
)
def test_labels_and_masks_that_are_none(column: str, value: Any, message: str) -> None:
    data = homogeneous()
    data[column] = value
    with pytest.raises(GraphError, match=message):
        HeteroGraph.from_pyg_with_task(data)


def test_masks_of_several_splits() -> None:
    data = homogeneous()
    other = masks(12, 1)
    data.train_mask = torch.stack([data.train_mask, other["train_mask"]], 1)
    data.val_mask = torch.stack([data.val_mask, other["val_mask"]], 1)
    graph, task = HeteroGraph.from_pyg_with_task(data)  # one test mask for both, as in WikiCS
    assert list(task.splits) == ["masks 0", "masks 1"]
    assert torch.equal(task.splits["masks 1"].train, other["train_mask"].nonzero().flatten())
    assert torch.equal(task.splits["masks 1"].test, task.splits["masks 0"].test)
    assert same_task(HeteroGraph.from_pyg_with_task(graph.to_pyg(task))[1], task)


def test_what_a_mask_cannot_hold_is_named() -> None:
    split = NodeSplit(torch.tensor([0, 0, 1]), torch.tensor([2]), torch.tensor([3]))
    task = NodeTask("a", torch.tensor([0, 1, 0, 1]), {"20": split})
    with pytest.warns(LeftOutWarning, match="split '20': train holds nodes several times"):
        HeteroGraph.from_edge_lists({"a": 4}, {}).to_pyg(task)


# --- labels of every kind


@pytest.mark.parametrize("kind", ["list", "numpy", "floats", "int32", "tensor"])
def test_labels_are_read_from_lists_arrays_and_tensors(kind: str) -> None:
    plain = [0, 1, 2, 1]
    labels: Any = {
        "list": plain,
        "numpy": np.array(plain),
        "floats": np.array(plain, dtype=float),
        "int32": torch.tensor(plain, dtype=torch.int32),
        "tensor": torch.tensor(plain),
    }[kind]
    split: Any = ([0], np.array([False, True, False, False]), torch.tensor([2, 3]))
    task = NodeTask("paper", labels, {"1": NodeSplit(*split)}, ["paper-author-paper"])  # type: ignore[arg-type]
    assert task.labels.dtype == torch.int64
    assert [getattr(task.splits["1"], part).tolist() for part in MASKS] == [[0], [1], [2, 3]]
    expected = NodeSplit(torch.tensor([0]), torch.tensor([1]), torch.tensor([2, 3]))
    assert same_task(task, NodeTask("paper", torch.tensor(plain), {"1": expected}, ("paper-author-paper",)))


@pytest.mark.parametrize(
    ("labels", "part", "message"),
    [
        (["war", "love"], [0], r"labels: 'war' is no number; give integers, e\.g\. np\.unique"),
        ([0, 1.5], [0], r"labels: 1\.5 in row 1 \(from 0\) is no integer"),
        ([0, float("nan")], [0], r"labels: nan in row 1"),
        ([[0, 1]], [0], r"labels must be a list of numbers, \[n\], not of shape \(1, 2\)"),
        ([0, -2], [0], "node 1 has class -2; give classes from 0"),
        ([], [], "there is no node whose class is known"),
        ([0, 1], [2], "split '20': train holds node 2, but there are 2 nodes of 'paper'"),
        ([0, -1], [1], "split '20': train holds node 1, whose class is not known"),
        ([0, 1], [0.5], r"split: train: 0\.5 in row 0 \(from 0\) is no integer"),
        ([0, 1], torch.tensor([1, 0], dtype=torch.uint8), "split: train is of uint8, a mask or indices: give booleans"),
    ],
)
def test_labels_that_are_no_classes_are_refused_where_the_task_is_made(labels: Any, part: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NodeTask("paper", labels, {"20": NodeSplit(part, part, part)})


def test_nodes_of_no_known_class_are_left_out_of_clusterings() -> None:
    from recgraph.evaluate.node_probe import cluster_scores

    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 2
    unknown = labels.clone()
    unknown[5:9] = -1
    known = unknown >= 0
    assert cluster_scores(x, unknown, repeats=2) == cluster_scores(x[known], labels[known], repeats=2)


# --- round trips


@st.composite
def graphs(draw: st.DrawFn) -> tuple[HeteroGraph, NodeTask]:
    """Any graph that can be held, with a task of one of its types whose splits masks can hold."""
    counts = draw(st.dictionaries(st.sampled_from("abc"), st.integers(1, 5), min_size=1))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    names = sorted(counts)
    edges: dict[EdgeType, Any] = {}
    weights, times = {}, {}
    for number in range(draw(st.integers(0, 3))):
        edge_type: EdgeType = (draw(st.sampled_from(names)), f"r{number}", draw(st.sampled_from(names)))
        n = draw(st.integers(0, 6))
        edges[edge_type] = tuple(torch.randint(0, counts[edge_type[end]], (n,), generator=generator) for end in (0, 2))
        if draw(st.booleans()):
            weights[edge_type] = torch.rand(n, generator=generator)
        if draw(st.booleans()):
            times[edge_type] = torch.randint(0, 9, (n,), generator=generator)
    features = {name: torch.rand(counts[name], 2, generator=generator) for name in names if draw(st.booleans())}
    ids = {name: IdMap(pl.Series([f"{name}{i}" for i in range(counts[name])])) for name in names if draw(st.booleans())}
    target = draw(st.sampled_from(names))
    n = counts[target]
    labels = torch.tensor([0, *draw(st.lists(st.integers(-1, 3), min_size=n - 1, max_size=n - 1))])
    known = (labels >= 0).nonzero().flatten().tolist()
    parts = st.lists(st.sampled_from(known), unique=True).map(sorted)
    splits = {
        f"{number}": NodeSplit(*(torch.tensor(draw(parts), dtype=torch.int64) for _ in range(3)))
        for number in range(draw(st.integers(0, 3)))
    }
    task = NodeTask(target, labels, splits, tuple(draw(st.lists(st.just(f"{target}-{target}"), max_size=1))))
    return HeteroGraph.from_edge_lists(counts, edges, features, weights, times, ids), task


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graphs())
def test_everything_comes_back_from_pyg(made: tuple[HeteroGraph, NodeTask]) -> None:
    graph, task = made
    with warnings.catch_warnings():
        warnings.simplefilter("error", LeftOutWarning)
        again, its_task = HeteroGraph.from_pyg_with_task(graph.to_pyg(task))
        assert_same(again, graph)
        assert same_task(its_task, task)
        assert again.hash == graph.hash
        if len(graph.node_types) == len(graph.edge_types) == 1:
            one = graph.to_pyg(task, homogeneous=True)
            (name,), ((_, relation, _),) = graph.node_types, graph.edge_types
            again, its_task = HeteroGraph.from_pyg_with_task(one, node_type=name, relation=relation)
            assert again.hash == graph.hash
            assert same_task(its_task, task)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(made=graphs())
def test_everything_comes_back_from_dgl(dgl: Any, made: tuple[HeteroGraph, NodeTask]) -> None:
    graph, task = made
    if not graph.edges:
        return  # DGL knows node types by their edges
    kept = {name for source, _, target in graph.edges for name in (source, target)}
    if kept != set(graph.node_types):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error", LeftOutWarning)
        again, its_task = HeteroGraph.from_dgl_with_task(graph.to_dgl(task))
    assert_same(again, graph)
    assert same_task(its_task, task)


def test_numbers_of_a_heterograph_that_dgl_made_homogeneous() -> None:
    there = SimpleNamespace(
        ntypes=["_N"], canonical_etypes=[], nodes={"_N": SimpleNamespace(data={"_ID": torch.tensor([0, 1, 0])})}
    )
    with pytest.raises(
        GraphError, match=r"node type 'node': id 0 .* times.*dgl\.to_homogeneous .* give the heterograph"
    ):
        HeteroGraph.from_dgl(there)


def test_homogeneous_dgl(dgl: Any) -> None:
    there = dgl.graph((torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0])))
    there.ndata["feat"] = torch.eye(3)
    there.ndata["label"] = torch.tensor([0, 1, 1])
    for name, values in masks(3).items():
        there.ndata[name] = values
    there.ndata["year"] = torch.tensor([1, 2, 3])
    with pytest.warns(
        LeftOutWarning, match=r"no place for node\.year; labels and masks of 'node'.* from_dgl_with_task"
    ):
        assert HeteroGraph.from_dgl(there).edge_types == [("node", "to", "node")]
    del there.ndata["year"]
    graph, task = HeteroGraph.from_dgl_with_task(there, node_type="paper", relation="cites")
    assert graph.edge_types == [("paper", "cites", "paper")]
    assert (task.target, task.labels.tolist()) == ("paper", [0, 1, 1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NodeSplit([1] * 5 + [0] * 5, [0], [1]), "split: train holds the nodes 0 and 1 again and again, 10"),
        (
            lambda: NodeTask("a", [0, 1, 1], {"1": ([0], [1], [2])}),
            "splits = .* must be a mapping of names to NodeSplit",
        ),
        (lambda: NodeTask("a", [0, 1], [NodeSplit([0], [0], [1])]), "splits = .* must be a mapping"),
        (lambda: NodeTask("a", [0, 1], {"x\ny": NodeSplit([0], [0], [1])}), "is no name"),
        (
            lambda: NodeTask("a", [0, 1, 1], {"1": NodeSplit([True, False], [1], [2])}),
            "split '1': the mask of train is of 2 nodes, but there are 3 of 'a'",
        ),
    ],
)
def test_mistakes_of_splits(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
