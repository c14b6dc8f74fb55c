"""What can be wrong with a typed graph, each with its own class and a message that says where."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recgraph.sparse.csr import Csr

if TYPE_CHECKING:
    from recgraph.data.hetero.graph import Edges, EdgeType, HeteroGraph, Nodes

__all__ = [
    "EdgeIndexError",
    "FeatureError",
    "GraphError",
    "IsolatedNodesWarning",
    "UnknownTypeError",
    "check_edges",
    "check_indices",
    "check_nodes",
    "known",
    "warn_isolated",
]


class GraphError(ValueError):
    """A typed graph that cannot be made as it is."""


class EdgeIndexError(GraphError):
    """An edge ends at a node that does not exist."""


class UnknownTypeError(GraphError):
    """A type of nodes or edges that the graph does not have."""


class FeatureError(GraphError):
    """Features whose rows do not match the nodes, or that hold NaN."""


class IsolatedNodesWarning(UserWarning):
    """Nodes of the target type without any edge."""


def known(what: str, name: object, there: Iterable[object]) -> None:
    """Raise where a type is not among those that are there, with the nearest."""
    names = list(there)
    if name in names:
        return
    close = difflib.get_close_matches(str(name), [str(other) for other in names], n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else "."
    raise UnknownTypeError(f"there is no {what} {name!r}{hint} The graph has {', '.join(map(str, names)) or 'none'}")


def check_indices(edge_type: EdgeType, ends: Mapping[str, tuple[Tensor, int]]) -> None:
    """Raise at the first edge that ends outside.

    Args:
        ends: node type and role (``"source 'paper'"``) -> the indices [E] in the order given, and the nodes there are.
    """
    lengths = {index.numel() for index, _ in ends.values()}
    if len(lengths) > 1:
        raise EdgeIndexError(f"edges {edge_type}: sources and targets have different lengths, {sorted(lengths)}")
    for role, (index, n) in ends.items():
        outside = (index < 0) | (index >= n)
        if bool(outside.any()):
            row = int(torch.nonzero(outside)[0])
            value = int(index[row])
            raise EdgeIndexError(
                f"edges {edge_type}, row {row} (from 0): {role} = {value} is out of range; there are {n} such nodes, "
                f"so it must lie in [0, {n}) ({int(outside.sum())} such edges)"
            )


def check_edges(edge_type: EdgeType, edges: Edges, nodes: Mapping[str, Nodes]) -> None:
    """Types, shapes, weights and times of one edge type."""
    source, _, target = edge_type
    for end in (source, target):
        if end not in nodes:
            known("node type", end, nodes)
    wanted = (nodes[source].count, nodes[target].count)
    if edges.adj.shape != wanted:
        raise GraphError(f"edges {edge_type}: the matrix has shape {edges.adj.shape}, the nodes need {wanted}")
    if edges.times is not None and edges.times.shape != (edges.adj.nnz,):
        raise GraphError(f"edges {edge_type}: {edges.times.numel()} times for {edges.adj.nnz} edges")
    weights = edges.adj.weights
    if weights is not None and not bool(torch.isfinite(weights).all()):
        entry = int(torch.nonzero(~torch.isfinite(weights))[0])
        place = f"{int(edges.adj.rows[entry])} -> {int(edges.adj.indices[entry])}"
        raise GraphError(f"edges {edge_type}: the weight of {place} is {float(weights[entry])}; weights must be finite")


def check_nodes(node_type: str, nodes: Nodes) -> None:
    """Ids and features of one node type."""
    if nodes.count < 0:
        raise GraphError(f"node type {node_type!r}: count = {nodes.count} must not be negative")
    if nodes.ids is not None and len(nodes.ids) != nodes.count:
        raise GraphError(f"node type {node_type!r}: {len(nodes.ids)} ids for {nodes.count} nodes")
    features = nodes.features
    if features is None:
        return
    if len(features.shape) != 2 or features.shape[0] != nodes.count:
        raise FeatureError(
            f"features of {node_type!r} have shape {tuple(features.shape)}; {nodes.count} nodes need "
            f"({nodes.count}, width)"
        )
    values = features.values() if isinstance(features, Csr) else features
    nan_mask = torch.isnan(values)
    if bool(nan_mask.any()):
        at = torch.nonzero(nan_mask)[0]
        row = int(features.rows[at[0]]) if isinstance(features, Csr) else int(at[0])
        raise FeatureError(
            f"features of {node_type!r}: row {row} (from 0) holds NaN ({int(nan_mask.sum())} values in all); "
            "fill or drop them"
        )


def warn_isolated(graph: HeteroGraph, target: str) -> int:
    """Warn with the number of target nodes that no edge touches, and return it."""
    touched = torch.zeros(graph.count(target), dtype=torch.bool, device=graph.device)
    for (source, _, end), edges in graph.edges.items():
        if source == target:
            touched |= edges.adj.degrees > 0
        if end == target:
            touched[edges.adj.indices] = True
    n = int((~touched).sum())
    if n:
        warnings.warn(
            f"{n} of {touched.numel()} nodes of the target type {target!r} have no edge: only their features describe "
            "them",
            IsolatedNodesWarning,
            stacklevel=3,
        )
    return n
