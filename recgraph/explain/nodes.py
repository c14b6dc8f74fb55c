"""Nodes of a graph and items of a recommender with ids and titles, the nearest of them, and why
nodes are near.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from polars import selectors
from torch import Tensor

from recgraph.config import checked
from recgraph.data.ids import IdMap
from recgraph.evaluate.topk import NO_SCORE, merge
from recgraph.explain.explanation import (
    Evidence,
    Item,
    Near,
    Neighbour,
    Node,
    NodeExplanation,
    PathWeight,
)
from recgraph.explain.paths import Walks, evidence_for_node
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.base import PathKey
from recgraph.models.heterogeneous.base import GraphSpace, path_weights
from recgraph.serve.bundle import Embedder
from recgraph.serve.recommender import Recommender, load
from recgraph.sparse.blocks import unit_length

_VECTORS = selectors.array() | selectors.list(selectors.float())
#: columns of item features that hold titles; the first that exists is used
_TITLES = ("title", "name", "movie_title", "item_name")
#: direct neighbours of a node that are shown, of each type
_MOST_RELATED = 10
#: cosines that are in memory at a time
_MOST_COSINES = 1 << 22


class Items:
    """The items of a recommender with their titles and features."""

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender
        self._columns: list[str] = []
        if recommender.item_features is not None:
            # no vectors: hundreds of numbers, which say nothing to a reader
            self._columns = recommender.item_features.select(~_VECTORS).columns
        self._title = next(filter(self._columns.__contains__, _TITLES), "")
        # by index: an item is named once for each that it is near
        self._items: dict[int, Item] = {}

    def item(self, index: int) -> Item:
        """An item by its index."""
        if index not in self._items:
            columns = self._recommender.features_of(torch.tensor([index]), self._columns)
            fields = {column.name: _field(column.to_list()[0]) for column in columns}
            fields.pop(self._recommender.columns.item, None)
            (item_id,) = self._recommender.items.ids([index]).to_list()
            title = fields.pop(self._title, None) or item_id  # an empty title names nothing
            self._items[index] = Item(item_id, f"{title}", fields)
        return self._items[index]

    def node(self, index: int) -> Node:
        """An item as a node."""
        item = self.item(index)
        return Node("item", item.id, item.title)


def _field(value: Any) -> Any:
    """A value as it is shown: a list as a tuple; NaN, with which pandas marks what is missing, as
    None.
    """
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, float) and math.isnan(value):
        return None
    return value


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
    model = embedder.model
    target = embedder.target
    assert isinstance(model.space, GraphSpace)
    graph = model.space.graph.to("cpu")
    index = index_of(IdMap(embedder.embeddings()[target]), node, "node")
    name = partial(node_of, graph)
    (near,) = nearest(embedder.vectors, torch.tensor([index]), k)
    evidence: dict[int, list[Evidence]] = {other: [] for other, _ in near}
    weights = path_weights(model)
    for key, weight in weights.items():
        walks = Walks(key.path, graph)
        by_node = evidence_for_node(walks, weight, index, list(evidence), name, n_paths)
        for other, path_evidence in by_node.items():
            evidence[other].append(path_evidence)
    neighbours = []
    for rank, (other, cosine) in enumerate(near, 1):
        strongest = sorted(evidence[other], key=attrgetter("score"), reverse=True)
        neighbours.append(Neighbour(rank, Near(name(target, other), cosine), tuple(strongest)))
    return NodeExplanation(
        model=type(model).__name__,
        dataset=embedder.record.get("data", {}).get("dataset"),
        node=name(target, index),
        related=related_nodes(graph, target, index),
        neighbours=tuple(neighbours),
        path_weights=named_path_weights(weights),
    )


def named_path_weights(weights: Mapping[PathKey, float]) -> tuple[PathWeight, ...]:
    """The weights of a model's meta-paths."""
    return tuple(PathWeight(key.node_type, key.path, weight) for key, weight in weights.items())


def recommender_of(run: Any) -> Recommender:
    """The recommender of a run, of itself, or of the folder of a run or bundle."""
    recommender = _loaded(run, "recommender")
    if not isinstance(recommender, Recommender):
        raise ValueError(
            f"run is a {type(recommender).__name__}, which has no users; see explain_node (--node ID)"
        )
    return recommender


def embedder_of(run: Any) -> Embedder:
    """The embedder of a run, of itself, or of the folder of a run or bundle."""
    embedder = _loaded(run, "embedder")
    if not isinstance(embedder, Embedder):
        raise ValueError(
            f"run is a {type(embedder).__name__}, which embeds no nodes; see explain (--user ID)"
        )
    return embedder


def _loaded(run: Any, part: str) -> Any:
    if isinstance(run, str | Path):
        return load(run)
    return getattr(run, part, run)


def nearest(
    vectors: Tensor, rows: Tensor, k: int, among: Tensor | None = None
) -> list[list[tuple[int, float]]]:
    """The k nearest others of some rows by cosine, best first, of those ``among`` (ascending) ->
    pairs of index and cosine; ties go by index. A vector of zeros (an item that was never trained)
    has no neighbours and is none."""
    units = unit_length(vectors.to(torch.float64))
    has_vector_mask = units.any(1)
    if among is None:
        among = torch.arange(len(vectors))
    candidates = among[has_vector_mask[among]]
    neighbours = []
    for block in rows.split(max(_MOST_COSINES // max(len(candidates), 1), 1)):  # type: ignore[no-untyped-call]
        cosines = units[block] @ units[candidates].T
        missing_mask = (candidates == block[:, None]) | ~has_vector_mask[block, None]
        indices = candidates.expand_as(cosines).masked_fill(missing_mask, -1)
        cosines, indices = merge(cosines.masked_fill(missing_mask, NO_SCORE), indices, k)
        for row in zip(indices.tolist(), cosines.tolist(), strict=True):
            pairs = zip(*row, strict=True)
            neighbours.append([(index, cosine) for index, cosine in pairs if index >= 0])
    return neighbours


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
    related: dict[str, tuple[str, ...]] = {}
    for source, relation, end in graph.edge_types:
        adj = graph.adjacency((source, relation, end))
        directions = [(source, end, adj), (end, source, adj.t())]
        if source == end:
            directions.pop()
        for start, other, matrix in directions:
            if start != node_type or other in exclude:
                continue
            neighbours = torch.unique(matrix.take_rows(torch.tensor([index])).indices)
            by_degree = torch.argsort(matrix.t().degrees[neighbours], stable=True)
            rarest = neighbours[by_degree][:_MOST_RELATED]
            for node in rarest.tolist():
                titles = related.get(other, ())
                related[other] = (*titles, node_of(graph, other, node).title)[:_MOST_RELATED]
    return related


def index_of(ids: IdMap, wanted: Any, argument: str) -> int:
    """The index of an id; an unknown one is refused."""
    index = int(ids.index([wanted], argument)[0])
    if index < 0:
        raise ValueError(
            f"{argument} = {wanted!r} is not known; ids are like {ids.ids([0]).to_list()[0]!r}"
        )
    return index
