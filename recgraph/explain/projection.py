"""A map of embeddings: two dimensions, coloured by a feature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph.evaluate.ranking import item_vectors_of
from recgraph.explain.explanation import Node
from recgraph.explain.names import Grouping, ItemNames, choose, node_of, of_columns, of_relations
from recgraph.explain.node import embedder_of, graph_of
from recgraph.explain.user import recommender_of
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.rng import numpy_generator

__all__ = ["ItemMap", "MapPoint", "Method", "item_map", "node_map"]

Method = Literal["pca", "tsne"]
#: points of t-SNE that count as neighbours, where there are enough
_PERPLEXITY = 30


@dataclass(frozen=True)
class MapPoint:
    """A point of a map.

    Attributes:
        node: whose it is.
        x, y: its place.
        group: place of its colour among the map's groups, -1 for none.
    """

    node: Node
    x: float
    y: float
    group: int


@dataclass(frozen=True)
class ItemMap:
    """A projection of embeddings, of unit length, to two dimensions.

    Attributes:
        method: ``"pca"`` or ``"tsne"``.
        feature: by which points are coloured, or None.
        groups: its most common values. Of several the rarest is taken.
        points: at most ``limit`` of those with a vector.
        n_vectors: how many have one (an item that was never trained has none).
        variance: shares of the variance on both axes (PCA), or None.
    """

    method: Method
    feature: str | None
    groups: tuple[str, ...]
    points: tuple[MapPoint, ...]
    n_vectors: int
    variance: tuple[float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """As nested dictionaries and lists."""
        return asdict(self)


def item_map(
    run: Any,
    *,
    color: str | None = None,
    method: Method = "pca",
    limit: int = 3000,
    keep: Sequence[Any] = (),
    seed: int = 0,
) -> ItemMap:
    """The items of a recommender by their vectors. The same call gives the same map on the same machine.

    Args:
        run: a :class:`recgraph.runs.run.Run`, a recommender, or the folder of a run or of a bundle.
        color: a column of the item features, or a node type that items are joined to; None chooses one.
        method: ``"pca"`` is fast and keeps distances in the large; ``"tsne"`` keeps neighbourhoods (some seconds a
            thousand points).
        limit: points at most, those that were had most often.
        keep: ids of items that are shown in any case.
        seed: of t-SNE.

    Raises:
        ValueError: the model has no item vectors, or there is no such feature.
    """
    recommender = recommender_of(run)
    names = ItemNames(recommender)
    vectors = item_vectors_of(recommender.model)
    if vectors is None:
        raise ValueError(
            f"{type(recommender.model).__name__} ranks by scores alone and has no item vectors: there is nothing to map"
        )
    space = recommender.model.space
    relations = list(of_relations(space.graph.to("cpu"), "item")) if isinstance(space, GraphSpace) else []
    columns = list(of_columns(names))
    known = {grouping.name for grouping in columns}
    found = columns + [grouping for grouping in relations if grouping.name not in known]
    kept = torch.from_numpy(recommender.items.index(list(keep))) if keep else torch.zeros(0, dtype=torch.int64)
    # those that must be shown, then the most popular
    order = torch.argsort(recommender.popularity, descending=True, stable=True)
    order = torch.cat([kept[kept >= 0], order[~torch.isin(order, kept)]])
    return _map(vectors.detach().to("cpu"), order, names.node, found, color, method, limit, seed)


def node_map(
    run: Any,
    *,
    color: str | None = None,
    method: Method = "pca",
    limit: int = 3000,
    keep: Sequence[int] = (),
    seed: int = 0,
) -> ItemMap:
    """The nodes that a model of a graph embeds; see :func:`item_map`.

    Args:
        run: a :class:`recgraph.runs.run.NodeRun`, an embedder, or the folder of a run or of a bundle.
        color: a node type that they are joined to; None chooses one.
        limit: points at most, drawn by the seed.
        keep: indices of nodes that are shown in any case.

    Raises:
        ValueError: there is no such node type.
    """
    embedder = embedder_of(run)
    graph, target = graph_of(embedder), embedder.target
    vectors = embedder.vectors
    kept = torch.tensor(list(keep), dtype=torch.int64)
    order = torch.from_numpy(numpy_generator(seed, "map").permutation(len(vectors)))
    order = torch.cat([kept, order[~torch.isin(order, kept)]])

    def node(index: int) -> Node:
        return node_of(graph, target, index)

    return _map(vectors, order, node, list(of_relations(graph, target)), color, method, limit, seed)


def _map(
    vectors: Tensor,
    order: Tensor,
    node: Any,
    groupings: list[Grouping],
    color: str | None,
    method: Method,
    limit: int,
    seed: int,
) -> ItemMap:
    if method not in ("pca", "tsne"):
        raise ValueError(f"method = {method!r} must be 'pca' or 'tsne'")
    if limit < 3:
        raise ValueError(f"limit = {limit} must be at least 3")
    grouping = choose(groupings, color, len(vectors))
    units = F.normalize(vectors.to(torch.float64), dim=1)
    there_mask = units.any(1)
    n_vectors = int(there_mask.sum())
    if n_vectors < 3 or units.shape[1] < 2:
        raise ValueError(f"a map needs three vectors of two dimensions; there are {n_vectors} of {units.shape[1]}")
    shown = order[there_mask[order]][:limit].sort().values
    places, variance = _projected(units, there_mask, shown, method, seed)
    groups, of = ((), [-1] * len(vectors)) if grouping is None else grouping.colours(len(vectors))
    points = tuple(
        MapPoint(node(index), float(x), float(y), of[index])
        for index, (x, y) in zip(shown.tolist(), places, strict=True)
    )
    return ItemMap(method, None if grouping is None else grouping.name, groups, points, n_vectors, variance)


def _projected(
    units: Tensor, there_mask: Tensor, shown: Tensor, method: Method, seed: int
) -> tuple[npt.NDArray[np.float64], tuple[float, float] | None]:
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(_PERPLEXITY, (len(shown) - 1) / 3)
        model = TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1)
        return model.fit_transform(units[shown].numpy()), None
    from sklearn.decomposition import PCA

    # of all vectors, so that a map does not depend on who is shown
    pca = PCA(n_components=2, svd_solver="covariance_eigh").fit(units[there_mask].numpy())
    first, second = pca.explained_variance_ratio_.tolist()
    return pca.transform(units[shown].numpy()), (first, second)
