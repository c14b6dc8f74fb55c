"""An explanation as lines for a terminal, as rows for tables and programs, and as one HTML file with a map."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recgraph.config import checked
from recgraph.data.ids import IdMap
from recgraph.evaluate.ranking import item_vectors_of
from recgraph.explain.explanation import (
    Attributed,
    Evidence,
    Explanation,
    Item,
    Node,
    NodeExplanation,
    PathWeight,
    Recommendation,
    agreement_rows,
    faithfulness_rows,
)
from recgraph.explain.nodes import Items, graph_of, loaded_of, node_of, recommender_of
from recgraph.files import write_text
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.pages import environment
from recgraph.pages.charts import MAP, Chart, Mark, Scale, number
from recgraph.rng import numpy_generator
from recgraph.serve.bundle import Embedder
from recgraph.sparse.blocks import unit_length

Row = dict[str, Any]
#: columns of tables, which a feature of the same name does not replace
_OWN = ("rank", "item", "title", "score", "fitted to")
#: events of an attribution in a line
_MOST_EVENTS = 5
Projection = Literal["pca", "tsne"]
#: points of a map, at most
_MOST_POINTS = 3000
#: t-SNE: perplexity, where there are enough points
_PERPLEXITY = 30
#: the most common values of a feature get a colour
_N_COLOURS = 7
#: a feature whose coloured values cover this fraction of the nodes is as good as one that covers more
_COVERED = 0.5


def _walk(path: Sequence[Node]) -> str:
    """A path as text. A user's title follows the word "user", as the ids of users often are numbers."""
    return " > ".join(_text(node) for node in path)


def _text(node: Node) -> str:
    return f"user {node.title}" if node.type == "user" else node.title


def _item_rows(items: Sequence[Item]) -> list[Row]:
    """Ids, titles where items have titles, and features."""
    titled = any(item.title != f"{item.id}" for item in items)
    rows = []
    for item in items:
        fields = {name: value for name, value in item.fields.items() if name not in _OWN}
        rows.append({"item": item.id} | ({"title": item.title} if titled else {}) | fields)
    return rows


def history_rows(explanation: Explanation, most: int) -> list[Row]:
    """The last items of the history, the newest first."""
    shown = explanation.history[-most:][::-1]
    rows = _item_rows([each.item for each in shown])
    return [
        row | {"fitted to": "unknown" if each.fitted is None else each.fitted}
        for row, each in zip(rows, shown, strict=True)
    ]


def recommendation_rows(explanation: Explanation) -> list[Row]:
    """One row for each recommendation."""
    shown = explanation.recommendations
    rows = _item_rows([each.item for each in shown])
    return [{"rank": each.rank} | row | {"score": each.score} for row, each in zip(rows, shown, strict=True)]


def path_weight_rows(weights: Sequence[PathWeight]) -> list[Row]:
    """One row for each meta-path."""
    return [{"node type": each.side, "meta-path": each.path, "path weight": each.weight} for each in weights]


def why_rows(explanation: Explanation) -> Iterator[Row]:
    """One row for each recommendation and meta-path; an empty one where no meta-path leads to the item."""
    for each in explanation.recommendations:
        head = {"rank": each.rank, "item": each.item.id, "title": each.item.title, "score": each.score}
        parts = _parts(each)
        for found in each.evidence or (None,):
            adds = {} if not parts else {"adds": None if found is None else parts.get((found.side, found.path))}
            yield head | _evidence_row(found, adds)


def neighbour_rows(explanation: NodeExplanation) -> Iterator[Row]:
    """One row for each near node and meta-path; an empty one where no meta-path connects the two nodes."""
    for each in explanation.neighbours:
        head = {"rank": each.rank, explanation.node.type: each.near.node.id, "cosine": each.near.similarity}
        for found in each.evidence or (None,):
            yield head | _evidence_row(found, {})


