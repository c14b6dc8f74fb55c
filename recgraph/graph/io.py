"""Typed graphs as those of PyTorch Geometric and of DGL, and back.

In a ``torch_geometric.data.HeteroData`` features are ``data[node_type].x`` (a sparse CSR tensor where they are sparse),
ids ``.ids``, labels ``.y`` with ``.train_mask``, ``.val_mask`` and ``.test_mask``; edges are ``.edge_index`` with
``.edge_weight`` and ``.time``. A homogeneous ``Data`` has the same names and one type of nodes and of edges. In a DGL
graph features are ``graph.nodes[type].data["feat"]``, labels ``["label"]`` with the same masks, weights and times
``graph.edges[type].data["weight"]`` and ``["time"]``; DGL has no place for ids, so they are the attribute
``graph.node_ids``, which DGL does not carry over to graphs made from this one.

Labels and masks are no part of a :class:`~recgraph.graph.hetero.HeteroGraph`, which is what models are trained on, but
a :class:`~recgraph.graph.node_task.NodeTask` beside it. Whatever else there is has no place and is named in a warning
(:class:`~recgraph.graph.schema.LeftOutWarning`). Edges come back in the order of their ends. Repeated edges stay: PyG's
own converters merge them, and its ``from_dgl`` is wrong for several types.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recgraph.data.ids import IdMap
from recgraph.graph.node_task import LABELS, NodeTask
from recgraph.graph.schema import (
    Edges,
    EdgeType,
    GraphError,
    GraphParts,
    LeftOutWarning,
    Nodes,
    as_features,
    make_edges,
    numbers,
)
from recgraph.sparse.csr import Csr, csr_tensor
from recgraph.sparse.dgl import load as load_dgl

#: names under which ids of nodes are found, the first one that is there
_IDS = ("ids", "node_id", "n_id")
_OF_NODES = {"x", "num_nodes", *_IDS, "y", *LABELS}
_OF_EDGES = {"edge_index", "edge_weight", "edge_attr", "time"}


def to_pyg(
    nodes: Mapping[str, Nodes], edges: Mapping[EdgeType, Edges], task: NodeTask | None = None, homogeneous: bool = False
) -> Any:
    """A ``HeteroData`` that shares the tensors of a graph.

    Args:
        task: whose labels and masks are written to the nodes of its target.
        homogeneous: a ``Data`` instead, of a graph with one type of nodes and one of edges.

    Raises:
        GraphError: the graph has several types.
    """
    from torch_geometric.data import Data, HeteroData

    if homogeneous and (len(nodes), len(edges)) != (1, 1):
        raise GraphError("homogeneous = True: a Data holds one type of nodes and one of edges; the graph has more")
    data = Data() if homogeneous else HeteroData()
    for name, own in nodes.items():
        store = data if homogeneous else data[name]
        store.num_nodes = own.count
        if own.ids is not None:
            store.ids = own.ids
        if own.features is not None:
            store.x = csr_tensor(own.features) if isinstance(own.features, Csr) else own.features
    for edge_type, lists in edges.items():
        store = data if homogeneous else data[edge_type]
        store.edge_index = torch.stack([lists.adj.rows, lists.adj.indices])
        if lists.adj.weights is not None:
            store.edge_weight = lists.adj.weights
        if lists.times is not None:
            store.time = lists.times
    if task is not None:
        store = data if homogeneous else data[task.target]
        for name, values in task.to_columns("y").items():
            store[name] = values
    return data


def from_pyg(data: Any, node_type: str = "node", relation: str = "to", *, labels: bool = False) -> GraphParts:
    """A graph of what :func:`to_pyg` writes; an ``edge_attr`` of one column stands for ``edge_weight``.

    A type of nodes without features or ``num_nodes`` has as many nodes as its edges name.

    Args:
        data: a ``HeteroData``, or a homogeneous ``Data``.
        node_type, relation: names of the one type of nodes and of edges of a ``Data``.
        labels: whether the caller reads labels and masks itself, so that no warning names them.

    Raises:
        GraphError: edge attributes of several columns, or edges held otherwise than by ``edge_index``.
    """
    node_stores, edge_stores = _stores(data, node_type, relation)
    names = dict.fromkeys([*node_stores, *(end for source, _, target in edge_stores for end in (source, target))])
    for edge_type, store in edge_stores.items():
        if store.get("edge_index") is None:
            raise GraphError(f"edges {edge_type} have no edge_index; make it of adj_t first")
    index = {edge_type: torch.as_tensor(store["edge_index"]).long() for edge_type, store in edge_stores.items()}
    nodes = {}
    for name in names:
        store = node_stores.get(name, {})
        features = None if store.get("x") is None else as_features(store["x"])
        ids = _ids(store)
        nodes[name] = Nodes(_count(name, store, features, ids, index), ids, features)
    edges = {}
    for edge_type, store in edge_stores.items():
        counts = (nodes[edge_type[0]].count, nodes[edge_type[2]].count)
        weights = numbers(store.get("edge_weight"))
        if weights is None and (attributes := numbers(store.get("edge_attr"))) is not None:
            if attributes.dim() == 2 and attributes.shape[1] != 1:
                shape = tuple(attributes.shape)
                raise GraphError(f"edges {edge_type}: edge_attr has shape {shape}; give one edge_weight each")
            weights = attributes.reshape(-1)
        times = numbers(store.get("time"))
        source, target = index[edge_type]
        edges[edge_type] = make_edges(edge_type, source, target, counts, weights, times)
    known = _OF_NODES | (_OF_EDGES if _is_homogeneous(data) else set())
    left_out = [f"{name}.{key}" for name, store in node_stores.items() for key in store if key not in known]
    if not _is_homogeneous(data):
        left_out += [
            f"{'-'.join(of)}.{key}" for of, store in edge_stores.items() for key in store if key not in _OF_EDGES
        ]
        left_out += data.stores[0].to_dict()
    _name_left_out(left_out, [] if labels else _labelled(node_stores, "y"), "from_pyg")
    return nodes, edges


def _is_homogeneous(data: Any) -> bool:
    return not hasattr(data, "node_types")


def _stores(data: Any, node_type: str, relation: str) -> tuple[dict[str, Any], dict[EdgeType, Any]]:
    """The attributes of each type of nodes and of edges, as mappings."""
    if _is_homogeneous(data):
        one = data.to_dict()
        return {node_type: one}, {(node_type, relation, node_type): one}
    return (
        {name: data[name].to_dict() for name in data.node_types},
        {edge_type: data[edge_type].to_dict() for edge_type in data.edge_types},
    )


def _count(
    name: str,
    store: Mapping[str, Any],
    features: Tensor | Csr | None,
    ids: IdMap | None,
    index: Mapping[EdgeType, Tensor],
) -> int:
    """How many nodes of a type there are: as given, as many as it has of anything, or as its edges name."""
    if store.get("num_nodes") is not None:
        return int(store["num_nodes"])
    for held in (features.shape if features is not None else None, ids, store.get("y")):
        if held is not None:
            return held[0] if isinstance(held, tuple) else len(held)
    ends = [part[0] for (source, _, _), part in index.items() if source == name]
    ends += [part[1] for (_, _, target), part in index.items() if target == name]
    return max((int(end.max()) + 1 for end in ends if end.numel()), default=0)


def _ids(store: Mapping[str, Any]) -> IdMap | None:
    values = next((store[key] for key in _IDS if store.get(key) is not None), None)
    if values is None or isinstance(values, IdMap):
        return values
    return IdMap(pl.Series(values.numpy(force=True) if isinstance(values, Tensor) else np.asarray(values)))


def _labelled(stores: Mapping[str, Mapping[str, Any]], label: str) -> list[str]:
    """The types of nodes with labels."""
    return [name for name, store in stores.items() if store.get(label) is not None]


def _name_left_out(attributes: Iterable[str], labelled: list[str], call: str) -> None:
    texts = [f"a graph has no place for {', '.join(found)}"] if (found := [*attributes]) else []
    if labelled:
        texts.append(f"labels of {', '.join(map(repr, labelled))} are read by {call}_with_task, as a NodeTask")
    if texts:
        warnings.warn("; ".join(texts), LeftOutWarning, stacklevel=4)


def task_from_pyg(data: Any, target: str | None = None, node_type: str = "node") -> NodeTask:
    """Labels and masks as a task; see :meth:`NodeTask.from_columns`.

    Args:
        target: the type of nodes, where several have labels.
        node_type: the name of the one type of nodes of a ``Data``.

    Raises:
        GraphError: there are no labels, or several types have them.
    """
    stores, _ = _stores(data, node_type, "")
    return _task(stores, target, "y")


def _task(stores: Mapping[str, Mapping[str, Any]], target: str | None, label: str) -> NodeTask:
    chosen = [name for name in _labelled(stores, label) if target in (None, name)]
    if len(chosen) != 1:
        raise GraphError(f"target = {target!r}: labels ({label}) are there of {', '.join(chosen) or 'no nodes'}")
    return NodeTask.from_columns(chosen[0], stores[chosen[0]], label)


def to_dgl(
    nodes: Mapping[str, Nodes], edges: Mapping[EdgeType, Edges], device: torch.device, task: NodeTask | None = None
) -> Any:
    """A heterograph that shares the tensors of a graph.

    Args:
        task: whose labels and masks are written to the nodes of its target.

    Raises:
        ImportError: DGL is not there or does not run here.
    """
    dgl = load_dgl()
    pairs = {edge_type: (lists.adj.rows, lists.adj.indices) for edge_type, lists in edges.items()}
    counts = {name: own.count for name, own in nodes.items()}
    made = dgl.heterograph(pairs, num_nodes_dict=counts, device=device)
    for name, own in nodes.items():
        if own.features is not None:
            features = own.features
            made.nodes[name].data["feat"] = csr_tensor(features) if isinstance(features, Csr) else features
    for edge_type, lists in edges.items():
        if lists.adj.weights is not None:
            made.edges[edge_type].data["weight"] = lists.adj.weights
        if lists.times is not None:
            made.edges[edge_type].data["time"] = lists.times
    made.node_ids = {name: own.ids for name, own in nodes.items() if own.ids is not None}
    if task is not None:
        columns = task.to_columns("label")
        made.node_tasks = {task.target: {name: columns.pop(name) for name in LABELS[3:] if name in columns}}
        for name, values in columns.items():
            made.nodes[task.target].data[name] = values.to(device)
    return made


def from_dgl(graph: Any, node_type: str = "node", relation: str = "to", *, labels: bool = False) -> GraphParts:
    """A graph of what :func:`to_dgl` writes, or of a heterograph whose data has these names.

    Args:
        node_type, relation: names of the one type of nodes and of edges of a homogeneous graph.
        labels: whether the caller reads labels and masks itself, so that no warning names them.
    """
    ids: dict[str, IdMap] = getattr(graph, "node_ids", {})
    stores = {_named(name, node_type): dict(graph.nodes[name].data) for name in graph.ntypes}
    nodes, edges = {}, {}
    for name, of in zip(stores, graph.ntypes, strict=True):
        store = stores[name]
        own = ids.get(of) or _ids({"ids": store.get("_ID")})
        nodes[name] = Nodes(graph.num_nodes(of), own, None if "feat" not in store else as_features(store["feat"]))
    left_out = [f"{of}.{key}" for of, store in stores.items() for key in store if key not in ("feat", "_ID", *LABELS)]
    for edge_type in graph.canonical_etypes:
        source, target = graph.edges(etype=edge_type, order="eid")
        data = graph.edges[edge_type].data
        ends = [_named(name, node_type) for name in edge_type[::2]]
        made = (ends[0], relation if edge_type[1] == "_E" else edge_type[1], ends[1])
        weights = None if "weight" not in data else data["weight"].reshape(-1)
        counts = (nodes[ends[0]].count, nodes[ends[1]].count)
        edges[made] = make_edges(made, source.long(), target.long(), counts, weights, data.get("time"))
        left_out += [f"{'-'.join(made)}.{key}" for key in data if key not in ("weight", "time")]
    labelled = [] if labels else _labelled(stores, "label")
    _name_left_out([one for one in left_out if not one.endswith(".label")], labelled, "from_dgl")
    return nodes, edges


def _named(name: str, node_type: str) -> str:
    """``_N`` is the one type of a homogeneous graph."""
    return node_type if name == "_N" else name


def task_from_dgl(graph: Any, target: str | None = None, node_type: str = "node") -> NodeTask:
    """Labels and masks as a task, as :func:`task_from_pyg` reads them."""
    more: dict[str, dict[str, Any]] = getattr(graph, "node_tasks", {})
    stores = {_named(name, node_type): {**graph.nodes[name].data, **more.get(name, {})} for name in graph.ntypes}
    return _task(stores, target, "label")
