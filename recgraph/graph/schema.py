"""The parts of a typed graph: nodes and edges of one type, and what can be wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recgraph.config import did_you_mean, nearest_names
from recgraph.data.ids import IdMap
from recgraph.sparse.csr import Csr

#: (source type, relation, target type)
EdgeType = tuple[str, str, str]


@dataclass(frozen=True, eq=False)
class Nodes:
    """The nodes of one type.

    Attributes:
        count: how many, N.
        ids: index <-> the user's own id, or None where the index is the id.
        features: [N, F] dense, or sparse, or None.
    """

    count: int
    ids: IdMap | None = None
    features: Tensor | Csr | None = None

    def __post_init__(self) -> None:
        # a number of numpy cannot be written as JSON
        object.__setattr__(self, "count", int(self.count))


@dataclass(frozen=True, eq=False)
class Edges:
    """The edges of one type.

    Attributes:
        adj: [N_source, N_target], one entry an edge, so that repeated edges stay; weights as given, or None.
        times: [E], aligned with ``adj.indices``, or None.
    """

    adj: Csr
    times: Tensor | None = None


#: the nodes and the edges of a graph, by their types
GraphParts = tuple[dict[str, Nodes], dict[EdgeType, Edges]]


class GraphError(ValueError):
    """A typed graph that cannot be made as it is."""


class UnknownTypeError(GraphError):
    """A type of nodes or edges that the graph does not have."""


class LeftOutWarning(UserWarning):
    """Something of another library's graph that has no place in what was made of it."""


def check_type(what: str, name: object, there: Iterable[object]) -> None:
    """Refuse a type that is not among those of the graph.

    Raises:
        UnknownTypeError: names the nearest types.
    """
    names = list(there)
    if name in names:
        return
    meant = did_you_mean(nearest_names(str(name), map(str, names)))
    hint = f"; {meant}" if meant else "."
    raise UnknownTypeError(f"there is no {what} {name!r}{hint} The graph has {', '.join(map(str, names)) or 'none'}")


def check_ends(edge_type: object, counts: Mapping[str, object]) -> None:
    """Raise where an edge type is no triple of texts, or ends at a type that is not there."""
    if not (isinstance(edge_type, tuple) and len(edge_type) == 3 and all(isinstance(name, str) for name in edge_type)):
        raise UnknownTypeError(f"edge type {edge_type!r} must be (source type, relation, target type), three texts")
    check_type("node type", edge_type[0], counts)
    check_type("node type", edge_type[2], counts)


def check_indices(edge_type: EdgeType, ends: Mapping[str, tuple[Tensor, int]]) -> None:
    """Raise at the first edge that ends outside.

    Args:
        ends: node type and role (``"source 'paper'"``) -> the indices [E] in the order given, and the nodes there are.
    """
    lengths = {index.numel() for index, _ in ends.values()}
    if len(lengths) > 1:
        raise GraphError(f"edges {edge_type}: sources and targets have different lengths, {sorted(lengths)}")
    for role, (index, n) in ends.items():
        outside = (index < 0) | (index >= n)
        if bool(outside.any()):
            row = int(torch.nonzero(outside)[0])
            raise GraphError(
                f"edges {edge_type}, row {row} (from 0): {role} = {int(index[row])} is out of range [0, {n})"
            )


def check_edges(edge_type: EdgeType, edges: Edges, nodes: Mapping[str, Nodes]) -> None:
    """Types, shapes, weights and times of one edge type."""
    check_ends(edge_type, nodes)
    wanted = (nodes[edge_type[0]].count, nodes[edge_type[2]].count)
    if edges.adj.shape != wanted:
        raise GraphError(f"edges {edge_type}: the matrix has shape {edges.adj.shape}, the nodes need {wanted}")
    for name, values in (("weights", edges.adj.weights), ("times", edges.times)):
        if values is not None and values.shape != (edges.adj.nnz,):
            raise GraphError(f"edges {edge_type}: {values.numel()} {name} for {edges.adj.nnz} edges")
        if values is not None and not bool(torch.isfinite(values).all()):
            raise GraphError(f"edges {edge_type}: {name} must be finite; fill in those that are missing")


def check_nodes(node_type: str, nodes: Nodes) -> None:
    """Name, ids and features of one node type."""
    if not isinstance(node_type, str):
        raise UnknownTypeError(f"node type {node_type!r} must be a text")
    if nodes.ids is not None and len(nodes.ids) != nodes.count:
        raise GraphError(f"node type {node_type!r}: {len(nodes.ids)} ids for {nodes.count} nodes")
    features = nodes.features
    if features is None:
        return
    if len(features.shape) != 2 or features.shape[0] != nodes.count:
        raise GraphError(
            f"features of {node_type!r} have shape {tuple(features.shape)}; they must be [{nodes.count}, width]"
        )
    values = features.values() if isinstance(features, Csr) else features
    if not bool(torch.isfinite(values).all()):
        raise GraphError(f"features of {node_type!r} must be finite; fill in those that are missing")