def _evidence_row(found: Evidence | None, adds: Mapping[str, float | None]) -> Row:
    names = ("view of", "meta-path", "paths", "similarity", "place", "of", *adds, "through", "for instance")
    if found is None:
        return dict.fromkeys(names)
    through = "; ".join(_text(each.via) for each in found.connections)
    instance = next((_walk(path) for each in found.connections for path in each.paths), "")
    of_path = (found.side, found.path, found.count, found.score, found.rank, found.n_ranked)
    return dict(zip(names, (*of_path, *adds.values(), through, instance), strict=True))


def _parts(recommendation: Recommendation) -> dict[tuple[str, str], float]:
    return {(part.side, part.path): part.value for part in recommendation.parts}


def why_lines(explanation: Explanation) -> Iterator[str]:
    """The reasons for each recommendation, for a terminal."""
    for each in explanation.recommendations:
        yield f"{each.rank}. {each.item.title}"
        parts = _parts(each)
        if ("", "") in parts:
            yield f"   own vectors add {parts['', '']:+.3f} to the score {each.score:.3f}"
        for found in each.evidence:
            yield from _evidence_lines(found, parts.get((found.side, found.path)))
        for name, near in (("of the history", each.nearest_seen), ("of all", each.nearest)):
            if near:
                yield f"   nearest {name}: {'; '.join(f'{one.node.title} {one.similarity:.2f}' for one in near[:3])}"
        if each.attributed is not None:
            yield from _attribution_lines(each.attributed)


def _attribution_lines(found: Attributed) -> Iterator[str]:
    for one in found.methods:
        first = (f"{found.events[place].title} {one.values[place]:+.3f}" for place in one.order[:_MOST_EVENTS])
        yield f"   {one.method}: {'; '.join(first)}"


def neighbour_lines(explanation: NodeExplanation) -> Iterator[str]:
    """The paths between the node and each near node, for a terminal."""
    for each in explanation.neighbours:
        yield f"{each.rank}. {each.near.node.type} {each.near.node.title}, cosine {each.near.similarity:.3f}"
        for found in each.evidence:
            yield from _evidence_lines(found, None)


def _evidence_lines(found: Evidence, adds: float | None) -> Iterator[str]:
    added = "" if adds is None else f" adds {adds:+.3f};"
    yield (
        f"   {found.path}:{added} {found.count:,} path{'s' if found.count != 1 else ''}, "
        f"similarity {found.score:.3f}, rank {found.rank:,} of {found.n_ranked:,} by this path alone"
    )
    if found.connections:
        more = f" and {found.count - 1:,} more" if found.count > 1 else ""
        yield f"      {_walk(found.connections[0].paths[0])}{more}"


@checked
def write_page(explanation: Explanation | NodeExplanation, path: str | Path, item_map: ItemMap | None = None) -> Path:
    """Write the page as one file, replacing the file whole or not at all.

    Args:
        explanation: from :func:`explain` or :func:`explain_node`.
        path: of the file.
        item_map: from :func:`item_map`; None leaves the map out.
    """
    write_text(page(explanation, item_map), Path(path))
    return Path(path)


@checked
def page(explanation: Explanation | NodeExplanation, item_map: ItemMap | None = None) -> str:
    """The page as HTML."""
    of_user = isinstance(explanation, Explanation)
    templates = environment("explain")
    templates.filters |= {"number": number, "value_text": _value_text}
    return templates.get_template("user.html.j2" if of_user else "node.html.j2").render(
        it=explanation,
        at=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        map=item_map,
        svg="" if item_map is None else _map_svg(explanation, item_map),
        mean_parts=_mean_parts(explanation) if isinstance(explanation, Explanation) else {},
        agreement=agreement_rows(explanation.attributed) if isinstance(explanation, Explanation) else [],
        faithful=faithfulness_rows(explanation.attributed) if isinstance(explanation, Explanation) else [],
    )


