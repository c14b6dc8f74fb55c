"""A hash of all that a typed graph holds."""

from __future__ import annotations

import hashlib
import json

import numpy as np
from torch import Tensor

from recgraph.data.hetero.graph import HeteroGraph
from recgraph.sparse.csr import Csr

__all__ = ["digest", "tensor_bytes"]


def digest(graph: HeteroGraph) -> str:
    """64 hex digits of types (in their order), counts, ids, features, edges, weights and times.

    The same on every machine; values of another floating type are other values.
    """
    head = {"version": 1, "nodes": {name: nodes.count for name, nodes in graph.nodes.items()}}
    state = hashlib.sha256(json.dumps(head).encode())
    for name, nodes in graph.nodes.items():
        state.update(json.dumps(["features", name]).encode())
        if nodes.ids is not None:
            state.update(nodes.ids.digest())
        for part in _parts(nodes.features):
            state.update(tensor_bytes(part))
    for edge_type, edges in graph.edges.items():
        state.update(json.dumps(["edges", *edge_type]).encode())
        for part in (*_parts(edges.adj), edges.times):
            state.update(tensor_bytes(part))
    return state.hexdigest()


def _parts(values: Tensor | Csr | None) -> tuple[Tensor | None, ...]:
    return (values.indptr, values.indices, values.weights) if isinstance(values, Csr) else (values,)


def tensor_bytes(values: Tensor | None) -> bytes:
    """Type, shape and values, little-endian; nothing is told apart from an empty tensor."""
    if values is None:
        return b"-"
    array = np.ascontiguousarray(values.detach().cpu().numpy())
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return f"{array.dtype.str}{list(array.shape)}:".encode() + array.tobytes()
