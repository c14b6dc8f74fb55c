"""The parts of a typed graph: nodes and edges of one type, and what can be wrong with them."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recgraph.arguments import shown
from recgraph.config import did_you_mean, nearest_names
from recgraph.data.ids import IdMap
from recgraph.sparse.csr import Csr

__all__ = [
    "EdgeIndexError",
    "EdgeType",
    "Edges",
    "FeatureError",
    "GraphError",
    "GraphParts",
    "LeftOutWarning",
    "Nodes",
    "UnknownTypeError",
    "check_count",
    "check_edges",
    "check_ends",
    "check_indices",
    "check_node_type",
    "check_nodes",
    "check_triple",
    "check_type",
]

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
        object.__setattr__(self, "count", check_count("nodes", self.count))


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


class LeftOutWarning(UserWarning):
    """Something of another library's graph that has no place in what was made of it."""


class EdgeIndexError(GraphError):
    """An edge ends at a node that does not exist."""


class UnknownTypeError(GraphError):
    """A type of nodes or edges that the graph does not have."""


class FeatureError(GraphError):
    """Features whose rows do not match the nodes, or that are not all finite."""


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


def check_node_type(name: object) -> None:
    """Raise where a node type is no text."""
    if not isinstance(name, str):
        raise UnknownTypeError(f"node type {shown(name)} must be a text; name it {str(name)[:40]!r}")


def check_count(what: str, count: object) -> int:
    """A number of nodes as an integer of Python.

    Args:
        what: whose, for the message.

    Raises:
        GraphError: it is no integer, or negative.
    """
    try:
        number = operator.index(count)  # type: ignore[arg-type]
    except TypeError:
        raise GraphError(f"{what}: count = {shown(count)} must be an integer, such as 3") from None
    if number < 0:
        raise GraphError(f"{what}: count = {number} must not be negative; give 0 where there are none")
    return number


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
    check_ends(edge_type, nodes)
    source, _, target = edge_type
    wanted = (nodes[source].count, nodes[target].count)
    if edges.adj.shape != wanted:
        raise GraphError(f"edges {edge_type}: the matrix has shape {edges.adj.shape}, the nodes need {wanted}")
    if edges.times is not None and edges.times.shape != (edges.adj.nnz,):
        raise GraphError(f"edges {edge_type}: {edges.times.numel()} times for {edges.adj.nnz} edges")
    if edges.adj.weights is not None:
        _check_type(f"edges {edge_type}: the weights", edges.adj.weights, GraphError)
    for name, values in (("weight", edges.adj.weights), ("time", edges.times)):
        if values is not None and not bool(torch.isfinite(values).all()):
            entry = int(torch.nonzero(~torch.isfinite(values))[0])
            place = f"{int(edges.adj.rows[entry])} -> {int(edges.adj.indices[entry])}"
            raise GraphError(
                f"edges {edge_type}: the {name} of {place} is {float(values[entry])}; {name}s must be finite, so fill "
                "in those that are missing or drop their edges"
            )


def check_nodes(node_type: str, nodes: Nodes) -> None:
    """Name, ids and features of one node type."""
    check_node_type(node_type)
    if not (nodes.ids is None or isinstance(nodes.ids, IdMap)):
        raise GraphError(
            f"node type {node_type!r}: ids are a {type(nodes.ids).__name__}; give an IdMap, or frames with ids to "
            "HeteroGraph.from_frames"
        )
    if nodes.ids is not None and len(nodes.ids) != nodes.count:
        raise GraphError(f"node type {node_type!r}: {len(nodes.ids)} ids for {nodes.count} nodes")
    features = nodes.features
    if features is None:
        return
    values = features.values() if isinstance(features, Csr) else features
    _check_type(f"features of {node_type!r}", values, FeatureError)
    if len(features.shape) != 2 or features.shape[0] != nodes.count:
        raise FeatureError(
            f"features of {node_type!r} have shape {tuple(features.shape)}; {nodes.count} nodes need "
            f"({nodes.count}, width)"
        )
    wrong_mask = ~torch.isfinite(values)
    if bool(wrong_mask.any()):
        at = torch.nonzero(wrong_mask)[0]
        row = int(features.rows[at[0]]) if isinstance(features, Csr) else int(at[0])
        value = float(values[tuple(at)])
        raise FeatureError(
            f"features of {node_type!r}: row {row} (from 0) holds {'NaN' if math.isnan(value) else value} "
            f"({int(wrong_mask.sum())} values in all are not finite); fill or drop them"
        )


def _check_type(what: str, values: Tensor, error: type[GraphError]) -> None:
    """Models compute with floating-point numbers, and NumPy, which files and hashes are made by, has no bfloat16."""
    if not values.is_floating_point() or values.dtype == torch.bfloat16:
        raise error(f"{what} are {str(values.dtype).removeprefix('torch.')}; make them float32 (.float())")


def check_ends(edge_type: EdgeType, counts: Mapping[str, object]) -> None:
    """Raise where an edge type is no triple, or ends at a type that is not there."""
    check_triple(edge_type)
    check_type("node type", edge_type[0], counts)
    check_type("node type", edge_type[2], counts)


def check_triple(edge_type: object) -> None:
    """Raise where an edge type is no triple of texts."""
    if not (isinstance(edge_type, tuple) and len(edge_type) == 3 and all(isinstance(name, str) for name in edge_type)):
        raise UnknownTypeError(f"edge type {edge_type!r} must be (source type, relation, target type), three texts")
