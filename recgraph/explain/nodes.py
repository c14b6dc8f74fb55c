"""Nodes of a graph and items of a recommender with ids and titles, the nearest of them, and why
nodes are near.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from recgraph.config import checked
from recgraph.data.ids import IdMap
from recgraph.explain.explanation import Item, Near, Neighbour, Node, NodeExplanation, PathWeight
from recgraph.explain.paths import Walks, evidence_for_node
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.heterogeneous.base import GraphSpace, path_weights
from recgraph.serve.bundle import Embedder
from recgraph.serve.recommender import Recommender, load
from recgraph.sparse.blocks import unit_length

#: columns of item features that hold titles; the first that exists is used
_TITLES = ("title", "name", "movie_title", "item_name")
#: direct neighbours of a node that are shown, of each type
_MOST_RELATED = 10
#: cosines that are in memory at a time
_MOST_COSINES = 1 << 22


class Items:
    """The items of a recommender with their titles and features."""

    def __init__(self, recommender: Recommender) -> None:
        self._recommender, self._key = recommender, recommender.columns.item
        schema = {} if recommender.item_features is None else recommender.item_features.schema
        self._title = next((name for name in _TITLES if name in schema), "")
        # no vectors: hundreds of numbers, which say nothing to a reader
        self._columns = [name for name, dtype in schema.items() if not _is_vector(dtype)]
        self._items: dict[
            int, Item
        ] = {}  # by index: an item is named once for each that it is near

    def item(self, index: int) -> Item:
        """An item by its index."""
        if index not in self._items:
            columns = self._recommender.features_of(torch.tensor([index]), self._columns)
            values = {each.name: each.to_list()[0] for each in columns}
            (own,) = self._recommender.items.ids([index]).to_list()
            title = values.pop(self._title, None) or own  # an empty title names nothing
            fields = {name: _field(value) for name, value in values.items() if name != self._key}
            self._items[index] = Item(own, f"{title}", fields)
        return self._items[index]

    def node(self, index: int) -> Node:
        """An item as a node."""
        item = self.item(index)
        return Node("item", item.id, item.title)


def _is_vector(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.Array) or (isinstance(dtype, pl.List) and dtype.inner.is_float())


def _field(value: Any) -> Any:
    """A value as it is shown: a list as a tuple; NaN, with which pandas marks what is missing, as
    None.
    """
    if isinstance(value, list):
        return tuple(value)
    return None if isinstance(value, float) and math.isnan(value) else value


@checked
def explain_node(run: Any, node: Any, k: int = 10, *, n_paths: int = 3) -> NodeExplanation:
    """The nodes nearest to a node by their embeddings, and the paths between them along each
    meta-path.

    Args:
        run: a :class:`recgraph.train.run.NodeRun`, an embedder, or the folder of a run or of a
            bundle.
        node: the id of a node of the embedded type; its index where the graph has no ids.
        k: number of nearest nodes.
        n_paths: the most paths shown between two nodes along one meta-path.
    """
    embedder = embedder_of(run)
    model, target = embedder.model, embedder.target
    assert isinstance(model.space, GraphSpace)
    graph = model.space.graph.to("cpu")
    index = index_of(IdMap(embedder.embeddings()[target]), node, "node")
    name = partial(node_of, graph)
    (found,) = nearest(embedder.vectors, torch.tensor([index]), k)
    weights, others = path_weights(model), [other for other, _ in found]
    by_path = [
        evidence_for_node(Walks(key.path, graph), weight, index, others, name, n_paths)
        for key, weight in weights.items()
    ]
    neighbours = []
    for rank, (other, cosine) in enumerate(found, 1):
        strongest = sorted(
            (each[other] for each in by_path if other in each), key=lambda one: -one.score
        )
        neighbours.append(Neighbour(rank, Near(name(target, other), cosine), tuple(strongest)))
    return NodeExplanation(
        model=type(model).__name__,
        dataset=embedder.record.get("data", {}).get("dataset"),
        node=name(target, index),
        related=related_nodes(graph, target, index),
        neighbours=tuple(neighbours),
        path_weights=tuple(
            PathWeight(key.node_type, key.path, weight) for key, weight in weights.items()
        ),
    )


def recommender_of(run: Any) -> Recommender:
    """The recommender of a run, of itself, or of the folder of a run or bundle."""
    loaded = load(run) if isinstance(run, str | Path) else getattr(run, "recommender", run)
    if not isinstance(loaded, Recommender):
        raise ValueError(
            f"run is a {type(loaded).__name__}, which has no users; see explain_node (--node ID)"
        )
    return loaded


def embedder_of(run: Any) -> Embedder:
    """The embedder of a run, of itself, or of the folder of a run or bundle."""
    loaded = load(run) if isinstance(run, str | Path) else getattr(run, "embedder", run)
    if not isinstance(loaded, Embedder):
        raise ValueError(
            f"run is a {type(loaded).__name__}, which embeds no nodes; see explain (--user ID)"
        )
    return loaded


def nearest(
    vectors: Tensor, rows: Tensor, k: int, among: Tensor | None = None
) -> list[list[tuple[int, float]]]:
    """The k nearest others of some rows by cosine, best first, of those ``among`` (ascending) ->
    pairs of index and cosine; ties go by index. A vector of zeros (an item that was never trained)
    has no neighbours and is none."""
    units = unit_length(vectors.to(torch.float64))
    candidates = torch.arange(len(vectors)) if among is None else among
    candidates = candidates[units[candidates].any(1)]
    found: list[list[tuple[int, float]]] = []
    for block in rows.split(max(_MOST_COSINES // max(len(candidates), 1), 1)):  # type: ignore[no-untyped-call]
        cosines = units[block] @ units[candidates].T
        for row, values in zip(block.tolist(), cosines, strict=True):
            values[candidates == row] = -torch.inf
            places = torch.arange(len(values))
            if k < len(values):
                least = values.topk(max(k, 1)).values[-1]
                places = places[values >= least]  # in order, with all that tie for the last place
            order = places[torch.argsort(values[places], descending=True, stable=True)[:k]]
            best = order[values[order] > -torch.inf].tolist() if units[row].any() else []
            found.append([(int(candidates[place]), float(values[place])) for place in best])
    return found


def node_of(graph: HeteroGraph, node_type: str, index: int) -> Node:
    """A node of a graph by its index."""
    ids = graph.nodes[node_type].ids
    own = index if ids is None else ids.ids([index]).to_list()[0]
    return Node(node_type, own, f"{own}")


def related_nodes(
    graph: HeteroGraph, node_type: str, index: int, exclude: Sequence[str] = ()
) -> dict[str, tuple[str, ...]]:
    """The direct neighbours of a node: node type -> titles, at most ten, those of the lowest degree
    first.
    """
    found: dict[str, tuple[str, ...]] = {}
    for source, relation, end in graph.edge_types:
        adj = graph.adjacency((source, relation, end))
        for own, other, matrix in ((source, end, adj), (end, source, adj.t())):
            if own != node_type or other in exclude or (own == other and matrix is not adj):
                continue
            neighbours = torch.unique(matrix.take_rows(torch.tensor([index])).indices)
            rarest = neighbours[torch.argsort(matrix.t().degrees[neighbours], stable=True)][
                :_MOST_RELATED
            ]
            titles = tuple(node_of(graph, other, node).title for node in rarest.tolist())
            if titles:
                found[other] = (*found.get(other, ()), *titles)[:_MOST_RELATED]
    return found


def index_of(ids: IdMap, wanted: Any, argument: str) -> int:
    """The index of an id; an unknown one is refused."""
    index = int(ids.index([wanted], argument)[0])
    if index < 0:
        raise ValueError(
            f"{argument} = {wanted!r} is not known; ids are like {ids.ids([0]).to_list()[0]!r}"
        )
    return index
