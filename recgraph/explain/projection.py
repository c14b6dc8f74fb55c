"""Two-dimensional maps of embeddings, coloured by a feature of the items or nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from recgraph.config import checked
from recgraph.evaluate.ranking import item_vectors_of
from recgraph.explain.explanation import Node
from recgraph.explain.items import Items, is_vector
from recgraph.explain.nodes import embedder_of, graph_of, node_of
from recgraph.explain.user import recommender_of
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.rng import numpy_generator
from recgraph.sparse.blocks import unit_length

Method = Literal["pca", "tsne"]
#: t-SNE: perplexity, where there are enough points
_PERPLEXITY = 30
#: the most common values of a feature get a colour
_N_COLOURS = 7
#: a feature is chosen where its coloured values cover this fraction of the nodes
_COVERED = 0.5


@dataclass(frozen=True)
class MapPoint:
    """A point of a map; ``group`` is an index into the map's groups, -1 for none."""

    node: Node
    x: float
    y: float
    group: int


@dataclass(frozen=True)
class ItemMap:
    """A projection of embeddings of unit length to two dimensions.

    Attributes:
        method: ``"pca"`` or ``"tsne"``.
        feature: the feature that colours the points, or None.
        groups: its most common values. A point with several has the colour of the rarest of them.
        points: at most ``limit`` of the items or nodes that have a vector.
        n_vectors: how many have one (an item that was never trained has none).
        variance: fractions of the variance on both axes (PCA), or None.
    """

    method: Method
    feature: str | None
    groups: tuple[str, ...]
    points: tuple[MapPoint, ...]
    n_vectors: int
    variance: tuple[float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """As nested dictionaries and tuples."""
        return asdict(self)


@checked
def item_map(
    run: Any,
    *,
    color: str | None = None,
    method: Method = "pca",
    limit: int = 3000,
    keep: Sequence[Any] = (),
    seed: int = 0,
) -> ItemMap:
    """Map the items of a recommender by their vectors. The same call gives the same map on the same machine.

    Args:
        run: a :class:`recgraph.train.run.Run`, a recommender, or the folder of a run or of a bundle.
        color: a column of the item features, or a node type with edges to items; None chooses one.
        method: ``"pca"`` is fast and keeps large distances; ``"tsne"`` keeps neighbourhoods (some seconds for each
            thousand points).
        limit: the most points; the most popular items are kept.
        keep: ids of items that are always shown.
        seed: of t-SNE.

    Raises:
        ValueError: the model has no item vectors, or there is no such feature.
    """
    recommender = recommender_of(run)
    items = Items(recommender)
    vectors = item_vectors_of(recommender.model)
    if vectors is None:
        raise ValueError(f"run: {type(recommender.model).__name__} has no item vectors to map")
    groupings = list(_of_columns(items))
    if isinstance(recommender.model.space, GraphSpace):
        columns = {each.name for each in groupings}
        relations = _of_relations(recommender.model.space.graph.to("cpu"), "item")
        groupings += [each for each in relations if each.name not in columns]
    kept = [index for index in recommender.items.index(list(keep)).tolist() if index >= 0] if keep else []
    order = _with_first(kept, torch.argsort(recommender.popularity, descending=True, stable=True))
    grouping = _choose(groupings, color, len(vectors))
    return _map(vectors.detach().to("cpu"), order, items.node, grouping, method, limit, seed)


@checked
def node_map(
    run: Any,
    *,
    color: str | None = None,
    method: Method = "pca",
    limit: int = 3000,
    keep: Sequence[int] = (),
    seed: int = 0,
) -> ItemMap:
    """Map the nodes that a model of a graph embeds; see :func:`item_map`.

    Args:
        run: a :class:`recgraph.train.run.NodeRun`, an embedder, or the folder of a run or of a bundle.
        color: a node type with edges to these nodes; None chooses one.
        limit: the most points, drawn by the seed.
        keep: indices of nodes that are always shown.

    Raises:
        ValueError: there is no such node type.
    """
    embedder = embedder_of(run)
    graph, target, vectors = graph_of(embedder), embedder.target, embedder.vectors
    order = _with_first(keep, torch.from_numpy(numpy_generator(seed, "map").permutation(len(vectors))))
    grouping = _choose(list(_of_relations(graph, target)), color, len(vectors))
    return _map(vectors, order, lambda index: node_of(graph, target, index), grouping, method, limit, seed)


def _with_first(kept: Sequence[int], order: Tensor) -> Tensor:
    """All indices of an order, with the given ones first; repeats are dropped."""
    first = torch.tensor(list(dict.fromkeys(kept)), dtype=torch.int64)
    return torch.cat([first, order[~torch.isin(order, first)]])


def _map(
    vectors: Tensor,
    order: Tensor,
    node: Callable[[int], Node],
    grouping: _Grouping | None,
    method: Method,
    limit: int,
    seed: int,
) -> ItemMap:
    units = unit_length(vectors.to(torch.float64))
    has_vector_mask = units.any(1)
    shown = order[has_vector_mask[order]][:limit].sort().values
    positions, variance = _project(units, has_vector_mask, shown, method, seed)
    groups, group_of = ((), [-1] * len(vectors)) if grouping is None else grouping.colours(len(vectors))
    points = tuple(
        MapPoint(node(index), float(x), float(y), group_of[index])
        for index, (x, y) in zip(shown.tolist(), positions, strict=True)
    )
    feature = None if grouping is None else grouping.name
    return ItemMap(method, feature, groups, points, int(has_vector_mask.sum()), variance)


def _project(
    units: Tensor, has_vector_mask: Tensor, shown: Tensor, method: Method, seed: int
) -> tuple[npt.NDArray[np.float64], tuple[float, float] | None]:
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(_PERPLEXITY, (len(shown) - 1) / 3)
        model = TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1)
        return model.fit_transform(units[shown].numpy()), None
    from sklearn.decomposition import PCA

    # axes are fitted to all vectors, so that they do not depend on which points are shown
    pca = PCA(n_components=2, svd_solver="covariance_eigh").fit(units[has_vector_mask].numpy())
    first, second = pca.explained_variance_ratio_.tolist()
    return pca.transform(units[shown].numpy()), (first, second)


