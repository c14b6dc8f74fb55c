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
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recgraph.arguments import shown
from recgraph.data.ids import IdMap
from recgraph.graph.build import make_edges, named_features, numbers
from recgraph.graph.node_task import LABELS, NodeTask
from recgraph.graph.schema import Edges, EdgeType, GraphError, GraphParts, LeftOutWarning, Nodes, check_count
from recgraph.sparse.backends.dgl import load as load_dgl
from recgraph.sparse.csr import Csr, csr_tensor

__all__ = ["from_dgl", "from_pyg", "task_from_dgl", "task_from_pyg", "to_dgl", "to_pyg"]

#: names under which ids of nodes are found, the first one that is there
_IDS = ("ids", "node_id", "n_id")
_OF_NODES = frozenset({"x", "num_nodes", *_IDS})
_OF_EDGES = frozenset({"edge_index", "edge_weight", "edge_attr", "time"})


def to_pyg(
    nodes: Mapping[str, Nodes], edges: Mapping[EdgeType, Edges], task: NodeTask | None = None, homogeneous: bool = False
) -> Any:
    """A ``HeteroData`` that shares the tensors of a graph.

    Args:
        task: whose labels and masks are written to the nodes of its target.
        homogeneous: a ``Data`` instead, of a graph with one type of nodes and one of edges.

    Raises:
        GraphError: the task is of other nodes, or the graph has several types.
    """
    from torch_geometric.data import Data, HeteroData

    if homogeneous and (len(nodes), len(edges)) != (1, 1):
        raise GraphError(
            f"a Data holds one type of nodes and one of edges; the graph has {', '.join(nodes)} and "
            f"{', '.join(map(str, edges))}: leave homogeneous=True out"
        )
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
        _check_task(task, nodes)
        store = data if homogeneous else data[task.target]
        for name, values in task.to_columns("y").items():
            store[name] = values
    return data


def _check_task(task: NodeTask, nodes: Mapping[str, Nodes]) -> None:
    count = nodes[task.target].count if task.target in nodes else 0
    if count != len(task.labels):
        raise GraphError(
            f"the task has labels of {len(task.labels)} {task.target!r} nodes, but the graph has {count} of them"
        )


def from_pyg(data: Any, node_type: str = "node", relation: str = "to", *, labels: bool = False) -> GraphParts:
    """A graph of what :func:`to_pyg` writes; an ``edge_attr`` of one column stands for ``edge_weight``.

    A type of nodes without features or ``num_nodes`` has as many nodes as its edges name.

    Args:
        data: a ``HeteroData``, or a homogeneous ``Data``.
        node_type, relation: names of the one type of nodes and of edges of a ``Data``.
        labels: whether the caller reads labels and masks itself, so that no warning names them.

    Raises:
        GraphError: edge attributes of several columns, edges held otherwise than by ``edge_index``, or ids that are not
            one a node.
    """
    node_stores, edge_stores = _stores(data, node_type, relation)
    names = dict.fromkeys([*node_stores, *(end for source, _, target in edge_stores for end in (source, target))])
    index = {edge_type: _edge_index(edge_type, store) for edge_type, store in edge_stores.items()}
    nodes = {}
    for name in names:
        store = node_stores.get(name, {})
        features = None if store.get("x") is None else named_features(name, store["x"])
        ids = _ids(name, store)
        count = _count(name, store, features, ids, index)
        nodes[name] = Nodes(count, ids, features)
    edges = {}
    for edge_type, store in edge_stores.items():
        source, target = index[edge_type]
        counts = (nodes[edge_type[0]].count, nodes[edge_type[2]].count)
        of_edges = (numbers(edge_type, name, store.get(name)) for name in ("edge_weight", "edge_attr"))
        times = numbers(edge_type, "times", store.get("time"))
        edges[edge_type] = make_edges(edge_type, source, target, counts, _weights(edge_type, *of_edges), times)
    _name_left_out(_left_out(data, node_stores, edge_stores), _labelled(node_stores, "y"), labels, "from_pyg")
    return nodes, edges


def _is_homogeneous(data: Any) -> bool:
    return not hasattr(data, "node_types")


def _stores(data: Any, node_type: str, relation: str) -> tuple[dict[str, Any], dict[EdgeType, Any]]:
    """The attributes of each type of nodes and of edges, as mappings."""
    if isinstance(data, Mapping) or not hasattr(data, "to_dict"):
        raise GraphError(f"data = {shown(data)} must be a HeteroData or a Data of PyTorch Geometric")
    if _is_homogeneous(data):
        one = data.to_dict()
        return {node_type: one}, {(node_type, relation, node_type): one}
    return (
        {name: data[name].to_dict() for name in data.node_types},
        {edge_type: data[edge_type].to_dict() for edge_type in data.edge_types},
    )


