"""``HeteroGraph``: nodes and edges of several types, as a value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from recgraph.data.ids import IdMap
from recgraph.data.part import Part
from recgraph.data.split import Interactions
from recgraph.files import (
    CorruptFileError,
    check_manifest,
    read_frame,
    read_object,
    read_tensors,
    replacing_folder,
    write_frame,
    write_json,
    write_tensors,
)
from recgraph.graph import exchange
from recgraph.graph.node_task import NodeTask
from recgraph.graph.schema import (
    Edges,
    EdgeType,
    GraphError,
    Nodes,
    array_of,
    as_features,
    check_parts,
    check_type,
    make_edges,
    numbers,
    tensor_bytes,
)
from recgraph.pages import block, table
from recgraph.sparse.csr import Csr
from recgraph.sparse.device import to_host
from recgraph.sparse.operators import Placing

#: the description of a saved graph, the file that is written last
_HEAD = "graph.json"
_FORMAT = 2


@dataclass(frozen=True, eq=False)
class HeteroGraph:
    """A typed graph. Values are immutable: every method returns a new one, and what it is made of
    is copied, but not the :class:`Nodes`, :class:`Edges` and matrices that the constructor and
    :meth:`with_edges` take.

    Edges of a type are held by source and target, ascending; equal pairs keep the order in which
    they came.

    Attributes:
        nodes: node type -> its nodes.
        edges: (source type, relation, target type) -> its edges.

    Raises:
        GraphError: a type that is missing, sizes that do not match, features, weights or times that
            are not finite.
    """

    nodes: Mapping[str, Nodes]
    edges: Mapping[EdgeType, Edges] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_parts(self.nodes, self.edges)

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
        """From pairs of indices; one out of range is a GraphError that names edge type, row and
        value.

        Args:
            counts: node type -> number of nodes.
            edges: (source, relation, target) -> ``(sources, targets)``, or an [E, 2] array as files
                of pairs have it.
            features: node type -> [N, F] array, tensor, scipy matrix or Csr.
            weights, times: edge type -> [E].
            ids: node type -> its ids.
        """
        weights = weights or {}
        times = times or {}
        ids = ids or {}
        for name in ids:
            check_type("node type", name, counts)
        for edge_type in (*weights, *times):
            check_type("edge type", edge_type, edges)
        nodes = {name: Nodes(n, ids.get(name)) for name, n in counts.items()}
        parts = {}
        for edge_type, pairs in edges.items():
            source, target = _ends(edge_type, pairs)
            parts[edge_type] = make_edges(
                edge_type, source, target, nodes, weights.get(edge_type), times.get(edge_type)
            )
        return cls(nodes, parts).with_features(features or {})

    @classmethod
    def from_scipy(
        cls, matrices: Mapping[EdgeType, Any], features: Mapping[str, Any] | None = None
    ) -> HeteroGraph:
        """From scipy sparse matrices of sources and targets; values other than 1 become weights."""
        counts: dict[str, int] = {}
        edges: dict[EdgeType, Edges] = {}
        for edge_type, matrix in matrices.items():
            adj = Csr.from_scipy(matrix)
            counts = dict(zip(edge_type[::2], adj.shape, strict=True)) | counts
            if bool((adj.values() == 1).all()):
                adj = adj.with_weights(None)
            edges[edge_type] = Edges(adj)
        nodes = {name: Nodes(n) for name, n in counts.items()}
        return cls(nodes, edges).with_features(features or {})

    @classmethod
    def from_frames(
        cls,
        edges: Mapping[EdgeType, Any],
        nodes: Mapping[str, Any] | None = None,
        features: Mapping[str, Sequence[str]] | None = None,
        weight: str = "weight",
        time: str = "time",
    ) -> HeteroGraph:
        """From frames with the user's own ids; see :func:`recgraph.graph.exchange.from_frames`."""
        return cls(*exchange.from_frames(edges, nodes or {}, features or {}, weight, time))

    @classmethod
    def from_interactions(
        cls,
        interactions: Interactions,
        part: Part | None = None,
        item_relations: Sequence[str] | Mapping[str, str] | None = None,
        user_relations: Sequence[str] | Mapping[str, str] | None = None,
        separator: str | None = None,
    ) -> HeteroGraph:
        """From a log with side information; see
        :func:`recgraph.graph.exchange.from_interactions`.
        """
        return cls(
            *exchange.from_interactions(
                interactions, part, item_relations, user_relations, separator
            )
        )

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
        """64 hex digits of types (in their order), counts, ids, features, edges, weights and times.

        The same on every machine; values of another floating type are other values.
        """
        counts = {name: part.count for name, part in self.nodes.items()}
        state = hashlib.sha256(json.dumps({"version": 1, "nodes": counts}).encode())
        for name, part in self.nodes.items():
            state.update(json.dumps(["features", name]).encode())
            if part.ids is not None:
                state.update(part.ids.digest())
            x = part.features
            if not isinstance(x, Csr):
                state.update(tensor_bytes(x))
                continue
            state.update(b"".join(map(tensor_bytes, (x.indptr, x.indices, x.weights))))
            # the width counts where the last column is empty, so that the entries do not tell it
            if x.shape[1] != int(array_of(x.indices).max(initial=-1)) + 1:
                state.update(json.dumps(["width", x.shape[1]]).encode())
        for edge_type, held in self.edges.items():
            state.update(json.dumps(["edges", *edge_type]).encode())
            columns = (held.adj.indptr, held.adj.indices, held.adj.weights, held.times)
            state.update(b"".join(map(tensor_bytes, columns)))
        return state.hexdigest()

    def __repr__(self) -> str:
        nodes = ", ".join(f"{nodes.count:,} {name}" for name, nodes in self.nodes.items())
        edges = ", ".join(
            f"{edges.adj.nnz:,} {'-'.join(name)}" for name, edges in self.edges.items()
        )
        return f"HeteroGraph({nodes}; {edges})"

    def _repr_html_(self) -> str:
        of_nodes = [
            {"nodes": name, "count": part.count, "features": part.n_features}
            for name, part in self.nodes.items()
        ]
        of_edges = [
            {"edges": " - ".join(name), "count": held.adj.nnz} for name, held in self.edges.items()
        ]
        return block("HeteroGraph", {}, [table(of_nodes), table(of_edges)])

    def count(self, node_type: str) -> int:
        """The nodes of a type, which must be there."""
        check_type("node type", node_type, self.nodes)
        return self.nodes[node_type].count

    def features(self, node_type: str) -> Tensor | Csr | None:
        """[N, F] features of a type, dense or sparse, or None."""
        check_type("node type", node_type, self.nodes)
        return self.nodes[node_type].features

    def adjacency(self, edge_type: EdgeType) -> Csr:
        """[N_source, N_target]: the edges of a type, which must be there."""
        check_type("edge type", edge_type, self.edges)
        return self.edges[edge_type].adj

    def with_features(self, features: Mapping[str, Any]) -> HeteroGraph:
        """With other features of some types: [N, F] array, tensor, scipy matrix or Csr, or None.

        Integers become the default floating type; values are copied.
        """
        nodes = dict(self.nodes)
        for node_type, values in features.items():
            check_type("node type", node_type, nodes)
            x = None if values is None else as_features(values)
            nodes[node_type] = replace(nodes[node_type], features=x)
        return HeteroGraph(nodes, self.edges)

    def with_edges(self, edges: Mapping[EdgeType, Edges | Csr]) -> HeteroGraph:
        """With edges of more types, or other edges of types that are there."""
        new = {
            name: part if isinstance(part, Edges) else Edges(part) for name, part in edges.items()
        }
        return HeteroGraph(self.nodes, {**self.edges, **new})

    def permuted(self, orders: Mapping[str, Tensor]) -> HeteroGraph:
        """The same graph with the nodes of some types in other orders, [N] integers that name each
        node once: node j of the new graph is node ``orders[type][j]`` of this one."""
        nodes = dict(self.nodes)
        # the new index of each node
        places = {
            name: torch.arange(part.count, device=self.device) for name, part in nodes.items()
        }
        for name, order in orders.items():
            n = self.count(name)
            order = torch.as_tensor(order, device=self.device)
            if not torch.equal(torch.sort(order).values, places[name]):
                raise ValueError(f"orders: that of {name!r} must have each of its {n} nodes once")
            nodes[name] = nodes[name].take(order)
            places[name] = torch.argsort(order)
        edges = {}
        for edge_type, held in self.edges.items():
            edges[edge_type] = make_edges(
                edge_type,
                places[edge_type[0]][held.adj.rows],
                places[edge_type[2]][held.adj.indices],
                nodes=nodes,
                weights=held.adj.weights,
                times=held.times,
            )
        return HeteroGraph(nodes, edges)

    def to(self, device: torch.device | str) -> HeteroGraph:
        """On a device."""
        place = Placing(device)
        nodes = {
            name: replace(part, features=place(part.features)) for name, part in self.nodes.items()
        }
        edges = {
            edge_type: Edges(place(held.adj), place(held.times))
            for edge_type, held in self.edges.items()
        }
        return HeteroGraph(nodes, edges)

    def to_pyg(self, task: NodeTask | None = None, *, homogeneous: bool = False) -> Any:
        """A ``torch_geometric.data.HeteroData`` (or ``Data``); see
        :mod:`recgraph.graph.exchange`.
        """
        return exchange.to_pyg(self.nodes, self.edges, task, homogeneous)

    @classmethod
    def from_pyg(cls, data: Any, node_type: str = "node", relation: str = "to") -> HeteroGraph:
        """From a ``torch_geometric.data.HeteroData``, or a ``Data`` with names for its one type of
        nodes and of edges. A LeftOutWarning names what is no part of a graph, as labels and masks.
        """
        return cls(*exchange.parts_of(exchange.stores_of_pyg(data, node_type, relation)))

    @classmethod
    def from_pyg_with_task(
        cls, data: Any, target: str | None = None, node_type: str = "node", relation: str = "to"
    ) -> tuple[HeteroGraph, NodeTask]:
        """The graph, and the task of the labels and masks of a type of nodes; without ``target`` of
        the one that has labels."""
        stores = exchange.stores_of_pyg(data, node_type, relation)
        return cls(*exchange.parts_of(stores, labels=True)), exchange.task_of(stores, target)

    def to_dgl(self, task: NodeTask | None = None) -> Any:
        """A DGL heterograph; see :mod:`recgraph.graph.exchange`."""
        return exchange.to_dgl(self.nodes, self.edges, self.device, task)

    @classmethod
    def from_dgl(cls, graph: Any, node_type: str = "node", relation: str = "to") -> HeteroGraph:
        """From a DGL graph, as :meth:`from_pyg`."""
        return cls(*exchange.parts_of(exchange.stores_of_dgl(graph, node_type, relation)))

    @classmethod
    def from_dgl_with_task(
        cls, graph: Any, target: str | None = None, node_type: str = "node", relation: str = "to"
    ) -> tuple[HeteroGraph, NodeTask]:
        """The graph, and the task of its labels and masks, as :meth:`from_pyg_with_task`."""
        stores = exchange.stores_of_dgl(graph, node_type, relation)
        return cls(*exchange.parts_of(stores, labels=True)), exchange.task_of(stores, target)

    def save(self, folder: str | Path) -> None:
        """Write all together; an earlier graph there is replaced. Files are numbered: names of
        types may hold what the name of a file cannot."""
        tensors: dict[str, Tensor] = {}
        of_nodes = []
        with replacing_folder(Path(folder)) as new:
            for number, held in enumerate(self.edges.values()):
                columns = {
                    "source": held.adj.rows,
                    "target": held.adj.indices,
                    "weight": held.adj.weights,
                    "time": held.times,
                }
                _write_columns(columns, new / f"edges_{number}.parquet")
            for number, (name, part) in enumerate(self.nodes.items()):
                description = {
                    "type": name,
                    "count": part.count,
                    "has_ids": part.ids is not None,
                    "width": part.n_features,
                }
                of_nodes.append(description)
                if part.ids is not None:
                    part.ids.write(new / f"ids_{number}.parquet")
                x = part.features
                # copies: types may share a tensor, which safetensors refuses
                if isinstance(x, Csr):
                    columns = {"column": x.indices.to(torch.int32), "weight": x.weights}
                    _write_columns(columns, new / f"features_{number}.parquet")
                    tensors[f"{number}.indptr"] = to_host(x.indptr).clone()
                elif x is not None:
                    tensors[f"{number}.dense"] = to_host(x).clone()
            write_tensors(tensors, new / "features.safetensors")
            head = {"format": _FORMAT, "nodes": of_nodes, "edges": list(self.edges)}
            write_json(head, new / _HEAD)

    @classmethod
    def load(cls, folder: str | Path) -> HeteroGraph:
        """Read what :meth:`save` wrote; a CorruptFileError where a file is damaged, or of another
        version.
        """
        folder = Path(folder)
        check_manifest(folder)
        head = read_object(folder / _HEAD)
        if head.get("format") != _FORMAT:
            raise CorruptFileError(
                f"format {head.get('format')!r} is not {_FORMAT}", path=folder / _HEAD
            )
        tensors = read_tensors(folder / "features.safetensors")
        nodes, edges = {}, {}
        for number, description in enumerate(head["nodes"]):
            count = description["count"]
            ids = None
            if description["has_ids"]:
                ids = IdMap.read(folder / f"ids_{number}.parquet")
            features: Tensor | Csr | None = tensors.get(f"{number}.dense")
            if f"{number}.indptr" in tensors:
                columns = _read_columns(folder / f"features_{number}.parquet")
                features = Csr(
                    tensors[f"{number}.indptr"],
                    columns["column"].to(torch.int64),
                    columns.get("weight"),
                    (count, description["width"]),
                ).checked()
            nodes[description["type"]] = Nodes(count, ids, features)
        for number, (source, relation, target) in enumerate(head["edges"]):
            columns = _read_columns(folder / f"edges_{number}.parquet")
            edge_type = (source, relation, target)
            edges[edge_type] = make_edges(
                edge_type,
                columns["source"],
                columns["target"],
                nodes=nodes,
                weights=columns.get("weight"),
                times=columns.get("time"),
            )
        return cls(nodes, edges)