def _map_svg(explanation: Explanation | NodeExplanation, item_map: ItemMap) -> str:
    """The map: recommendations or near nodes carry their rank, history items a ring; both lie on top."""
    if isinstance(explanation, Explanation):
        labels = {each.item.id: f"{each.rank}" for each in explanation.recommendations}
        ringed = {each.item.id for each in explanation.history}
    else:
        labels = {explanation.node.id: "•"} | {each.near.node.id: f"{each.rank}" for each in explanation.neighbours}
        ringed = set()
    layers: dict[str, list[Mark]] = {"plain": [], "ringed": [], "marked": []}
    for point in item_map.points:
        own = point.node.id
        layer = "marked" if own in labels else "ringed" if own in ringed else "plain"
        kind = layer if layer == "marked" else f"{layer} g{point.group}"
        text = point.node.title if point.group < 0 else f"{point.node.title} ({item_map.groups[point.group]})"
        layers[layer].append(Mark(point.x, point.y, kind, text, label=labels.get(own, "")))
    by = f", coloured by {item_map.feature}" if item_map.feature else ""
    title = f"Map of {len(item_map.points)} embeddings in two dimensions{by}; {len(layers['marked'])} are marked"
    x, y = (Scale.of([getattr(point, axis) for point in item_map.points]) for axis in ("x", "y"))
    marks = [mark for layer in layers.values() for mark in layer]
    return str(Chart(title, x, y, marks=marks, layout=MAP))


def _mean_parts(explanation: Explanation) -> dict[tuple[str, str], float]:
    """(side, path) of each meta-path -> what it adds to a score, the mean over the recommendations."""
    means: dict[tuple[str, str], float] = defaultdict(float)
    for each in explanation.recommendations:
        for key, value in _parts(each).items():
            means[key] += value / len(explanation.recommendations)
    return dict(means)


