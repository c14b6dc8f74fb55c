"""The nodes nearest to a node by their embeddings, with the meta-paths between them; ids and titles of nodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from recgraph.config import checked
from recgraph.data.ids import IdMap
from recgraph.explain.evidence import Walks, evidence_for_node
from recgraph.explain.explanation import Near, Neighbour, Node, NodeExplanation, PathWeight
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.serve.bundle import Embedder
from recgraph.serve.recommender import load
from recgraph.sparse.blocks import unit_length

#: direct neighbours of a node that are shown, of each type
_MOST_RELATED = 10
#: cosines that are in memory at a time
_MOST_COSINES = 1 << 22


@checked
def explain_node(run: Any, node: Any, k: int = 10, *, n_paths: int = 3) -> NodeExplanation:
    """The nodes nearest to a node by their embeddings, and the paths between them along each meta-path.

    Args:
        run: a :class:`recgraph.train.run.NodeRun`, an embedder, or the folder of a run or of a bundle.
        node: the id of a node of the embedded type; its index where the graph has no ids.
        k: number of nearest nodes.
        n_paths: the most paths shown between two nodes along one meta-path.

    Raises:
        ValueError: the node is unknown, or there is no bundle of embeddings.
    """
    embedder = embedder_of(run)
    model, graph, target = embedder.model, graph_of(embedder), embedder.target
    ids = graph.nodes[target].ids or IdMap(pl.Series("id", range(graph.count(target)), dtype=pl.Int64))
    index = index_of(ids, node, "node")

    def name_of(node_type: str, place: int) -> Node:
        return node_of(graph, node_type, place)

    (found,) = nearest(embedder.vectors, torch.tensor([index]), k)
    weights = model.path_weights()
    others = [other for other, _ in found]
    by_path = [
        evidence_for_node(Walks(key.path, graph), weight, index, others, name_of, n_paths)
        for key, weight in weights.items()
    ]
    neighbours = []
    for rank, (other, cosine) in enumerate(found, 1):
        strongest = sorted((each[other] for each in by_path if other in each), key=lambda one: -one.score)
        neighbours.append(Neighbour(rank, Near(name_of(target, other), cosine), tuple(strongest)))
    return NodeExplanation(
        model=type(model).__name__,
        dataset=embedder.record.get("data", {}).get("dataset"),
        node=name_of(target, index),
        related=related_nodes(graph, target, index),
        neighbours=tuple(neighbours),
        path_weights=tuple(PathWeight(key.node_type, key.path, weight) for key, weight in weights.items()),
    )


def embedder_of(run: Any) -> Embedder:
    """The embedder of a run, of itself, or of the folder of a run or bundle.

    Raises:
        ValueError: it has none.
    """
    loaded = load(run) if isinstance(run, str | Path) else run
    embedder = getattr(loaded, "embedder", loaded)
    if not isinstance(embedder, Embedder):
        raise ValueError(f"run is a {type(embedder).__name__}, which embeds no nodes; see explain (--user ID)")
    return embedder


def graph_of(embedder: Embedder) -> HeteroGraph:
    """The graph that a model of nodes was built for."""
    space = embedder.model.space
    assert isinstance(space, GraphSpace)
    return space.graph.to("cpu")


def nearest(vectors: Tensor, rows: Tensor, k: int, among: Tensor | None = None) -> list[list[tuple[int, float]]]:
    """The k nearest others of some rows by cosine, best first; ties go by index.

    A vector of zeros (an item that was never trained) has no neighbours and is no neighbour. ``among``: the rows that
    may be neighbours, ascending. -> for each row pairs of index and cosine.
    """
    units = unit_length(vectors.to(torch.float64))
    candidates = torch.arange(len(vectors)) if among is None else among
    candidates = candidates[units[candidates].any(1)]
    found: list[list[tuple[int, float]]] = []
    for block in rows.split(max(_MOST_COSINES // max(len(candidates), 1), 1)):  # type: ignore[no-untyped-call]
        cosines = units[block] @ units[candidates].T
        for row, values in zip(block.tolist(), cosines, strict=True):
            values[candidates == row] = -torch.inf
            order = _first(values, k)
            best = order[values[order] > -torch.inf].tolist() if units[row].any() else []
            found.append([(int(candidates[place]), float(values[place])) for place in best])
    return found


def _first(values: Tensor, k: int) -> Tensor:
    """The places of the k greatest values, best first; ties go by place."""
    if k < len(values):
        least = values.topk(max(k, 1)).values[-1]
        places = (values >= least).nonzero()[:, 0]  # in order, with all that tie for the last place
        return places[torch.argsort(values[places], descending=True, stable=True)[:k]]
    return torch.argsort(values, descending=True, stable=True)


def node_of(graph: HeteroGraph, node_type: str, index: int) -> Node:
    """A node of a graph by its index."""
    ids = graph.nodes[node_type].ids
    own = index if ids is None else ids.ids([index]).to_list()[0]
    return Node(node_type, own, f"{own}")


def related_nodes(
    graph: HeteroGraph, node_type: str, index: int, exclude: Sequence[str] = ()
) -> dict[str, tuple[str, ...]]:
    """The direct neighbours of a node: node type -> titles, at most ten, those of the lowest degree first."""
    found: dict[str, tuple[str, ...]] = {}
    for source, relation, end in graph.edge_types:
        adj = graph.adjacency((source, relation, end))
        for own, other, matrix in ((source, end, adj), (end, source, adj.t())):
            if own != node_type or other in exclude or (own == other and matrix is not adj):
                continue
            neighbours = torch.unique(matrix.take_rows(torch.tensor([index])).indices)
            rarest = neighbours[torch.argsort(matrix.t().degrees[neighbours], stable=True)][:_MOST_RELATED]
            titles = tuple(node_of(graph, other, node).title for node in rarest.tolist())
            if titles:
                found[other] = (*found.get(other, ()), *titles)[:_MOST_RELATED]
    return found


def index_of(ids: IdMap, wanted: Any, argument: str) -> int:
    """The index of an id.

    Raises:
        ValueError: the id is unknown.
    """
    index = int(ids.index([wanted], argument)[0])
    if index < 0:
        raise ValueError(f"{argument} = {wanted!r} is not known; ids are like {ids.ids([0]).to_list()[0]!r}")
    return index
