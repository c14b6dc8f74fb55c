"""What a typed graph is made of: nodes and edges by type, made of edge lists and scipy matrices, and held on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recgraph.config import did_you_mean, nearest_names
from recgraph.data.errors import CorruptFileError
from recgraph.data.ids import IdMap
from recgraph.files import (
    check_manifest,
    read_frame,
    read_object,
    read_tensors,
    replacing_folder,
    write_frame,
    write_json,
    write_tensors,
)
from recgraph.sparse.csr import Csr, as_floating, sort_entries
from recgraph.sparse.device import to_host

#: (source type, relation, target type)
EdgeType = tuple[str, str, str]
#: the description of a saved graph, the file that is written last
_HEAD = "graph.json"
_FORMAT = 2


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
    if name not in names:
        meant = did_you_mean(nearest_names(str(name), map(str, names)))
        hint = f"; {meant}" if meant else "."
        raise UnknownTypeError(
            f"there is no {what} {name!r}{hint} The graph has {', '.join(map(str, names)) or 'none'}"
        )


def check_parts(nodes: Mapping[str, Nodes], edges: Mapping[EdgeType, Edges]) -> None:
    """Types, shapes and finite values of a graph.

    Raises:
        GraphError: names the first type that is wrong.
    """
    for name, own in nodes.items():
        x = own.features
        shape = (own.count, None) if x is None else (x.shape[0], *x.shape[1:])
        if shape[0] != own.count or len(shape) != 2 or (own.ids is not None and len(own.ids) != own.count):
            n_ids = own.count if own.ids is None else len(own.ids)
            raise GraphError(f"node type {name!r} has {own.count} nodes, {n_ids} ids and features {shape}; give [N, F]")
        _check_finite(f"features of {name!r}", x.values() if isinstance(x, Csr) else x)
    for edge_type, held in edges.items():
        _check_ends(edge_type, nodes)
        wanted = (nodes[edge_type[0]].count, nodes[edge_type[2]].count)
        n_times = held.adj.nnz if held.times is None else held.times.numel()
        if held.adj.shape != wanted or n_times != held.adj.nnz:
            raise GraphError(
                f"edges {edge_type}: a matrix {held.adj.shape} for nodes {wanted}; {n_times} times of {held.adj.nnz}"
            )
        _check_finite(f"weights of {edge_type}", held.adj.weights)
        _check_finite(f"times of {edge_type}", held.times)


def _check_ends(edge_type: object, nodes: Iterable[str]) -> None:
    if not (isinstance(edge_type, tuple) and len(edge_type) == 3):
        raise UnknownTypeError(f"edge type {edge_type!r} must be (source type, relation, target type)")
    for end in edge_type[::2]:
        check_type("node type", end, nodes)


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
    """Edges of one type from lists [E] of indices, weights and times in any order; times keep their type.

    Raises:
        UnknownTypeError: an end that is no type of nodes.
        GraphError: lists of other lengths, or an index out of range (names the edge type, the row and the value).
    """
    _check_ends(edge_type, nodes)
    shapes = {tuple(part.shape) for part in (source, target, weights, times) if part is not None}
    if len(shapes) > 1:
        raise GraphError(
            f"edges {edge_type}: sources, targets, weights and times have shapes {sorted(shapes)}; give [E]"
        )
    shape = (nodes[edge_type[0]].count, nodes[edge_type[2]].count)
    for role, name, index, n in zip(("source", "target"), edge_type[::2], (source, target), shape, strict=True):
        outside = (index < 0) | (index >= n)
        if bool(outside.any()):
            row = int(torch.nonzero(outside)[0])
            found = f"{role} {name!r} = {int(index[row])}"
            raise GraphError(f"edges {edge_type}, row {row} (from 0): {found} is out of range [0, {n})")
    adj = Csr.from_coo(source, target, weights, shape=shape)
    return Edges(adj, None if times is None else times[sort_entries(source, target, shape[1])])


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
        both = pairs if isinstance(pairs, tuple) else numbers(pairs)
        ends = both.reshape(-1, both.shape[-1] or 2).T if isinstance(both, Tensor) else [numbers(end) for end in both]
        if len(ends) != 2 or any(end.numel() and end.is_floating_point() for end in ends):
            raise GraphError(f"edges {edge_type}: give (sources, targets) or [E, 2], integers")
        source, target = (end.to(torch.int64) for end in ends)
        w, t = (None if of.get(edge_type) is None else numbers(of[edge_type]) for of in (weights, times))
        made[edge_type] = make_edges(edge_type, source, target, nodes, w, t)
    return nodes, made


def from_scipy(matrices: Mapping[EdgeType, Any], features: Mapping[str, Any]) -> GraphParts:
    """From scipy sparse matrices of sources and targets; values other than 1 become weights."""
    counts: dict[str, int] = {}
    edges: dict[EdgeType, Edges] = {}
    for edge_type, matrix in matrices.items():
        adj = Csr.from_scipy(matrix)
        counts = dict(zip(edge_type[::2], adj.shape, strict=True)) | counts
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


def save(nodes: Mapping[str, Nodes], edges: Mapping[EdgeType, Edges], folder: Path) -> None:
    """Write everything together; an earlier graph there is replaced.

    Edges, ids and sparse features are Parquet, dense features safetensors, what is short is JSON. Files are numbered,
    because names of types may hold what a file name cannot.
    """
    tensors: dict[str, Tensor] = {}
    with replacing_folder(folder) as new:
        for number, held in enumerate(edges.values()):
            adj = held.adj
            columns = {"source": adj.rows, "target": adj.indices, "weight": adj.weights, "time": held.times}
            write_frame(_frame(columns), new / f"edges_{number}.parquet")
        for number, own in enumerate(nodes.values()):
            if own.ids is not None:
                own.ids.write(new / f"ids_{number}.parquet")
            if isinstance(x := own.features, Csr):
                write_frame(
                    _frame({"column": x.indices.to(torch.int32), "weight": x.weights}),
                    new / f"features_{number}.parquet",
                )
                tensors[f"{number}.indptr"] = x.indptr
            elif x is not None:
                tensors[f"{number}.dense"] = x
        held_on_host = {name: to_host(x.detach()).contiguous().clone() for name, x in tensors.items()}
        write_tensors(held_on_host, new / "features.safetensors")
        of_nodes = [
            {
                "type": name,
                "count": own.count,
                "has_ids": own.ids is not None,
                "width": None if own.features is None else int(own.features.shape[1]),
            }
            for name, own in nodes.items()
        ]
        head = {"format": _FORMAT, "nodes": of_nodes, "edges": [list(edge_type) for edge_type in edges]}
        write_json(head, new / _HEAD)


def _frame(columns: Mapping[str, Tensor | None]) -> pl.DataFrame:
    return pl.DataFrame({name: _array(values) for name, values in columns.items() if values is not None})


def _array(values: Tensor) -> np.ndarray[Any, Any]:
    return np.asarray(to_host(values.detach()))


def load(folder: Path) -> GraphParts:
    """The graph that :func:`save` wrote.

    Raises:
        FileNotFoundError: the folder holds none.
        CorruptFileError: a file is damaged, or of another version of the format.
    """
    if not (folder / _HEAD).is_file():
        raise FileNotFoundError(f"{folder} holds no saved graph ({_HEAD})")
    check_manifest(folder)
    head = read_object(folder / _HEAD)
    if head.get("format") != _FORMAT:
        raise CorruptFileError(f"format {head.get('format')!r} is not {_FORMAT}", path=folder / _HEAD)
    tensors = read_tensors(folder / "features.safetensors")
    nodes = {}
    for number, of in enumerate(head["nodes"]):
        features: Tensor | Csr | None = tensors.get(f"{number}.dense")
        if f"{number}.indptr" in tensors:
            entries = _columns(folder / f"features_{number}.parquet")
            indices, shape = entries["column"].to(torch.int64), (of["count"], of["width"])
            features = Csr(tensors[f"{number}.indptr"], indices, entries.get("weight"), shape).checked()
        ids = IdMap.read(folder / f"ids_{number}.parquet") if of["has_ids"] else None
        nodes[of["type"]] = Nodes(of["count"], ids, features)
    edges = {}
    for number, (source, relation, target) in enumerate(head["edges"]):
        columns, edge_type = _columns(folder / f"edges_{number}.parquet"), (source, relation, target)
        ends, more = (columns["source"], columns["target"]), (columns.get("weight"), columns.get("time"))
        edges[edge_type] = make_edges(edge_type, *ends, nodes, *more)
    return nodes, edges


def _columns(path: Path) -> dict[str, Tensor]:
    frame = read_frame(path)
    return {name: torch.from_numpy(frame[name].to_numpy().copy()) for name in frame.columns}


def digest(nodes: Mapping[str, Nodes], edges: Mapping[EdgeType, Edges]) -> str:
    """64 hex digits of types (in their order), counts, ids, features, edges, weights and times.

    The same on every machine; values of another floating type are other values.
    """
    head = {"version": 1, "nodes": {name: own.count for name, own in nodes.items()}}
    state = hashlib.sha256(json.dumps(head).encode())
    for name, own in nodes.items():
        state.update(json.dumps(["features", name]).encode())
        if own.ids is not None:
            state.update(own.ids.digest())
        x = own.features
        if not isinstance(x, Csr):
            state.update(tensor_bytes(x))
            continue
        state.update(b"".join(map(tensor_bytes, (x.indptr, x.indices, x.weights))))
        # the width counts where the last column is empty, so that the entries do not tell it
        if x.shape[1] != (int(x.indices.max()) + 1 if x.nnz else 0):
            state.update(json.dumps(["width", x.shape[1]]).encode())
    for edge_type, held in edges.items():
        state.update(json.dumps(["edges", *edge_type]).encode())
        state.update(b"".join(map(tensor_bytes, (held.adj.indptr, held.adj.indices, held.adj.weights, held.times))))
    return state.hexdigest()


def tensor_bytes(values: Tensor | None) -> bytes:
    """Type, shape and values, little-endian; nothing is told apart from an empty tensor."""
    if values is None:
        return b"-"
    array = np.ascontiguousarray(_array(values))
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return f"{array.dtype.str}{list(array.shape)}:".encode() + array.tobytes()