def _ends(edge_type: EdgeType, pairs: Any) -> tuple[Tensor, Tensor]:
    """[E] int64 each: the sources and the targets of edges, given as a pair of lists or as [E, 2]."""
    if isinstance(pairs, tuple):
        ends = [numbers(end) for end in pairs]
    else:
        rows = numbers(pairs)
        ends = list(rows.reshape(-1, rows.shape[-1] or 2).unbind(1))
    # an empty list has no type of its own
    if len(ends) != 2 or any(end.is_floating_point() for end in ends if end.numel()):
        raise GraphError(f"edges {edge_type}: give (sources, targets) or [E, 2], integers")
    return ends[0].to(torch.int64), ends[1].to(torch.int64)


def _write_columns(columns: Mapping[str, Tensor | None], path: Path) -> None:
    arrays = {name: array_of(x) for name, x in columns.items() if x is not None}
    write_frame(pl.DataFrame(arrays), path)


def _read_columns(path: Path) -> dict[str, Tensor]:
    frame = read_frame(path)
    return {name: torch.from_numpy(frame[name].to_numpy().copy()) for name in frame.columns}


#: library -> what reads a graph of it
_READERS = {"torch_geometric": HeteroGraph.from_pyg, "dgl": HeteroGraph.from_dgl}
_TASK_READERS = {
    "torch_geometric": HeteroGraph.from_pyg_with_task,
    "dgl": HeteroGraph.from_dgl_with_task,
}


def _library(value: Any) -> str:
    return type(value).__module__.partition(".")[0]


def as_graph(graph: Any) -> Any:
    """A graph of PyTorch Geometric or of DGL as a :class:`HeteroGraph`; all else as it is."""
    reader = _READERS.get(_library(graph))
    return graph if reader is None else reader(graph)


def as_task(graph: Any) -> Any:
    """The labels and masks of a graph of PyTorch Geometric or of DGL as a task; all else as it
    is.
    """
    reader = _TASK_READERS.get(_library(graph))
    return graph if reader is None else reader(graph)[1]
