"""What a typed graph is made of: nodes and edges by type, and what is checked of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def check_type(what: str, name: object, there: Iterable[object]) -> None:
    """Refuse a type that is not among those of the graph: an UnknownTypeError that names the
    nearest types.
    """
    names = list(there)
    if name not in names:
        meant = did_you_mean(str(name), map(str, names))
        raise UnknownTypeError(
            f"there is no {what} {name!r}{meant}; there are {', '.join(map(str, names)) or 'none'}"
        )


def check_parts(nodes: Mapping[str, Nodes], edges: Mapping[EdgeType, Edges]) -> None:
    """Types, shapes and finite values of a graph: a GraphError that names the first type that is
    wrong.
    """
    for name, own in nodes.items():
        x = own.features
        shape = (own.count, None) if x is None else (x.shape[0], *x.shape[1:])
        if (
            shape[0] != own.count
            or len(shape) != 2
            or (own.ids is not None and len(own.ids) != own.count)
        ):
            n_ids = own.count if own.ids is None else len(own.ids)
            raise GraphError(
                f"node type {name!r} has {own.count} nodes, {n_ids} ids and features {shape}; give [N, F]"
            )
        _check_finite(f"features of {name!r}", x.values() if isinstance(x, Csr) else x)
    for edge_type, held in edges.items():
        for end in edge_type[::2]:
            check_type("node type", end, nodes)
        wanted = (nodes[edge_type[0]].count, nodes[edge_type[2]].count)
        n_times = held.adj.nnz if held.times is None else held.times.numel()
        if held.adj.shape != wanted or n_times != held.adj.nnz:
            raise GraphError(
                f"edges {edge_type}: a matrix {held.adj.shape} for nodes {wanted}; {n_times} times of {held.adj.nnz}"
            )
        _check_finite(f"weights of {edge_type}", held.adj.weights)
        _check_finite(f"times of {edge_type}", held.times)


def _check_finite(what: str, values: Tensor | None) -> None:
    if values is not None and not bool(torch.isfinite(values).all()):
        raise GraphError(f"{what} must be finite; fill in those that are missing")


def make_edges(
    edge_type: EdgeType,
    source: Tensor,
    target: Tensor,
    nodes: Mapping[str, Nodes],
    weights: Tensor | None = None,
    times: Tensor | None = None,
) -> Edges:
    """Edges of one type from lists [E] of indices, weights and times in any order; times keep their
    type.
    """
    for end in edge_type[::2]:
        check_type("node type", end, nodes)
    shapes = {tuple(part.shape) for part in (source, target, weights, times) if part is not None}
    if len(shapes) > 1:
        raise GraphError(
            f"edges {edge_type}: sources, targets, weights and times have shapes {sorted(shapes)}; give [E]"
        )
    shape = (nodes[edge_type[0]].count, nodes[edge_type[2]].count)
    for role, name, index, n in zip(
        ("source", "target"), edge_type[::2], (source, target), shape, strict=True
    ):
        outside = (index < 0) | (index >= n)
        if bool(outside.any()):
            row = int(torch.nonzero(outside)[0])
            found = f"{role} {name!r} = {int(index[row])}"
            raise GraphError(
                f"edges {edge_type}, row {row} (from 0): {found} is out of range [0, {n})"
            )
    adj = Csr.from_coo(source, target, weights, shape=shape)
    return Edges(adj, None if times is None else times[sort_entries(source, target, shape[1])])


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