def _value_text(value: Any) -> str:
    if value is None:
        return ""
    return ", ".join(f"{part}" for part in value) if isinstance(value, tuple) else f"{value}"


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
        points: at most 3,000 of the items or nodes that have a vector.
        n_vectors: how many have one (an item that was never trained has none).
        variance: fractions of the variance on both axes (PCA), or None.
    """

    method: Projection
    feature: str | None
    groups: tuple[str, ...]
    points: tuple[MapPoint, ...]
    n_vectors: int
    variance: tuple[float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """As nested dictionaries and tuples."""
        return asdict(self)


@checked
def item_map(run: Any, *, color: str | None = None, method: Projection = "pca", keep: Sequence[Any] = ()) -> ItemMap:
    """Map the items of a recommender, or the nodes that a model of a graph embeds, by their vectors.

    The same call gives the same map on the same machine. Of many items the most popular are drawn, of many nodes some
    at random.

    Args:
        run: a :class:`recgraph.train.run.Run` or ``NodeRun``, a recommender, an embedder, or the folder of a run or of
            a bundle.
        color: a column of the item features, or a node type with edges to the items or nodes; None chooses one.
        method: ``"pca"`` is fast and keeps large distances; ``"tsne"`` keeps neighbourhoods (some seconds for each
            thousand points).
        keep: ids of items or nodes that are always shown.

    Raises:
        ValueError: the model has no item vectors, or there is no such feature.
    """
    loaded = loaded_of(run)
    if isinstance(loaded, Embedder):
        graph, target, vectors = graph_of(loaded), loaded.target, loaded.vectors
        ids, features = IdMap(loaded.embeddings()[target]), _relations(graph, target)
        order = torch.from_numpy(numpy_generator(0, "map").permutation(len(vectors)))

        def node(index: int) -> Node:
            return node_of(graph, target, index)

    else:
        recommender = recommender_of(loaded)
        items, ids, space = Items(recommender), recommender.items, recommender.model.space
        if (found := item_vectors_of(recommender.model)) is None:
            raise ValueError(f"run: {type(recommender.model).__name__} has no item vectors to map")
        vectors, node = found.detach().to("cpu"), items.node
        order = torch.argsort(recommender.popularity, descending=True, stable=True)
        features = _shared_columns(items, len(ids))
        if isinstance(space, GraphSpace):
            features = features | _relations(space.graph.to("cpu"), "item") | features
    units = unit_length(vectors.to(torch.float64))
    has_vector_mask = units.any(1)
    kept = torch.from_numpy(ids.index(list(keep)))
    first = torch.tensor([*dict.fromkeys(kept[kept >= 0].tolist())], dtype=torch.int64)
    order = torch.cat([first, order[~torch.isin(order, first)]])
    shown = order[has_vector_mask[order]][:_MOST_POINTS].sort().values
    feature, groups, group_of = _coloured(features, color, len(vectors))
    places, variance = _project(units[has_vector_mask], units[shown], method)
    points = tuple(
        MapPoint(node(index), float(x), float(y), int(group_of[index]))
        for index, (x, y) in zip(shown.tolist(), places, strict=True)
    )
    return ItemMap(method, feature, groups, points, int(has_vector_mask.sum()), variance)


def _project(units: Tensor, shown: Tensor, method: Projection) -> tuple[Any, tuple[float, float] | None]:
    """[P, 2] the places of the shown vectors, and by PCA the fractions of the variance on both axes."""
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(_PERPLEXITY, (len(shown) - 1) / 3)
        return TSNE(perplexity=perplexity, init="pca", random_state=0, n_jobs=1).fit_transform(shown.numpy()), None
    from sklearn.decomposition import PCA

    # axes are fitted to all vectors, so that they do not depend on which points are shown
    pca = PCA(n_components=2, svd_solver="covariance_eigh").fit(units.numpy())
    first, second = pca.explained_variance_ratio_.tolist()
    return pca.transform(shown.numpy()), (first, second)


#: nodes [P] and the values that they have, as texts [P]: a node may have several
_Pairs = tuple[np.ndarray, pl.Series]


def _shared_columns(items: Items, n_items: int) -> dict[str, _Pairs]:
    """The columns of lists and of text whose values are shared by two items on average."""
    found = {}
    for column in items.columns(torch.arange(n_items)):
        if column.name in items.own or not isinstance(column.dtype, pl.List | pl.String):
            continue
        pairs = pl.DataFrame([pl.Series("node", range(n_items)), column.alias("value")])
        pairs = (pairs.explode("value") if isinstance(column.dtype, pl.List) else pairs).drop_nulls()
        if pairs.height >= 2 * pairs["value"].n_unique() > 0:
            found[column.name] = (pairs["node"].to_numpy(), pairs["value"].cast(pl.String))
    return found


def _relations(graph: HeteroGraph, node_type: str) -> dict[str, _Pairs]:
    """The node types with edges to a type, without users, items and the type itself."""
    found = {}
    for source, relation, end in graph.edge_types:
        adj = graph.adjacency((source, relation, end)).pattern()
        other, matrix = (end, adj) if source == node_type else (source, adj.t())
        if node_type in (source, end) and other not in (node_type, "user", "item"):
            titles = pl.Series([node_of(graph, other, index).title for index in range(graph.count(other))])
            found[other] = (matrix.rows.numpy(), titles.gather(matrix.indices.numpy()))
    return found


def _coloured(
    features: Mapping[str, _Pairs], color: str | None, n_nodes: int
) -> tuple[str | None, tuple[str, ...], np.ndarray]:
    """The feature that colours a map, its most common values, and for each node the index of one of them, or -1."""
    if color is not None:
        if color not in features:
            raise ValueError(f"color = {color!r} is no feature with shared values; there are {', '.join(features)}")
        features = {color: features[color]}
    best: tuple[str | None, tuple[str, ...], np.ndarray] = None, (), np.full(n_nodes, -1)
    best_coverage = -1.0
    for name, (nodes, values) in features.items():
        counts = values.alias("value").to_frame().group_by("value", maintain_order=True).len()
        groups = counts.sort("len", descending=True, maintain_order=True)["value"].head(_N_COLOURS).to_list()
        group_of = np.full(n_nodes, -1)
        for index, value in enumerate(groups):  # the rarest wins: nearly every film is also a drama or a comedy
            group_of[nodes[(values == value).to_numpy()]] = index
        coverage = min(float((group_of >= 0).mean()), _COVERED)
        if coverage > best_coverage:
            best, best_coverage = (name, tuple(groups), group_of), coverage
    return best
