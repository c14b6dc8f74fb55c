"""``HeteroGraph``: nodes and edges of several types, as a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recgraph.data.ids import IdMap
from recgraph.data.part import Part
from recgraph.data.split import Interactions
from recgraph.graph import frames, io, schema, store
from recgraph.graph.node_task import NodeTask
from recgraph.graph.schema import Edges, EdgeType, Nodes, check_edges, check_nodes, check_type
from recgraph.pages import block, table
from recgraph.sparse.csr import Csr
from recgraph.sparse.device import to_host


@dataclass(frozen=True, eq=False)
class HeteroGraph:
    """A typed graph. Values are immutable: every method returns a new one, and what it is made of is copied.

    The constructor itself and :meth:`with_edges` take :class:`Nodes`, :class:`Edges` and matrices as they are: write
    nothing into their tensors afterwards.

    Edges of a type are held by source and target, ascending; equal pairs keep the order in which they came.

    Attributes:
        nodes: node type -> its nodes.
        edges: (source type, relation, target type) -> its edges.

    Raises:
        GraphError: a type that is missing, sizes that do not match, features, weights or times that are not finite.
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
        """From pairs of indices; see :func:`recgraph.graph.schema.from_edge_lists`."""
        return cls(*schema.from_edge_lists(counts, edges, features or {}, weights or {}, times or {}, ids or {}))

    @classmethod
    def from_scipy(cls, matrices: Mapping[EdgeType, Any], features: Mapping[str, Any] | None = None) -> HeteroGraph:
        """From scipy matrices; see :func:`recgraph.graph.schema.from_scipy`."""
        return cls(*schema.from_scipy(matrices, features or {}))

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
        return cls(*frames.from_frames(edges, nodes or {}, features or {}, weight, time))

    @classmethod
    def from_interactions(
        cls,
        interactions: Interactions,
        part: Part | None = None,
        item_relations: Sequence[str] | Mapping[str, str] | None = None,
        user_relations: Sequence[str] | Mapping[str, str] | None = None,
        separator: str = " ",
    ) -> HeteroGraph:
        """From a log with side information; see :func:`recgraph.graph.frames.from_interactions`."""
        return cls(*frames.from_interactions(interactions, part, item_relations, user_relations, separator))

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
        return store.digest(self.nodes, self.edges)

    def __repr__(self) -> str:
        nodes = ", ".join(f"{nodes.count:,} {name}" for name, nodes in self.nodes.items())
        edges = ", ".join(f"{edges.adj.nnz:,} {'-'.join(name)}" for name, edges in self.edges.items())
        return f"HeteroGraph({nodes}; {edges})"

    def _repr_html_(self) -> str:
        of_nodes = [
            {
                "nodes": name,
                "count": nodes.count,
                "features": None if nodes.features is None else nodes.features.shape[1],
            }
            for name, nodes in self.nodes.items()
        ]
        of_edges = [{"edges": " - ".join(name), "count": edges.adj.nnz} for name, edges in self.edges.items()]
        return block("HeteroGraph", {}, [table(of_nodes), table(of_edges)])

    def count(self, node_type: str) -> int:
        """The nodes of a type.

        Raises:
            UnknownTypeError: there is no such type.
        """
        check_type("node type", node_type, self.nodes)
        return self.nodes[node_type].count

    def features(self, node_type: str) -> Tensor | Csr | None:
        """[N, F] features of a type, dense or sparse, or None."""
        check_type("node type", node_type, self.nodes)
        return self.nodes[node_type].features

    def adjacency(self, edge_type: EdgeType) -> Csr:
        """[N_source, N_target]: the edges of a type.

        Raises:
            UnknownTypeError: there is no such type.
        """
        check_type("edge type", edge_type, self.edges)
        return self.edges[edge_type].adj

    def with_features(self, features: Mapping[str, Any]) -> HeteroGraph:
        """With other features of some types: [N, F] array, tensor, scipy matrix or Csr, or None.

        Integers become the default floating type; values are copied.
        """
        nodes = dict(self.nodes)
        for node_type, values in features.items():
            check_type("node type", node_type, nodes)
            made = None if values is None else schema.as_features(values)
            nodes[node_type] = replace(nodes[node_type], features=made)
        return HeteroGraph(nodes, self.edges)

    def with_edges(self, edges: Mapping[EdgeType, Edges | Csr]) -> HeteroGraph:
        """With edges of more types, or other edges of types that are there."""
        new = {name: part if isinstance(part, Edges) else Edges(part) for name, part in edges.items()}
        return HeteroGraph(self.nodes, {**self.edges, **new})

    def permuted(self, orders: Mapping[str, Tensor]) -> HeteroGraph:
        """The same graph with the nodes of some types in other orders.

        Args:
            orders: node type -> [N] integers: node j of the new graph is node ``orders[type][j]`` of this one.

        Raises:
            ValueError: an order that does not have each node once.
        """
        nodes, places = dict(self.nodes), {}
        for name, order in orders.items():
            n = self.count(name)
            order = torch.as_tensor(order)
            if not torch.equal(torch.sort(order).values, torch.arange(n, device=order.device)):
                raise ValueError(f"orders: that of {name!r} must have each of its {n} nodes once")
            ids, x = nodes[name].ids, nodes[name].features
            on_device = order.to(self.device)
            taken = x.take_rows(on_device) if isinstance(x, Csr) else None if x is None else x[on_device]
            nodes[name] = Nodes(n, None if ids is None else ids.take(np.asarray(to_host(order))), taken)
            places[name] = torch.argsort(on_device)
        edges = {}
        for edge_type, held in self.edges.items():
            source, _, end = edge_type
            rows, columns = held.adj.rows, held.adj.indices
            rows = places[source][rows] if source in places else rows
            columns = places[end][columns] if end in places else columns
            edges[edge_type] = schema.make_edges(edge_type, rows, columns, held.adj.shape, held.adj.weights, held.times)
        return HeteroGraph(nodes, edges)

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

    def to_pyg(self, task: NodeTask | None = None, *, homogeneous: bool = False) -> Any:
        """A ``torch_geometric.data.HeteroData`` (or ``Data``); see :func:`recgraph.graph.io.to_pyg`."""
        return io.to_pyg(self.nodes, self.edges, task, homogeneous)

    @classmethod
    def from_pyg(cls, data: Any, node_type: str = "node", relation: str = "to") -> HeteroGraph:
        """From a ``torch_geometric.data.HeteroData`` or ``Data``; see :func:`recgraph.graph.io.from_pyg`.

        A warning names what is no part of a graph, as labels and masks.
        """
        return cls(*io.from_pyg(data, node_type, relation))

    @classmethod
    def from_pyg_with_task(
        cls, data: Any, target: str | None = None, node_type: str = "node", relation: str = "to"
    ) -> tuple[HeteroGraph, NodeTask]:
        """The graph, and the task of its labels and masks; see :func:`recgraph.graph.io.task_from_pyg`."""
        parts = io.from_pyg(data, node_type, relation, labels=True)
        return cls(*parts), io.task_from_pyg(data, target, node_type)

    def to_dgl(self, task: NodeTask | None = None) -> Any:
        """A DGL heterograph; see :func:`recgraph.graph.io.to_dgl`."""
        return io.to_dgl(self.nodes, self.edges, self.device, task)

    @classmethod
    def from_dgl(cls, graph: Any, node_type: str = "node", relation: str = "to") -> HeteroGraph:
        """From a DGL graph; see :func:`recgraph.graph.io.from_dgl`. A warning names what is no part of a graph."""
        return cls(*io.from_dgl(graph, node_type, relation))

    @classmethod
    def from_dgl_with_task(
        cls, graph: Any, target: str | None = None, node_type: str = "node", relation: str = "to"
    ) -> tuple[HeteroGraph, NodeTask]:
        """The graph, and the task of its labels and masks; see :func:`recgraph.graph.io.task_from_dgl`."""
        parts = io.from_dgl(graph, node_type, relation, labels=True)
        return cls(*parts), io.task_from_dgl(graph, target, node_type)

    def save(self, folder: str | Path) -> None:
        """Write Parquet (edges, ids), safetensors (features) and a JSON description, all together."""
        store.save(self.nodes, self.edges, Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> HeteroGraph:
        """Read what :meth:`save` wrote.

        Raises:
            CorruptFileError: a file is damaged.
            FileNotFoundError: the folder holds none.
        """
        return cls(*store.load(Path(folder)))
