"""``HeteroGraph``: nodes and edges of several types, as a value.

What can be wrong with a typed graph, each with its own class and a message that says where.
"""

from __future__ import annotations

import difflib
import operator
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recgraph.data.ids import IdMap
from recgraph.sparse.csr import Csr

if TYPE_CHECKING:
    from recgraph.data.log import InteractionLog
    from recgraph.data.part import Part
if TYPE_CHECKING:
    pass

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
    "check_edges",
    "check_indices",
    "check_nodes",
    "known",
    "warn_isolated",
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
        object.__setattr__(self, "count", operator.index(self.count))


@dataclass(frozen=True, eq=False)
class Edges:
    """The edges of one type.

    Attributes:
        adj: [N_source, N_target], one entry an edge, so that repeated edges stay; weights as given, or None.
        times: [E], aligned with ``adj.indices``, or None.
    """

    adj: Csr
    times: Tensor | None = None


@dataclass(frozen=True, eq=False)
class HeteroGraph:
    """A typed graph. Values are immutable: every method returns a new one.

    Edges of a type are held by source and target, ascending; equal pairs keep the order in which they came.

    Attributes:
        nodes: node type -> its nodes.
        edges: (source type, relation, target type) -> its edges.

    Raises:
        GraphError: a type that is missing, sizes that do not match, NaN among features or weights.
    """

    nodes: Mapping[str, Nodes]
    edges: Mapping[EdgeType, Edges] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node_type, nodes in self.nodes.items():
            check_nodes(node_type, nodes)
        for edge_type, edges in self.edges.items():
            check_edges(edge_type, edges, self.nodes)

    @classmethod
    def from_edge_lists(
        cls,
        counts: Mapping[str, int],
        edges: Mapping[EdgeType, Any],
        features: Mapping[str, Any] | None = None,
        weights: Mapping[EdgeType, Any] | None = None,
        times: Mapping[EdgeType, Any] | None = None,
        ids: Mapping[str, IdMap] | None = None,
    ) -> HeteroGraph:
        """From pairs of indices; see :func:`recgraph.graph.build.from_edge_lists`."""
        from recgraph.graph import build

        return build.from_edge_lists(counts, edges, features or {}, weights or {}, times or {}, ids or {})

    @classmethod
    def from_scipy(cls, matrices: Mapping[EdgeType, Any], features: Mapping[str, Any] | None = None) -> HeteroGraph:
        """From scipy matrices; see :func:`recgraph.graph.build.from_scipy`."""
        from recgraph.graph import build

        return build.from_scipy(matrices, features or {})

    @classmethod
    def from_frames(
        cls,
        edges: Mapping[EdgeType, Any],
        nodes: Mapping[str, Any] | None = None,
        features: Mapping[str, Sequence[str]] | None = None,
        weight: str = "weight",
        time: str = "time",
    ) -> HeteroGraph:
        """From frames with the user's own ids; see :func:`recgraph.graph.frames.from_frames`."""
        from recgraph.graph import frames

        return frames.from_frames(edges, nodes or {}, features or {}, weight, time)

    @classmethod
    def from_interactions(
        cls,
        interactions: InteractionLog,
        part: Part | None = None,
        item_relations: Sequence[str] | Mapping[str, str] | None = None,
        user_relations: Sequence[str] | Mapping[str, str] | None = None,
        separator: str = " ",
    ) -> HeteroGraph:
        """From a log with side information; see :func:`recgraph.graph.frames.from_interactions`."""
        from recgraph.graph import frames

        return frames.from_interactions(interactions, part, item_relations, user_relations, separator)

    @property
    def node_types(self) -> list[str]:
        return list(self.nodes)

    @property
    def edge_types(self) -> list[EdgeType]:
        return list(self.edges)

    @property
    def device(self) -> torch.device:
        """Of the edges (the default device where there are none)."""
        return next((edges.adj.device for edges in self.edges.values()), torch.empty(0).device)

    @cached_property
    def hash(self) -> str:
        """64 hex digits of all that it holds; the same on every machine."""
        from recgraph.graph.store import digest

        return digest(self)

    def __repr__(self) -> str:
        nodes = ", ".join(f"{nodes.count:,} {name}" for name, nodes in self.nodes.items())
        edges = ", ".join(f"{edges.adj.nnz:,} {'-'.join(name)}" for name, edges in self.edges.items())
        return f"HeteroGraph({nodes}; {edges})"

    def count(self, node_type: str) -> int:
        """The nodes of a type.

        Raises:
            UnknownTypeError: there is no such type.
        """
        known("node type", node_type, self.nodes)
        return self.nodes[node_type].count

    def features(self, node_type: str) -> Tensor | Csr | None:
        """[N, F] features of a type, dense or sparse, or None."""
        known("node type", node_type, self.nodes)
        return self.nodes[node_type].features

    def adjacency(self, edge_type: EdgeType) -> Csr:
        """[N_source, N_target]: the edges of a type.

        Raises:
            UnknownTypeError: there is no such type.
        """
        known("edge type", edge_type, self.edges)
        return self.edges[edge_type].adj

    def with_features(self, features: Mapping[str, Any]) -> HeteroGraph:
        """With other features of some types: [N, F] array, tensor, scipy matrix or Csr, or None.

        Integers become the default floating type.
        """
        from recgraph.graph.build import as_features

        nodes = dict(self.nodes)
        for node_type, values in features.items():
            known("node type", node_type, nodes)
            made = None if values is None else as_features(values)
            nodes[node_type] = replace(nodes[node_type], features=made)
        return HeteroGraph(nodes, self.edges)

    def with_edges(self, edges: Mapping[EdgeType, Edges | Csr]) -> HeteroGraph:
        """With edges of more types, or other edges of types that are there."""
        new = {name: part if isinstance(part, Edges) else Edges(part) for name, part in edges.items()}
        return HeteroGraph(self.nodes, {**self.edges, **new})

    def warn_isolated(self, target: str) -> int:
        """The number of nodes of the target type that no edge touches; a warning with it where it is not 0.

        Raises:
            UnknownTypeError: there is no such type.
        """
        known("node type", target, self.nodes)
        return warn_isolated(self, target)

    def to(self, device: torch.device | str) -> HeteroGraph:
        """On a device."""
        nodes = {
            name: replace(part, features=None if part.features is None else part.features.to(device))
            for name, part in self.nodes.items()
        }
        edges = {
            name: Edges(part.adj.to(device), None if part.times is None else part.times.to(device))
            for name, part in self.edges.items()
        }
        return HeteroGraph(nodes, edges)

    def to_pyg(self) -> Any:
        """A ``torch_geometric.data.HeteroData``; see :mod:`recgraph.graph.io`."""
        from recgraph.graph import io as pyg

        return pyg.to_pyg(self)

    @classmethod
    def from_pyg(cls, data: Any) -> HeteroGraph:
        """From a ``torch_geometric.data.HeteroData``; see :mod:`recgraph.graph.io`."""
        from recgraph.graph import io as pyg

        return pyg.from_pyg(data)

    def to_dgl(self) -> Any:
        """A DGL heterograph; see :mod:`recgraph.graph.io`."""
        from recgraph.graph import io as dgl

        return dgl.to_dgl(self)

    @classmethod
    def from_dgl(cls, graph: Any) -> HeteroGraph:
        """From a DGL heterograph; see :mod:`recgraph.graph.io`."""
        from recgraph.graph import io as dgl

        return dgl.from_dgl(graph)

    def save(self, folder: str | Path) -> None:
        """Write Parquet (edges, ids), safetensors (features) and a JSON description, each atomically."""
        from recgraph.graph import store

        store.save(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> HeteroGraph:
        """Read what :meth:`save` wrote."""
        from recgraph.graph import store

        return store.load(Path(folder))

    @staticmethod
    def remove(folder: str | Path) -> None:
        """Remove what :meth:`save` wrote, and the folder if nothing else is in it."""
        from recgraph.graph import store

        store.remove(Path(folder))


class GraphError(ValueError):
    """A typed graph that cannot be made as it is."""


class EdgeIndexError(GraphError):
    """An edge ends at a node that does not exist."""


class UnknownTypeError(GraphError):
    """A type of nodes or edges that the graph does not have."""


class FeatureError(GraphError):
    """Features whose rows do not match the nodes, or that hold NaN."""


class IsolatedNodesWarning(UserWarning):
    """Nodes of the target type without any edge."""


def known(what: str, name: object, there: Iterable[object]) -> None:
    """Raise where a type is not among those that are there, with the nearest."""
    names = list(there)
    if name in names:
        return
    close = difflib.get_close_matches(str(name), [str(other) for other in names], n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else "."
    raise UnknownTypeError(f"there is no {what} {name!r}{hint} The graph has {', '.join(map(str, names)) or 'none'}")


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
    source, _, target = edge_type
    for end in (source, target):
        if end not in nodes:
            known("node type", end, nodes)
    wanted = (nodes[source].count, nodes[target].count)
    if edges.adj.shape != wanted:
        raise GraphError(f"edges {edge_type}: the matrix has shape {edges.adj.shape}, the nodes need {wanted}")
    if edges.times is not None and edges.times.shape != (edges.adj.nnz,):
        raise GraphError(f"edges {edge_type}: {edges.times.numel()} times for {edges.adj.nnz} edges")
    weights = edges.adj.weights
    if weights is not None and not bool(torch.isfinite(weights).all()):
        entry = int(torch.nonzero(~torch.isfinite(weights))[0])
        place = f"{int(edges.adj.rows[entry])} -> {int(edges.adj.indices[entry])}"
        raise GraphError(f"edges {edge_type}: the weight of {place} is {float(weights[entry])}; weights must be finite")


def check_nodes(node_type: str, nodes: Nodes) -> None:
    """Ids and features of one node type."""
    if nodes.count < 0:
        raise GraphError(f"node type {node_type!r}: count = {nodes.count} must not be negative")
    if nodes.ids is not None and len(nodes.ids) != nodes.count:
        raise GraphError(f"node type {node_type!r}: {len(nodes.ids)} ids for {nodes.count} nodes")
    features = nodes.features
    if features is None:
        return
    if len(features.shape) != 2 or features.shape[0] != nodes.count:
        raise FeatureError(
            f"features of {node_type!r} have shape {tuple(features.shape)}; {nodes.count} nodes need "
            f"({nodes.count}, width)"
        )
    values = features.values() if isinstance(features, Csr) else features
    nan_mask = torch.isnan(values)
    if bool(nan_mask.any()):
        at = torch.nonzero(nan_mask)[0]
        row = int(features.rows[at[0]]) if isinstance(features, Csr) else int(at[0])
        raise FeatureError(
            f"features of {node_type!r}: row {row} (from 0) holds NaN ({int(nan_mask.sum())} values in all); "
            "fill or drop them"
        )


def warn_isolated(graph: HeteroGraph, target: str) -> int:
    """Warn with the number of target nodes that no edge touches, and return it."""
    touched = torch.zeros(graph.count(target), dtype=torch.bool, device=graph.device)
    for (source, _, end), edges in graph.edges.items():
        if source == target:
            touched |= edges.adj.degrees > 0
        if end == target:
            touched[edges.adj.indices] = True
    n = int((~touched).sum())
    if n:
        warnings.warn(
            f"{n} of {touched.numel()} nodes of the target type {target!r} have no edge: only their features describe "
            "them",
            IsolatedNodesWarning,
            stacklevel=3,
        )
    return n
