"""Typed graphs: nodes and edges of several types, from frames, logs, matrices, PyG and DGL."""

from recgraph.data.hetero.check import (
    EdgeIndexError,
    FeatureError,
    GraphError,
    IsolatedNodesWarning,
    UnknownTypeError,
)
from recgraph.data.hetero.graph import Edges, EdgeType, HeteroGraph, Nodes

__all__ = [
    "EdgeIndexError",
    "EdgeType",
    "Edges",
    "FeatureError",
    "GraphError",
    "HeteroGraph",
    "IsolatedNodesWarning",
    "Nodes",
    "UnknownTypeError",
]
