"""What a typed graph is made of: nodes and edges by type, and what is checked of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recgraph.config import did_you_mean
from recgraph.data.ids import IdMap
from recgraph.sparse.csr import Csr, as_floating, sort_entries
from recgraph.sparse.device import to_host

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

    @property
    def n_features(self) -> int | None:
        """F; None without features."""
        return None if self.features is None else int(self.features.shape[1])

    def take(self, order: Tensor) -> Nodes:
        """These nodes, [n] int64, with their ids and features."""
        ids, x = self.ids, self.features
        if ids is not None:
            ids = ids.take(array_of(order))
        if isinstance(x, Csr):
            x = x.take_rows(order)
        elif x is not None:
            x = x[order]
        return Nodes(len(order), ids, x)


@dataclass(frozen=True, eq=False)
class Edges:
    """The edges of one type.

    Attributes:
        adj: [N_source, N_target], one entry an edge, so that repeated edges stay; weights as given,
            or None.
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


def check_type(what: str, name: object, there: Collection[object]) -> None:
    """Refuse a type that is not among those of the graph: an UnknownTypeError that names the
    nearest types.
    """
    if name not in there:
        names = list(map(str, there))
        raise UnknownTypeError(
            f"there is no {what} {name!r}{did_you_mean(str(name), names)}; there are "
            f"{', '.join(names) or 'none'}"
        )


def check_parts(nodes: Mapping[str, Nodes], edges: Mapping[EdgeType, Edges]) -> None:
    """Types, shapes and finite values of a graph: a GraphError that names the first type that is
    wrong.
    """
    for name, part in nodes.items():
        n_ids = part.count if part.ids is None else len(part.ids)
        shape = (part.count, 0) if part.features is None else tuple(part.features.shape)
        if n_ids != part.count or shape[0] != part.count or len(shape) != 2:
            raise GraphError(
                f"node type {name!r} has {part.count} nodes, {n_ids} ids and features {shape}; give "
                "[N, F]"
            )
        _check_finite(f"features of {name!r}", part.features)
    for edge_type, held in edges.items():
        shape = _shape_of(edge_type, nodes)
        n_times = held.adj.nnz if held.times is None else held.times.numel()
        if held.adj.shape != shape or n_times != held.adj.nnz:
            raise GraphError(
                f"edges {edge_type}: a matrix {held.adj.shape} for nodes {shape}; {n_times} times of "
                f"{held.adj.nnz}"
            )
        _check_finite(f"weights of {edge_type}", held.adj)
        _check_finite(f"times of {edge_type}", held.times)


def _shape_of(edge_type: EdgeType, nodes: Mapping[str, Nodes]) -> tuple[int, int]:
    """The numbers of sources and of targets, whose types must be there."""
    source, _, target = edge_type
    check_type("node type", source, nodes)
    check_type("node type", target, nodes)
    return nodes[source].count, nodes[target].count


def _check_finite(argument: str, values: Tensor | Csr | None) -> None:
    if isinstance(values, Csr):
        values = values.weights
    if values is not None and not bool(torch.isfinite(values).all()):
        raise GraphError(f"{argument} must be finite; fill in those that are missing")


def make_edges(
    edge_type: EdgeType,
    source: Tensor,
    target: Tensor,
    nodes: Mapping[str, Nodes],
    weights: Any = None,
    times: Any = None,
) -> Edges:
    """Edges of one type from lists [E] of indices, weights and times in any order; times keep their
    type. Weights and times are whatever :func:`numbers` reads, or None.
    """
    shape = _shape_of(edge_type, nodes)
    if weights is not None:
        weights = numbers(weights)
    if times is not None:
        times = numbers(times)
    columns = [column for column in (source, target, weights, times) if column is not None]
    lengths = {tuple(column.shape) for column in columns}
    if len(lengths) > 1:
        raise GraphError(
            f"edges {edge_type}: sources, targets, weights and times have shapes {sorted(lengths)}; "
            "give [E]"
        )
    _check_range(edge_type, f"source {edge_type[0]!r}", source, shape[0])
    _check_range(edge_type, f"target {edge_type[2]!r}", target, shape[1])
    adj = Csr.from_coo(source, target, weights, shape=shape)
    if times is not None:
        times = times[sort_entries(source, target, shape[1])]
    return Edges(adj, times)


def _check_range(edge_type: EdgeType, end: str, index: Tensor, n: int) -> None:
    outside = torch.nonzero((index < 0) | (index >= n))
    if len(outside):
        row = int(outside[0])
        raise GraphError(
            f"edges {edge_type}, row {row} (from 0): {end} = {int(index[row])} is out of range [0, {n})"
        )


def as_features(values: Any) -> Tensor | Csr:
    """A dense tensor or a Csr from arrays, tensors, scipy matrices; integers become the default
    floating type.

    They are copied: what is written into an array or a tensor later is not in the graph, whose hash
    is computed once.
    """
    if isinstance(values, Csr):
        weights = None if values.weights is None else as_floating(values.weights.clone())
        return Csr(values.indptr.clone(), values.indices.clone(), weights, values.shape)
    if hasattr(values, "tocoo"):
        return Csr.from_scipy(values)
    if not isinstance(values, Tensor):
        return as_floating(torch.from_numpy(np.array(values, order="C")))
    if values.layout != torch.strided:
        coo = values.to_sparse().coalesce()
        rows, cols = coo.indices()
        return Csr.from_coo(rows, cols, coo.values(), shape=(coo.shape[0], coo.shape[1]))
    return as_floating(values.clone())


def numbers(values: Any) -> Tensor:
    """Weights, times or indices; dates become microseconds, as in frames."""
    if isinstance(values, Tensor):
        return values
    array = np.asarray(values)
    if array.dtype.kind == "M":
        array = array.astype("datetime64[us]").astype(np.int64)
    # torch takes no array that is read backwards, and warns of one that is not to be written to
    return torch.from_numpy(np.require(array, requirements=("C", "W")))


def array_of(values: Tensor) -> np.ndarray[Any, Any]:
    """A tensor's values on the host."""
    return np.asarray(to_host(values.detach()))


def tensor_bytes(values: Tensor | None) -> bytes:
    """Type, shape and values, little-endian; nothing is told apart from an empty tensor."""
    if values is None:
        return b"-"
    array = np.ascontiguousarray(array_of(values))
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return f"{array.dtype.str}{list(array.shape)}:".encode() + array.tobytes()