@dataclass(frozen=True)
class _Grouping:
    """The values of a feature, a column or node type: pairs [P] of a node and the index of a value that it has."""

    name: str
    nodes: npt.NDArray[np.int64]
    values: npt.NDArray[np.int64]
    titles: tuple[str, ...]

    def coloured(self) -> npt.NDArray[np.int64]:
        """The most common values, the most common first; ties go by index."""
        counts = np.bincount(self.values, minlength=len(self.titles))
        return np.argsort(-counts, kind="stable")[:_N_COLOURS]

    def coverage(self, n_nodes: int) -> float:
        """The fraction of nodes that have a coloured value."""
        return len(np.unique(self.nodes[np.isin(self.values, self.coloured())])) / max(n_nodes, 1)

    def colours(self, n_nodes: int) -> tuple[tuple[str, ...], list[int]]:
        """The coloured titles, and for each node the index of its title, -1 for none.

        A node with several coloured values gets the rarest: nearly every film is also a drama or a comedy.
        """
        coloured = self.coloured()
        found = np.full(n_nodes, -1)
        for index, value in enumerate(coloured):  # rarer values overwrite
            found[self.nodes[self.values == value]] = index
        return tuple(self.titles[value] for value in coloured), found.tolist()


def _of_columns(items: Items) -> Iterator[_Grouping]:
    """The columns of lists and of text whose values are shared by two items on average."""
    for column, kind in ({} if items.features is None else items.features.schema).items():
        if column in (items.key, items.title) or is_vector(kind) or not isinstance(kind, pl.List | pl.String):
            continue
        pairs = pl.DataFrame({"node": range(items.count), "value": pl.Series(items.column(column), dtype=kind)})
        pairs = (pairs.explode("value") if isinstance(kind, pl.List) else pairs).drop_nulls()
        values = pairs["value"].cast(pl.String)
        titles = values.unique(maintain_order=True)
        if len(values) >= 2 * len(titles) > 0:
            index_of = {title: index for index, title in enumerate(titles)}
            coded = np.array([index_of[value] for value in values], dtype=np.int64)
            yield _Grouping(column, pairs["node"].to_numpy().astype(np.int64), coded, tuple(titles))


def _of_relations(graph: HeteroGraph, node_type: str) -> Iterator[_Grouping]:
    """The node types with edges to a type, without users, items and the type itself."""
    for source, relation, end in graph.edge_types:
        adj = graph.adjacency((source, relation, end)).pattern()
        other, matrix = (end, adj) if source == node_type else (source, adj.t())
        if node_type not in (source, end) or other in (node_type, "user", "item"):
            continue
        ids, every = graph.nodes[other].ids, range(graph.count(other))
        titles = tuple(f"{own}" for own in (every if ids is None else ids.ids(every).to_list()))
        yield _Grouping(other, matrix.rows.numpy(), matrix.indices.numpy(), titles)


def _choose(groupings: Sequence[_Grouping], color: str | None, n_nodes: int) -> _Grouping | None:
    """The feature that colours a map: the given one, else the first that covers enough nodes, else the widest.

    Raises:
        ValueError: there is no such feature; the message lists those that there are.
    """
    if color is not None:
        named = {grouping.name: grouping for grouping in groupings}
        if color not in named:
            raise ValueError(f"color = {color!r} is no feature with shared values; there are {', '.join(named)}")
        return named[color]
    coverage = [grouping.coverage(n_nodes) for grouping in groupings]
    enough = [grouping for grouping, covered in zip(groupings, coverage, strict=True) if covered >= _COVERED]
    if enough or not groupings:
        return enough[0] if enough else None
    return groupings[coverage.index(max(coverage))]
