"""Typed graphs from indices: edge lists and scipy matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recgraph.arguments import shown
from recgraph.data.ids import IdMap
from recgraph.graph.schema import (
    EdgeIndexError,
    Edges,
    EdgeType,
    FeatureError,
    GraphError,
    GraphParts,
    Nodes,
    check_count,
    check_ends,
    check_indices,
    check_node_type,
    check_triple,
    check_type,
)
from recgraph.sparse.csr import Csr, as_floating, sort_entries

__all__ = ["as_features", "from_edge_lists", "from_scipy", "make_edges", "named_features", "numbers"]


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
        EdgeIndexError: an index is out of range; names the edge type, the row and the value.
        GraphError: weights or times of another length, or complex ones.
    """
    ends = {f"source {edge_type[0]!r}": (source, counts[0]), f"target {edge_type[2]!r}": (target, counts[1])}
    check_indices(edge_type, ends)
    for name, values in (("weights", weights), ("times", times)):
        if values is not None and values.shape != source.shape:
            raise GraphError(f"edges {edge_type}: {name} have shape {tuple(values.shape)} for {source.numel()} edges")
        if values is not None and values.is_complex():
            raise GraphError(f"edges {edge_type}: {name} are complex; give real ones, such as their absolute values")
    adj = Csr.from_coo(source, target, weights, shape=counts)
    if times is not None and times.dtype == torch.bool:  # which a file of numbers does not hold
        times = times.to(torch.int64)
    order = sort_entries(source, target, counts[1]) if times is not None else None
    return Edges(adj, None if times is None or order is None else times[order])


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
        GraphError: an edge out of range names edge type, row and value; a count, indices, weights or times that are
            none name their type.
        UnknownTypeError: a type that is not there, or is no text (of edges: no triple of texts).
    """
    for name, n in counts.items():
        check_node_type(name)
        check_count(f"node type {name!r}", n)
    for edge_type in edges:
        check_ends(edge_type, counts)
    for name in (*features, *ids):
        check_type("node type", name, counts)
    for edge_type in (*weights, *times):
        check_type("edge type", edge_type, edges)
    nodes = {
        name: Nodes(n, ids.get(name), None if name not in features else named_features(name, features[name]))
        for name, n in counts.items()
    }
    made = {}
    for edge_type, pairs in edges.items():
        source, target = _pairs(edge_type, pairs)
        sizes = (nodes[edge_type[0]].count, nodes[edge_type[2]].count)
        w = numbers(edge_type, "weights", weights.get(edge_type))
        t = numbers(edge_type, "times", times.get(edge_type))
        made[edge_type] = make_edges(edge_type, source, target, sizes, w, t)
    return nodes, made


def from_scipy(matrices: Mapping[EdgeType, Any], features: Mapping[str, Any]) -> GraphParts:
    """From scipy sparse matrices of sources and targets; values other than 1 become weights.

    Raises:
        GraphError: a matrix is not scipy's, or two disagree about the number of nodes of a type.
        UnknownTypeError: a key is no triple of texts.
    """
    counts: dict[str, int] = {}
    edges: dict[EdgeType, Edges] = {}
    for edge_type, matrix in matrices.items():
        check_triple(edge_type)
        try:
            adj = Csr.from_scipy(matrix)
        except TypeError as error:
            raise GraphError(f"edges {edge_type}: {error}") from None
        for name, n in zip((edge_type[0], edge_type[2]), matrix.shape, strict=True):
            if counts.setdefault(name, n) != n:
                raise GraphError(f"edges {edge_type}: the matrix has {n} nodes of {name!r}, one before {counts[name]}")
        edges[edge_type] = Edges(adj.with_weights(None) if bool((adj.values() == 1).all()) else adj)
    for name in features:
        check_type("node type", name, counts)
    nodes = {
        name: Nodes(n, features=named_features(name, features[name]) if name in features else None)
        for name, n in counts.items()
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


def named_features(node_type: str, values: Any) -> Tensor | Csr:
    """:func:`as_features` of a type; a FeatureError names it where they are no numbers."""
    try:
        return as_features(values)
    except (TypeError, ValueError) as error:
        raise FeatureError(f"features of {node_type!r} are no numbers: {error}") from None


def numbers(edge_type: EdgeType, name: str, values: Any) -> Tensor | None:
    """Weights or times; dates become microseconds, as :func:`recgraph.graph.frames.from_frames` has them."""
    try:
        if name == "times" and not isinstance(values, Tensor | None) and _are_dates(values):
            values = _as_microseconds(edge_type, values)
        return _tensor(values)
    except GraphError:
        raise
    except (TypeError, ValueError) as error:
        raise GraphError(f"edges {edge_type}: {name} are no numbers: {error}") from None


def _are_dates(values: Any) -> bool:
    # those of a zone are objects as an array
    return getattr(getattr(values, "dtype", None), "tz", None) is not None or np.asarray(values).dtype.kind == "M"


def _as_microseconds(edge_type: EdgeType, values: Any) -> npt.NDArray[np.int64]:
    dates = np.asarray(values, dtype="datetime64[us]")
    missing_mask = np.isnat(dates)
    if missing_mask.any():
        row = int(missing_mask.argmax())
        raise GraphError(
            f"edges {edge_type}, row {row} (from 0): the time is missing ({missing_mask.sum()} such edges); fill it "
            "in, or leave them out"
        )
    return dates.astype(np.int64)


def _pairs(edge_type: EdgeType, pairs: Any) -> tuple[Tensor, Tensor]:
    if isinstance(pairs, tuple) and len(pairs) == 2:
        return _indices(edge_type, "sources", pairs[0]), _indices(edge_type, "targets", pairs[1])
    both = _indices(edge_type, "pairs", pairs)
    if both.shape == (0,):  # an empty list
        both = both.reshape(0, 2)
    if both.dim() != 2 or both.shape[1] != 2:
        raise GraphError(
            f"edges {edge_type} have shape {tuple(both.shape)}; they must be (sources, targets) or an array of shape "
            "[E, 2]"
        )
    return both[:, 0], both[:, 1]


def _indices(edge_type: EdgeType, name: str, values: Any) -> Tensor:
    """Integers as int64: [E] sources or targets, or pairs of any shape."""
    what = f"edges {edge_type}: the {name}"
    try:
        found = _tensor(values)
    except (TypeError, ValueError):  # texts, dictionaries, lists of several lengths
        found = None
    if found is None or found.is_floating_point() or found.is_complex():
        kind = f" are {str(found.dtype).removeprefix('torch.')}" if found is not None else f" = {shown(values)}"
        raise GraphError(f"{what}{kind}; indices must be integers, those of nodes from 0 on")
    if name != "pairs" and found.dim() != 1:
        raise GraphError(f"{what} have shape {tuple(found.shape)}; give a list of one dimension, (E,)")
    index = found.to(torch.int64)
    if found.dtype == torch.uint64 and bool((index < 0).any()):  # which int64 does not hold
        value = int(index[index < 0][0]) + 2**64
        raise EdgeIndexError(f"{what} have {value}, which is out of range: no type has so many nodes")
    return index


def _tensor(values: Any) -> Tensor | None:
    if values is None or isinstance(values, Tensor):
        return values
    array = np.asarray(values)
    if array.size == 0:
        array = array.astype(np.int64)
    # torch takes no array that is read backwards, and warns of one that is not to be written to
    return torch.from_numpy(np.require(array, requirements=("C", "W")))