def _edge_index(edge_type: EdgeType, store: Mapping[str, Any]) -> Tensor:
    found = store.get("edge_index")
    if found is None:
        other = "; turn adj_t into edge_index first" if "adj_t" in store else ""
        raise GraphError(f"edges {edge_type} have no edge_index{other}")
    index = torch.as_tensor(found)
    if index.dim() != 2 or index.shape[0] != 2 or index.is_floating_point():
        raise GraphError(
            f"edges {edge_type}: edge_index must be integers [2, E], not {index.dtype} {list(index.shape)}"
        )
    return index.to(torch.int64)


def _count(
    name: str,
    store: Mapping[str, Any],
    features: Tensor | Csr | None,
    ids: IdMap | None,
    index: Mapping[EdgeType, Tensor],
) -> int:
    """How many nodes of a type there are: as given, as many as it has of anything, or as its edges name."""
    if store.get("num_nodes") is not None:
        if (found := int(store["num_nodes"])) != store["num_nodes"]:
            raise GraphError(f"node type {name!r}: num_nodes = {store['num_nodes']} must be a whole number")
        return check_count(f"node type {name!r}", found)
    if features is not None:
        return int(features.shape[0])
    if ids is not None:
        return len(ids)
    for column in ("y", *LABELS[:3]):
        if store.get(column) is not None:
            return len(store[column])
    ends = [part[0] for (source, _, _), part in index.items() if source == name]
    ends += [part[1] for (_, _, target), part in index.items() if target == name]
    return max((int(end.max()) + 1 for end in ends if end.numel()), default=0)


def _ids(name: str, store: Mapping[str, Any]) -> IdMap | None:
    values = next((store[key] for key in _IDS if store.get(key) is not None), None)
    if values is None or isinstance(values, IdMap):
        return values
    ids = pl.Series(values.numpy(force=True) if isinstance(values, Tensor) else np.asarray(values))
    if ids.dtype == pl.Object or isinstance(ids.dtype, pl.List | pl.Array):
        raise GraphError(f"ids of {name!r} must be one a node: integers or texts, not {ids.dtype}")
    if ids.null_count():
        raise GraphError(
            f"ids of {name!r}: node {ids.is_null().arg_max()} has none; give each node an id, or none at all"
        )
    if ids.is_duplicated().any():
        raise GraphError(f"node type {name!r}: id {ids.filter(ids.is_duplicated())[0]!r} occurs several times")
    return IdMap(ids)


def _weights(edge_type: EdgeType, weights: Tensor | None, attributes: Tensor | None) -> Tensor | None:
    if attributes is None or weights is not None:
        return weights
    if attributes.dim() == 2 and attributes.shape[1] != 1:
        raise GraphError(
            f"edges {edge_type}: edge_attr has shape {tuple(attributes.shape)}; edges have one weight each, so give "
            "edge_weight or drop edge_attr"
        )
    return attributes.reshape(-1)


def _left_out(data: Any, nodes: Mapping[str, Any], edges: Mapping[EdgeType, Any]) -> Iterator[str]:
    """The attributes that a graph has no place for, as texts."""
    of_labels = {"y", *LABELS}
    if _is_homogeneous(data):
        (one,) = nodes.values()
        yield from _unread("", one, _OF_NODES | _OF_EDGES | of_labels)
        return
    for name, store in nodes.items():
        yield from _unread(f"{name}.", store, _OF_NODES | of_labels)
    for edge_type, store in edges.items():
        yield from _unread(f"{'-'.join(edge_type)}.", store, _OF_EDGES)
    yield from _unread("", data.stores[0].to_dict(), frozenset())


def _unread(prefix: str, store: Mapping[str, Any], known: Iterable[str]) -> Iterator[str]:
    doubled = ("edge_attr",) if store.get("edge_weight") is not None and store.get("edge_attr") is not None else ()
    ids = [key for key in _IDS if store.get(key) is not None][1:]
    for key, value in store.items():
        if value is not None and (key not in known or key in doubled or key in ids):
            yield f"{prefix}{key}"


def _labelled(stores: Mapping[str, Mapping[str, Any]], label: str) -> list[str]:
    """The types of nodes with labels or masks."""
    columns = (label, *LABELS[:3])
    return [name for name, store in stores.items() if any(store.get(column) is not None for column in columns)]


def _name_left_out(attributes: Iterable[str], labelled: list[str], reads_labels: bool, call: str) -> None:
    texts = [f"a graph has no place for {', '.join(found)}"] if (found := [*attributes]) else []
    if labelled and not reads_labels:
        texts.append(
            f"labels and masks of {', '.join(map(repr, labelled))} are no part of a graph that models are trained on: "
            f"{call}_with_task reads them, too, as a NodeTask"
        )
    if texts:
        warnings.warn("; ".join(texts), LeftOutWarning, stacklevel=4)


