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

from recgraph.arguments import checked
from recgraph.evaluate.ranking import item_vectors_of
from recgraph.explain.explanation import Node
from recgraph.explain.items import Items, is_vector
from recgraph.explain.nodes import embedder_of, graph_of, node_of
from recgraph.explain.user import recommender_of
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.rng import numpy_generator
from recgraph.unit_length import unit_length

__all__ = ["Grouping", "ItemMap", "MapPoint", "Method", "item_map", "node_map"]

Method = Literal["pca", "tsne"]
#: t-SNE: perplexity, where there are enough points
_PERPLEXITY = 30
#: the most common values of a feature get a colour
_N_COLOURS = 7
#: variance of vectors of unit length up to which they are equal, but for rounding
_EQUAL = 1e-24
#: a feature is chosen where its coloured values cover this fraction of the nodes
_COVERED = 0.5


@dataclass(frozen=True)
class MapPoint:
    """A point of a map.

    Attributes:
        node: the item or node.
        x, y: coordinates.
        group: index into the map's groups, -1 for none.
    """

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
        variance: fractions of the variance on both axes (PCA), or None: also where all vectors are equal, which are
            then one point.
    """

    method: Method
    feature: str | None
    groups: tuple[str, ...]
    points: tuple[MapPoint, ...]
    n_vectors: int
    variance: tuple[float, float] | None

    @property
    def is_one_point(self) -> bool:
        """Whether all that is drawn lies in one place."""
        return len({(point.x, point.y) for point in self.points}) == 1

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
        run: a :class:`recgraph.runs.run.Run`, a recommender, or the folder of a run or of a bundle.
        color: a column of the item features, or a node type with edges to items; None chooses one.
        method: ``"pca"`` is fast and keeps large distances; ``"tsne"`` keeps neighbourhoods (some seconds for each
            thousand points).
        limit: the most points; the most popular items are kept.
        keep: ids of items that are always shown.
        seed: of t-SNE.

    Raises:
        ValueError: the model has no item vectors, or there is no such feature.
        MemoryLimitError: it would not fit into memory.
    """
    recommender = recommender_of(run)
    items = Items(recommender)
    vectors = item_vectors_of(recommender.model)
    if vectors is None:
        raise ValueError(
            f"{type(recommender.model).__name__} ranks by scores alone and has no item vectors: there is nothing to map"
        )
    space = recommender.model.space
    groupings = list(_column_groupings(items))
    if isinstance(space, GraphSpace):
        columns = {each.name for each in groupings}
        relations = _relation_groupings(space.graph.to("cpu"), "item")
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
        run: a :class:`recgraph.runs.run.NodeRun`, an embedder, or the folder of a run or of a bundle.
        color: a node type with edges to these nodes; None chooses one.
        limit: the most points, drawn by the seed.
        keep: indices of nodes that are always shown.

    Raises:
        ValueError: there is no such node type.
        MemoryLimitError: it would not fit into memory.
    """
    embedder = embedder_of(run)
    graph, target, vectors = graph_of(embedder), embedder.target, embedder.vectors
    order = _with_first(keep, torch.from_numpy(numpy_generator(seed, "map").permutation(len(vectors))))
    grouping = _choose(list(_relation_groupings(graph, target)), color, len(vectors))
    return _map(vectors, order, lambda index: node_of(graph, target, index), grouping, method, limit, seed)


def _with_first(kept: Sequence[int], order: Tensor) -> Tensor:
    """All indices of an order, with the given ones first; repeats are dropped."""
    first = torch.tensor(list(dict.fromkeys(kept)), dtype=torch.int64)
    return torch.cat([first, order[~torch.isin(order, first)]])


def _map(
    vectors: Tensor,
    order: Tensor,
    node: Callable[[int], Node],
    grouping: Grouping | None,
    method: Method,
    limit: int,
    seed: int,
) -> ItemMap:
    if method not in ("pca", "tsne"):
        raise ValueError(f"method = {method!r} must be 'pca' or 'tsne'")
    if limit < 3:
        raise ValueError(f"limit = {limit} must be at least 3")
    units = unit_length(vectors.to(torch.float64))
    nonzero_mask = units.any(1)
    n_vectors = int(nonzero_mask.sum())
    if n_vectors < 3 or units.shape[1] < 2:
        raise ValueError(f"a map needs three vectors of two dimensions; there are {n_vectors} of {units.shape[1]}")
    shown = order[nonzero_mask[order]][:limit].sort().values
    positions, variance = _project(units, nonzero_mask, shown, method, seed)
    groups, group_of = ((), [-1] * len(vectors)) if grouping is None else grouping.colours(len(vectors))
    points = tuple(
        MapPoint(node(index), float(x), float(y), group_of[index])
        for index, (x, y) in zip(shown.tolist(), positions, strict=True)
    )
    return ItemMap(method, None if grouping is None else grouping.name, groups, points, n_vectors, variance)


def _project(
    units: Tensor, nonzero_mask: Tensor, shown: Tensor, method: Method, seed: int
) -> tuple[npt.NDArray[np.float64], tuple[float, float] | None]:
    # axes are fitted to all vectors, so that they do not depend on which points are shown
    read = units[shown if method == "tsne" else nonzero_mask]
    if float(read.var(0).sum()) <= _EQUAL:  # there are no axes, and t-SNE would divide by 0
        return np.zeros((len(shown), 2)), None
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(_PERPLEXITY, (len(shown) - 1) / 3)
        model = TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1)
        return model.fit_transform(read.numpy()), None
    from sklearn.decomposition import PCA

    pca = PCA(n_components=2, svd_solver="covariance_eigh").fit(read.numpy())
    first, second = pca.explained_variance_ratio_.tolist()
    return pca.transform(units[shown].numpy()), (first, second)


@dataclass(frozen=True)
class Grouping:
    """The values of a feature; a node may have several.

    Attributes:
        name: the column or node type.
        nodes, values: [P] int64, pairs of a node and the index of a value that it has.
        titles: of the values.
    """

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


def _column_groupings(items: Items) -> Iterator[Grouping]:
    """The columns of lists and of text whose values are shared by two items on average."""
    table = items.features
    if table is None:
        return
    for column in table.columns:
        kind = table[column].dtype
        if column in (items.key, items.title) or not (isinstance(kind, pl.List) or kind == pl.String):
            continue
        if is_vector(kind):
            continue
        pairs = pl.DataFrame({"node": range(items.count), "value": pl.Series(items.column(column), dtype=kind)})
        pairs = (pairs.explode("value") if isinstance(kind, pl.List) else pairs).drop_nulls()
        values = pairs["value"].cast(pl.String)
        titles = values.unique(maintain_order=True)
        if len(values) >= 2 * len(titles) > 0:
            index_of = {title: index for index, title in enumerate(titles)}
            coded = np.array([index_of[value] for value in values], dtype=np.int64)
            yield Grouping(column, pairs["node"].to_numpy().astype(np.int64), coded, tuple(titles))


def _relation_groupings(graph: HeteroGraph, node_type: str) -> Iterator[Grouping]:
    """The node types with edges to a type, without users, items and the type itself."""
    for source, relation, end in graph.edge_types:
        adj = graph.adjacency((source, relation, end)).pattern()
        other, matrix = (end, adj) if source == node_type else (source, adj.t())
        if node_type not in (source, end) or other in (node_type, "user", "item"):
            continue
        ids, every = graph.nodes[other].ids, range(graph.count(other))
        titles = tuple(f"{own}" for own in (every if ids is None else ids.ids(every).to_list()))
        yield Grouping(other, matrix.rows.numpy(), matrix.indices.numpy(), titles)


def _choose(groupings: Sequence[Grouping], color: str | None, n_nodes: int) -> Grouping | None:
    """The feature that colours a map: the given one, else the first that covers enough nodes, else the widest.

    Raises:
        ValueError: there is no such feature; the message lists those that there are.
    """
    if color is not None:
        for grouping in groupings:
            if grouping.name == color:
                return grouping
        there = ", ".join(repr(grouping.name) for grouping in groupings) or "none"
        raise ValueError(f"color = {color!r} is no feature with values that several share; there are {there}")
    coverage = [grouping.coverage(n_nodes) for grouping in groupings]
    enough = [grouping for grouping, covered in zip(groupings, coverage, strict=True) if covered >= _COVERED]
    if enough or not groupings:
        return enough[0] if enough else None
    return groupings[coverage.index(max(coverage))]
