"""The parts of a typed graph, what can be wrong with them, and how they are made of edge lists and scipy matrices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recgraph.config import did_you_mean, nearest_names
from recgraph.data.ids import IdMap
from recgraph.sparse.csr import Csr, as_floating, sort_entries

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


def make_edges(
    edge_type: EdgeType,
    source: Tensor,
    target: Tensor,
    counts: tuple[int, int],
    weights: Tensor | None = None,
    times: Tensor | None = None,
) -> Edges:
    """Edges of one type from lists in any order.

    Args:
        source, target: [E] indices.
        counts: nodes of the source and of the target type.
        weights: [E], or None; integers become the default floating type.
        times: [E], or None; keep their type.

    Raises:
        GraphError: an index is out of range (names the edge type, the row and the value); another number of weights.
    """
    ends = {f"source {edge_type[0]!r}": (source, counts[0]), f"target {edge_type[2]!r}": (target, counts[1])}
    check_indices(edge_type, ends)
    for name, values in (("weights", weights), ("times", times)):
        if values is not None and values.shape != source.shape:
            raise GraphError(f"edges {edge_type}: {name} have shape {tuple(values.shape)} for {source.numel()} edges")
    adj = Csr.from_coo(source, target, weights, shape=counts)
    return Edges(adj, None if times is None else times[sort_entries(source, target, counts[1])])


def from_edge_lists(
    counts: Mapping[str, int],
    edges: Mapping[EdgeType, Any],
    features: Mapping[str, Any],
    weights: Mapping[EdgeType, Any],
    times: Mapping[EdgeType, Any],
    ids: Mapping[str, IdMap],
) -> GraphParts:
    """From pairs of indices.

    Args:
        counts: node type -> number of nodes.
        edges: (source, relation, target) -> ``(sources, targets)``, or an [E, 2] array as files of pairs have it.
        features: node type -> [N, F] array, tensor, scipy matrix or Csr.
        weights, times: edge type -> [E].
        ids: node type -> its ids.

    Raises:
        GraphError: an edge out of range names edge type, row and value.
        UnknownTypeError: a type that is not there.
    """
    for edge_type in edges:
        check_ends(edge_type, counts)
    for name in (*features, *ids):
        check_type("node type", name, counts)
    for edge_type in (*weights, *times):
        check_type("edge type", edge_type, edges)
    nodes = {
        name: Nodes(n, ids.get(name), as_features(features[name]) if name in features else None)
        for name, n in counts.items()
    }
    made = {}
    for edge_type, pairs in edges.items():
        source, target = _pairs(edge_type, pairs)
        sizes = (nodes[edge_type[0]].count, nodes[edge_type[2]].count)
        given = (numbers(of.get(edge_type)) for of in (weights, times))
        made[edge_type] = make_edges(edge_type, source, target, sizes, *given)
    return nodes, made


def from_scipy(matrices: Mapping[EdgeType, Any], features: Mapping[str, Any]) -> GraphParts:
    """From scipy sparse matrices of sources and targets; values other than 1 become weights.

    Raises:
        GraphError: two matrices disagree about the number of nodes of a type.
    """
    counts: dict[str, int] = {}
    edges: dict[EdgeType, Edges] = {}
    for edge_type, matrix in matrices.items():
        adj = Csr.from_scipy(matrix)
        for name, n in zip((edge_type[0], edge_type[2]), matrix.shape, strict=True):
            if counts.setdefault(name, n) != n:
                raise GraphError(f"edges {edge_type}: the matrix has {n} nodes of {name!r}, one before {counts[name]}")
        edges[edge_type] = Edges(adj.with_weights(None) if bool((adj.values() == 1).all()) else adj)
    for name in features:
        check_type("node type", name, counts)
    nodes = {
        name: Nodes(n, features=as_features(features[name]) if name in features else None) for name, n in counts.items()
    }
    return nodes, edges


def as_features(values: Any) -> Tensor | Csr:
    """A dense tensor or a Csr from arrays, tensors, scipy matrices; integers become the default floating type.

    They are copied: what is written into an array or a tensor later is not in the graph, whose hash is computed once.
    """
    if isinstance(values, Csr):
        weights = None if values.weights is None else _own(values.weights)
        return Csr(values.indptr.clone(), values.indices.clone(), weights, values.shape)
    if hasattr(values, "tocoo"):
        return Csr.from_scipy(values)
    if not isinstance(values, Tensor):
        return as_floating(torch.from_numpy(np.array(np.asarray(values), order="C")))
    if values.layout != torch.strided:
        coo = values.to_sparse().coalesce()
        rows, cols = coo.indices()
        return Csr.from_coo(rows, cols, coo.values(), shape=(coo.shape[0], coo.shape[1]))
    return _own(values)


def _own(values: Tensor) -> Tensor:
    """Floating-point values in memory of their own."""
    made = as_floating(values)
    return made.clone() if made is values else made


def numbers(values: Any) -> Tensor | None:
    """Weights, times or indices; dates become microseconds, as :func:`recgraph.graph.frames.from_frames` has them."""
    if values is None or isinstance(values, Tensor):
        return values
    array = np.asarray(values)
    if array.dtype.kind == "M":
        array = array.astype("datetime64[us]").astype(np.int64)
    if array.size == 0:
        array = array.astype(np.int64)
    # torch takes no array that is read backwards, and warns of one that is not to be written to
    return torch.from_numpy(np.require(array, requirements=("C", "W")))


def _pairs(edge_type: EdgeType, pairs: Any) -> tuple[Tensor, Tensor]:
    if isinstance(pairs, tuple) and len(pairs) == 2:
        source, target = map(numbers, pairs)
    else:
        both = numbers(pairs)
        assert both is not None
        if both.numel() and (both.dim() != 2 or both.shape[1] != 2):
            raise GraphError(f"edges {edge_type} have shape {[*both.shape]}; give (sources, targets) or [E, 2]")
        source, target = both.reshape(-1, 2).unbind(1)
    assert source is not None
    assert target is not None
    for name, index in (("sources", source), ("targets", target)):
        if index.is_floating_point() or index.dim() != 1:
            raise GraphError(f"edges {edge_type}: the {name} must be integers [E], not {index.dtype} {[*index.shape]}")
    return source.to(torch.int64), target.to(torch.int64)