def task_from_pyg(data: Any, target: str | None = None, node_type: str = "node") -> NodeTask:
    """Labels and masks as a task; see :meth:`NodeTask.from_columns`.

    Args:
        target: the type of nodes, where several have labels.
        node_type: the name of the one type of nodes of a ``Data``.

    Raises:
        GraphError: there are no labels, several types have them, or they are no classes.
    """
    stores, _ = _stores(data, node_type, "")
    return _task(stores, target, "y")


def _task(stores: Mapping[str, Mapping[str, Any]], target: str | None, label: str) -> NodeTask:
    labelled = [name for name, store in stores.items() if store.get(label) is not None]
    chosen = [name for name in labelled if target in (None, name)]
    if len(chosen) != 1:
        what = f"no nodes {'' if target is None else f'of {target!r} '}have" if not chosen else "several types have"
        give = f"; give target, one of {', '.join(labelled)}" if labelled else ""
        raise GraphError(f"{what} labels ({label}){give}")
    return NodeTask.from_columns(chosen[0], stores[chosen[0]], label)


def to_dgl(
    nodes: Mapping[str, Nodes], edges: Mapping[EdgeType, Edges], device: torch.device, task: NodeTask | None = None
) -> Any:
    """A heterograph that shares the tensors of a graph.

    Args:
        task: whose labels and masks are written to the nodes of its target.

    Raises:
        ImportError: DGL is not there or does not run here.
        GraphError: the task is of other nodes.
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
        _check_task(task, nodes)
        columns = task.to_columns("label")
        made.node_tasks = {task.target: {name: columns.pop(name) for name in LABELS[3:] if name in columns}}
        for name, values in columns.items():
            made.nodes[task.target].data[name] = values.to(device)
    return made


#: names that DGL gives to the one type of nodes and of edges of a homogeneous graph
_DGL_NODES, _DGL_EDGES = "_N", "_E"


def from_dgl(graph: Any, node_type: str = "node", relation: str = "to", *, labels: bool = False) -> GraphParts:
    """A graph of what :func:`to_dgl` writes, or of a heterograph whose data has these names.

    Args:
        node_type, relation: names of the one type of nodes and of edges of a homogeneous graph.
        labels: whether the caller reads labels and masks itself, so that no warning names them.
    """
    if not hasattr(graph, "canonical_etypes"):
        raise GraphError(f"graph = {shown(graph)} must be a graph of DGL")
    ids: dict[str, IdMap] = getattr(graph, "node_ids", {})
    stores = {name: dict(graph.nodes[name].data) for name in graph.ntypes}
    nodes, edges, left_out = {}, {}, []
    for name, store in stores.items():
        features = store.get("feat")
        own = ids.get(name)
        if own is None and "_ID" in store:
            own = _numbered(_named(name, node_type), store["_ID"])
        made = None if features is None else named_features(_named(name, node_type), features)
        nodes[_named(name, node_type)] = Nodes(graph.num_nodes(name), own, made)
        known = {"feat", "_ID", "label", *LABELS}
        left_out += [f"{_named(name, node_type)}.{key}" for key in store if key not in known]
    for edge_type in graph.canonical_etypes:
        source, target = graph.edges(etype=edge_type, order="eid")
        data = graph.edges[edge_type].data
        counts = (graph.num_nodes(edge_type[0]), graph.num_nodes(edge_type[2]))
        weights = data.get("weight")
        name = (
            _named(edge_type[0], node_type),
            relation if edge_type[1] == _DGL_EDGES else edge_type[1],
            _named(edge_type[2], node_type),
        )
        edges[name] = make_edges(
            name,
            source.long(),
            target.long(),
            counts,
            None if weights is None else weights.reshape(-1),
            data.get("time"),
        )
        left_out += [f"{'-'.join(name)}.{key}" for key in data if key not in ("weight", "time")]
    labelled = [_named(name, node_type) for name in _labelled(stores, "label")]
    _name_left_out(left_out, labelled, labels, "from_dgl")
    return nodes, edges


def _numbered(name: str, numbers: Tensor) -> IdMap | None:
    """The numbers that nodes have in the graph of which DGL has made this one, as ids."""
    try:
        return _ids(name, {"ids": numbers})
    except GraphError as error:
        raise GraphError(
            f"{error}. They are graph.ndata['_ID'], in which dgl.to_homogeneous numbers each type from 0 on: give the "
            "heterograph itself, which keeps its types, or delete '_ID' first (del graph.ndata['_ID'])"
        ) from None


def _named(name: str, node_type: str) -> str:
    return node_type if name == _DGL_NODES else name


def task_from_dgl(graph: Any, target: str | None = None, node_type: str = "node") -> NodeTask:
    """Labels and masks as a task, as :func:`task_from_pyg` reads them."""
    more: dict[str, dict[str, Any]] = getattr(graph, "node_tasks", {})
    stores = {_named(name, node_type): {**graph.nodes[name].data, **more.get(name, {})} for name in graph.ntypes}
    return _task(stores, target, "label")
