"""Typed graphs on disk, and their hash.

Edges, ids and sparse features are Parquet, dense features safetensors, what is short is JSON. Parquet packs what a
sparse matrix repeats: ACM's features take a sixth of what they are as tensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

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
from recgraph.graph.schema import Edges, EdgeType, GraphParts, Nodes, make_edges
from recgraph.sparse.csr import Csr

#: the description of a saved graph, the file that is written last
_HEAD = "graph.json"
_FORMAT = 2


def save(nodes: Mapping[str, Nodes], edges: Mapping[EdgeType, Edges], folder: Path) -> None:
    """Write everything together; a folder that has the description is complete.

    Files are numbered, because names of types may hold what a file name cannot. An earlier graph there is replaced.
    """
    with replacing_folder(folder) as new:
        for number, lists in enumerate(edges.values()):
            write_frame(_frame(lists), new / f"edges_{number}.parquet")
        for number, own in enumerate(nodes.values()):
            if own.ids is not None:
                own.ids.write(new / f"ids_{number}.parquet")
            if isinstance(own.features, Csr):
                write_frame(_entries(own.features), new / f"features_{number}.parquet")
        write_tensors(_tensors(nodes), new / "features.safetensors")
        write_json(_describe(nodes, edges), new / _HEAD)


def _frame(edges: Edges) -> pl.DataFrame:
    columns = {"source": edges.adj.rows, "target": edges.adj.indices}
    columns |= {} if edges.adj.weights is None else {"weight": edges.adj.weights.detach()}
    columns |= {} if edges.times is None else {"time": edges.times}
    return pl.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})


def _entries(features: Csr) -> pl.DataFrame:
    narrow = features.shape[1] <= torch.iinfo(torch.int32).max
    columns = {"column": features.indices.to(torch.int32) if narrow else features.indices}
    columns |= {} if features.weights is None else {"weight": features.weights.detach()}
    return pl.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})


def _tensors(nodes: Mapping[str, Nodes]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for number, own in enumerate(nodes.values()):
        features = own.features
        if isinstance(features, Csr):
            tensors[f"{number}.indptr"] = features.indptr
        elif features is not None:
            tensors[f"{number}.dense"] = features
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _describe(nodes: Mapping[str, Nodes], edges: Mapping[EdgeType, Edges]) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "nodes": [
            {
                "type": name,
                "count": own.count,
                "has_ids": own.ids is not None,
                "width": None if own.features is None else int(own.features.shape[1]),
            }
            for name, own in nodes.items()
        ],
        "edges": [list(edge_type) for edge_type in edges],
    }


def load(folder: Path) -> GraphParts:
    """The graph that :func:`save` wrote.

    Raises:
        FileNotFoundError: the folder holds none.
        CorruptFileError: a file is damaged, or of another version of the format.
    """
    if not (folder / _HEAD).is_file():
        raise FileNotFoundError(f"{folder} holds no saved graph ({_HEAD})")
    check_manifest(folder)
    meta = read_object(folder / _HEAD)
    if meta.get("format") != _FORMAT:
        raise CorruptFileError(f"format {meta.get('format')!r} is not {_FORMAT}", path=folder / _HEAD)
    tensors = read_tensors(folder / "features.safetensors")
    nodes = {
        of["type"]: Nodes(
            of["count"],
            IdMap.read(folder / f"ids_{number}.parquet") if of["has_ids"] else None,
            _features(folder, tensors, number, of),
        )
        for number, of in enumerate(meta["nodes"])
    }
    edges = {}
    for number, (source, relation, target) in enumerate(meta["edges"]):
        columns = _columns(folder / f"edges_{number}.parquet")
        counts = (nodes[source].count, nodes[target].count)
        ends, more = (columns["source"], columns["target"]), (columns.get("weight"), columns.get("time"))
        edges[source, relation, target] = make_edges((source, relation, target), *ends, counts, *more)
    return nodes, edges


def _columns(path: Path) -> dict[str, Tensor]:
    frame = read_frame(path)
    return {name: torch.from_numpy(frame[name].to_numpy().copy()) for name in frame.columns}


def _features(folder: Path, tensors: dict[str, Tensor], number: int, of: Mapping[str, Any]) -> Tensor | Csr | None:
    if of["width"] is None or f"{number}.dense" in tensors:
        return tensors.get(f"{number}.dense")
    entries = _columns(folder / f"features_{number}.parquet")
    indices, weights = entries["column"].to(torch.int64), entries.get("weight")
    return Csr(tensors[f"{number}.indptr"], indices, weights, (of["count"], of["width"])).checked()


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
        for part in _parts(own.features):
            state.update(tensor_bytes(part))
        if (width := _hidden_width(own.features)) is not None:
            state.update(json.dumps(["width", width]).encode())
    for edge_type, lists in edges.items():
        state.update(json.dumps(["edges", *edge_type]).encode())
        for part in (*_parts(lists.adj), lists.times):
            state.update(tensor_bytes(part))
    return state.hexdigest()


def _parts(values: Tensor | Csr | None) -> tuple[Tensor | None, ...]:
    return (values.indptr, values.indices, values.weights) if isinstance(values, Csr) else (values,)


def _hidden_width(features: Tensor | Csr | None) -> int | None:
    """The number of columns of sparse features whose last column is empty, which their entries do not tell; else None.

    Only there, so that graphs without such columns keep the hashes that records have of them.
    """
    if not isinstance(features, Csr):
        return None
    told = int(features.indices.max()) + 1 if features.nnz else 0
    return None if told == features.shape[1] else features.shape[1]


def tensor_bytes(values: Tensor | None) -> bytes:
    """Type, shape and values, little-endian; nothing is told apart from an empty tensor."""
    if values is None:
        return b"-"
    array = np.ascontiguousarray(values.detach().cpu().numpy())
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return f"{array.dtype.str}{list(array.shape)}:".encode() + array.tobytes()
