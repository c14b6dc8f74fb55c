"""Typed graphs as those of PyTorch Geometric and of DGL, and back, without loss.

In a ``torch_geometric.data.HeteroData`` features are ``data[node_type].x`` (a sparse CSR tensor where they are sparse),
ids ``.ids``, edges ``.edge_index`` with ``.edge_weight`` and ``.time``. In a DGL heterograph features are
``graph.nodes[type].data["feat"]``, weights and times ``graph.edges[type].data["weight"]`` and ``["time"]``; DGL has no
place for ids, so they are the attribute ``graph.node_ids``, which DGL does not carry over to graphs made from this one.
Repeated edges stay: PyG's own converters merge them, and its ``from_dgl`` is wrong for several types.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from recgraph.data.ids import IdMap
from recgraph.graph.build import as_features, make_edges
from recgraph.graph.schema import Edges, EdgeType, GraphError, GraphParts, Nodes
from recgraph.sparse.backends.dgl import load as load_dgl
from recgraph.sparse.csr import Csr, csr_tensor

__all__ = ["from_dgl", "from_pyg", "to_dgl", "to_pyg"]


def to_pyg(nodes: Mapping[str, Nodes], edges: Mapping[EdgeType, Edges]) -> Any:
    """A ``HeteroData`` that shares the tensors of a graph."""
    from torch_geometric.data import HeteroData

    data = HeteroData()
    for name, own in nodes.items():
        data[name].num_nodes = own.count
        if own.ids is not None:
            data[name].ids = own.ids
        if own.features is not None:
            data[name].x = csr_tensor(own.features) if isinstance(own.features, Csr) else own.features
    for edge_type, lists in edges.items():
        store = data[edge_type]
        store.edge_index = torch.stack([lists.adj.rows, lists.adj.indices])
        if lists.adj.weights is not None:
            store.edge_weight = lists.adj.weights
        if lists.times is not None:
            store.time = lists.times
    return data


def from_pyg(data: Any) -> GraphParts:
    """A graph of what :func:`to_pyg` writes; an ``edge_attr`` of one column stands for ``edge_weight``.

    Labels, masks and other attributes are no part of a typed graph and are left out.

    Raises:
        GraphError: edge attributes of several columns, or edges held otherwise than by ``edge_index``.
    """
    nodes = {}
    for name in data.node_types:
        store = data[name]
        features = None if store.get("x") is None else as_features(store["x"])
        nodes[name] = Nodes(int(store.num_nodes), store.get("ids"), features)
    edges = {}
    for edge_type in data.edge_types:
        store = data[edge_type]
        if store.get("edge_index") is None:
            raise GraphError(f"edges {edge_type} have no edge_index")
        source, target = store["edge_index"]
        counts = (nodes[edge_type[0]].count, nodes[edge_type[2]].count)
        weights = _weights(edge_type, store.get("edge_weight"), store.get("edge_attr"))
        edges[edge_type] = make_edges(edge_type, source, target, counts, weights, store.get("time"))
    return nodes, edges


def _weights(edge_type: tuple[str, str, str], weights: Tensor | None, attributes: Tensor | None) -> Tensor | None:
    if weights is not None or attributes is None:
        return weights
    if attributes.dim() == 2 and attributes.shape[1] != 1:
        raise GraphError(
            f"edges {edge_type}: edge_attr has shape {tuple(attributes.shape)}; edges have one weight each, so give "
            "edge_weight or drop edge_attr"
        )
    return attributes.reshape(-1)


def to_dgl(nodes: Mapping[str, Nodes], edges: Mapping[EdgeType, Edges], device: torch.device) -> Any:
    """A heterograph that shares the tensors of a graph.

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
    return made


def from_dgl(graph: Any) -> GraphParts:
    """A graph of what :func:`to_dgl` writes, or of a heterograph whose data has these names."""
    ids: dict[str, IdMap] = getattr(graph, "node_ids", {})
    nodes = {}
    for name in graph.ntypes:
        features = graph.nodes[name].data.get("feat")
        nodes[name] = Nodes(graph.num_nodes(name), ids.get(name), None if features is None else as_features(features))
    edges = {}
    for edge_type in graph.canonical_etypes:
        source, target = graph.edges(etype=edge_type, order="eid")
        data = graph.edges[edge_type].data
        counts = (graph.num_nodes(edge_type[0]), graph.num_nodes(edge_type[2]))
        weights = data.get("weight")
        edges[edge_type] = make_edges(
            edge_type,
            source.long(),
            target.long(),
            counts,
            None if weights is None else weights.reshape(-1),
            data.get("time"),
        )
    return nodes, edges
