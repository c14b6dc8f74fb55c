"""Graphs of PyTorch Geometric and DGL, in and out: labels and masks, homogeneous graphs, and what
has no place.
"""

from __future__ import annotations

import warnings
from typing import Any

import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recgraph.data.ids import IdMap
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.node_task import NodeSplit, NodeTask
from recgraph.graph.schema import EdgeType, GraphError, LeftOutWarning

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
        x=torch.eye(n),
        edge_index=torch.cat([ring, ring.flip(0)], 1),
        y=torch.arange(n) % 2,
        **masks(n),
        **more,
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


def test_what_has_no_place_is_named() -> None:
    from torch_geometric.data import HeteroData

    with pytest.warns(LeftOutWarning):
        HeteroGraph.from_pyg_with_task(
            homogeneous(pos=torch.zeros(12, 2), edge_year=torch.zeros(24))
        )
    data = HeteroData(source="somewhere")
    data["a"].num_nodes = 2
    data["a"].year = torch.tensor([1, 2])
    data["a", "to", "a"].edge_index = torch.tensor([[0, 1], [1, 0]])
    data["a", "to", "a"].edge_weight = torch.ones(2)
    data["a", "to", "a"].edge_attr = torch.ones(2, 1)
    with pytest.warns(LeftOutWarning):
        HeteroGraph.from_pyg(data)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[HeteroGraph, NodeTask]:
    """Any graph that can be held, with a task of one of its types whose splits masks can hold."""
    counts = draw(st.dictionaries(st.sampled_from("abc"), st.integers(1, 5), min_size=1))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    names = sorted(counts)
    edges: dict[EdgeType, Any] = {}
    weights, times = {}, {}
    for number in range(draw(st.integers(0, 3))):
        edge_type: EdgeType = (
            draw(st.sampled_from(names)),
            f"r{number}",
            draw(st.sampled_from(names)),
        )
        n = draw(st.integers(0, 6))
        edges[edge_type] = tuple(
            torch.randint(0, counts[edge_type[end]], (n,), generator=generator) for end in (0, 2)
        )
        if draw(st.booleans()):
            weights[edge_type] = torch.rand(n, generator=generator)
        if draw(st.booleans()):
            times[edge_type] = torch.randint(0, 9, (n,), generator=generator)
    features = {
        name: torch.rand(counts[name], 2, generator=generator)
        for name in names
        if draw(st.booleans())
    }
    ids = {
        name: IdMap(pl.Series([f"{name}{i}" for i in range(counts[name])]))
        for name in names
        if draw(st.booleans())
    }
    target = draw(st.sampled_from(names))
    n = counts[target]
    labels = torch.tensor([0, *draw(st.lists(st.integers(-1, 3), min_size=n - 1, max_size=n - 1))])
    known = (labels >= 0).nonzero().flatten().tolist()
    parts = st.lists(st.sampled_from(known), unique=True).map(sorted)
    splits = {
        f"{number}": NodeSplit(*(torch.tensor(draw(parts), dtype=torch.int64) for _ in range(3)))
        for number in range(draw(st.integers(0, 3)))
    }
    task = NodeTask(
        target, labels, splits, tuple(draw(st.lists(st.just(f"{target}-{target}"), max_size=1)))
    )
    return HeteroGraph.from_edge_lists(counts, edges, features, weights, times, ids), task


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(graphs())
def test_everything_comes_back_from_pyg(made: tuple[HeteroGraph, NodeTask]) -> None:
    graph, task = made
    with warnings.catch_warnings():
        warnings.simplefilter("error", LeftOutWarning)
        again, its_task = HeteroGraph.from_pyg_with_task(graph.to_pyg(task))
        assert again.hash == graph.hash
        assert same_task(its_task, task)
        if len(graph.node_types) == len(graph.edge_types) == 1:
            one = graph.to_pyg(task, homogeneous=True)
            (name,), ((_, relation, _),) = graph.node_types, graph.edge_types
            again, its_task = HeteroGraph.from_pyg_with_task(one, node_type=name, relation=relation)
            assert again.hash == graph.hash
            assert same_task(its_task, task)


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
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
    # DGL sorts the types
    nodes, edges = (
        {name: again.nodes[name] for name in graph.nodes},
        {name: again.edges[name] for name in graph.edges},
    )
    assert HeteroGraph(nodes, edges).hash == graph.hash
    assert same_task(its_task, task)


def test_labels_of_one_type_and_masks_of_several_splits() -> None:
    data = HeteroGraph.from_edge_lists(
        {"a": 4, "b": 3}, {("a", "to", "b"): ([0, 1], [0, 2])}
    ).to_pyg()
    data["b"].y = torch.tensor([[0], [1], [-1]])
    assert HeteroGraph.from_pyg_with_task(data)[1].labels.tolist() == [0, 1, -1]
    data["a"].y = torch.tensor([0, 1, 0, 1])
    for target in (None, "c"):
        with pytest.raises(GraphError):
            HeteroGraph.from_pyg_with_task(data, target=target)
    graph, task = HeteroGraph.from_pyg_with_task(data, target="a")
    assert (task.target, task.labels.tolist()) == ("a", [0, 1, 0, 1])
    with pytest.raises(GraphError):
        graph.to_pyg(homogeneous=True)
    one, other = homogeneous(), masks(12, 1)
    for name in ("train_mask", "val_mask"):  # one test mask for both, as in WikiCS
        one[name] = torch.stack([one[name], other[name]], 1)
    task = HeteroGraph.from_pyg_with_task(one)[1]
    assert list(task.splits) == ["masks 0", "masks 1"]
    assert torch.equal(task.splits["masks 1"].train, other["train_mask"].nonzero().flatten())
    assert torch.equal(task.splits["masks 1"].test, task.splits["masks 0"].test)
