"""``HeteroGraph`` <-> a DGL heterograph, without loss.

Features are ``graph.nodes[type].data["feat"]`` (a sparse CSR tensor where they are sparse), weights and times
``graph.edges[type].data["weight"]`` and ``["time"]``; DGL has no place for ids, so that they are the attribute
``graph.node_ids`` (which DGL does not carry over to graphs made from this one).
"""

from __future__ import annotations

from typing import Any

from recgraph.data.hetero.build import as_features, make_edges
from recgraph.data.hetero.graph import HeteroGraph, Nodes
from recgraph.data.ids import IdMap
from recgraph.sparse.backends.dgl import load
from recgraph.sparse.csr import Csr
from recgraph.sparse.torch_csr import csr_tensor

__all__ = ["from_dgl", "to_dgl"]


def to_dgl(graph: HeteroGraph) -> Any:
    """A heterograph that shares the tensors of the graph.

    Raises:
        ImportError: DGL is not there or does not run here.
    """
    dgl = load()
    pairs = {edge_type: (edges.adj.rows, edges.adj.indices) for edge_type, edges in graph.edges.items()}
    counts = {name: nodes.count for name, nodes in graph.nodes.items()}
    made = dgl.heterograph(pairs, num_nodes_dict=counts, device=graph.device)
    for name, nodes in graph.nodes.items():
        if nodes.features is not None:
            features = nodes.features
            made.nodes[name].data["feat"] = csr_tensor(features) if isinstance(features, Csr) else features
    for edge_type, edges in graph.edges.items():
        if edges.adj.weights is not None:
            made.edges[edge_type].data["weight"] = edges.adj.weights
        if edges.times is not None:
            made.edges[edge_type].data["time"] = edges.times
    made.node_ids = {name: nodes.ids for name, nodes in graph.nodes.items() if nodes.ids is not None}
    return made


def from_dgl(graph: Any) -> HeteroGraph:
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
    return HeteroGraph(nodes, edges)
