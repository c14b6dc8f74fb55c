"""Names of users, items and nodes, and the features by which the points of a map are coloured."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from recgraph.data.ids import IdMap
from recgraph.explain.explanation import Item, Node
from recgraph.graph.hetero import HeteroGraph
from recgraph.serve.recommender import Recommender
from recgraph.serve.request import feature_rows

__all__ = ["COLOURED", "Grouping", "ItemNames", "about", "choose", "index_of", "node_of", "of_columns", "of_relations"]


#: columns of item features that are titles, the first that is there
_TITLES = ("title", "name", "movie_title", "item_name")
#: ids that are compared as texts with one that is not known, and direct neighbours of a node that are shown
_COMPARED, _MOST_NEIGHBOURS = 20_000, 10


class ItemNames:
    """The items of a recommender with their titles and features.

    Attributes:
        count: how many items there are.
        features: a row an item, or None.
        key, title: the columns with the ids and with the titles (None: there is none).
    """

    def __init__(self, recommender: Recommender) -> None:
        self._ids, self.features = recommender.items, recommender.item_features
        self.count = len(self._ids)
        self.key = recommender.columns.item
        self.title: str | None = None
        self._columns: Sequence[str] = ()
        if self.features is not None:
            self._rows = feature_rows(self._ids, self.features[self.key])
            self.title = next((name for name in _TITLES if name in self.features.columns), None)
            self._columns = [name for name in self.features.columns if name not in (self.key, self.title)]

    def item(self, index: int) -> Item:
        """An item by its index."""
        own = self._ids.ids([index]).to_list()[0]
        row = -1 if self.features is None else int(self._rows[index])
        if self.features is None or row < 0:
            return Item(own, f"{own}", dict.fromkeys(self._columns))
        values = self.features.row(row, named=True)
        title = values[self.title] if self.title is not None else None
        fields = {name: _plain(values[name]) for name in self._columns}
        return Item(own, f"{own}" if title is None else f"{title}", fields)

    def node(self, index: int) -> Node:
        """An item as a node."""
        item = self.item(index)
        return Node("item", item.id, item.title)

    def column(self, name: str) -> list[Any]:
        """[n_items]: a column of the features in the order of the indices; None where an item has none."""
        assert self.features is not None
        return self.features[name].gather(pl.Series(self._rows.numpy()).replace(-1, None)).to_list()


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def node_of(graph: HeteroGraph, node_type: str, index: int) -> Node:
    """A node of a graph by its index."""
    ids = graph.nodes[node_type].ids
    own = index if ids is None else ids.ids([index]).to_list()[0]
    return Node(node_type, own, f"{own}")


def about(graph: HeteroGraph, node_type: str, index: int, without: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """The direct neighbours of a node: node type -> titles, at most ten, the rarest first.

    Args:
        without: node types that are left out.
    """
    found: dict[str, tuple[str, ...]] = {}
    for source, relation, end in graph.edge_types:
        adj = graph.adjacency((source, relation, end))
        for own, other, matrix in ((source, end, adj), (end, source, adj.t())):
            if own != node_type or other in without or (own == other and matrix is not adj):
                continue
            there = torch.unique(matrix.take_rows(torch.tensor([index])).indices)
            rarest = there[torch.argsort(matrix.t().degrees[there], stable=True)][:_MOST_NEIGHBOURS]
            titles = tuple(node_of(graph, other, node).title for node in rarest.tolist())
            if titles:
                found[other] = (*found.get(other, ()), *titles)[:_MOST_NEIGHBOURS]
    return found


def index_of(ids: IdMap | None, count: int, wanted: Any, what: str) -> int:
    """The index of a user or a node.

    Args:
        ids: the map; None where the index is the id.
        count: how many there are.
        wanted: the id.
        what: how it is called in an error, such as ``"user"``.

    Raises:
        ValueError: it is not known; names the nearest ids.
    """
    known = IdMap(pl.Series("id", range(count), dtype=pl.Int64)) if ids is None else ids
    index = int(known.index([wanted])[0])
    if index < 0:
        near = ", ".join(f"{value!r}" for value in _nearest(known, wanted))
        raise ValueError(f"{what} = {wanted!r} is not among the {count:,} {what}s of this run; the nearest are {near}")
    return index


def _nearest(ids: IdMap, wanted: Any, n: int = 3) -> list[Any]:
    values = ids.values
    if values.dtype.is_numeric() and isinstance(wanted, int | float):
        gaps = (values.cast(pl.Float64) - wanted).abs()
        return values.gather(gaps.arg_sort()[:n]).sort().to_list()
    texts = {f"{value}": value for value in ids.ids(range(min(len(ids), _COMPARED))).to_list()}
    close = difflib.get_close_matches(f"{wanted}", list(texts), n=n, cutoff=0.0)
    return [texts[text] for text in close]


#: values that get a colour of their own, the most common ones
COLOURED = 7
#: share of the nodes that the coloured values of a feature are to have
_COVERED = 0.5


@dataclass(frozen=True)
class Grouping:
    """A feature with its values.

    Attributes:
        name: of the column or node type.
        nodes, values: [P] int64, which node has which value.
        titles: of the values.
    """

    name: str
    nodes: npt.NDArray[np.int64]
    values: npt.NDArray[np.int64]
    titles: tuple[str, ...]

    def coloured(self) -> npt.NDArray[np.int64]:
        """The most common values, the most common first; equals by their number."""
        counts = np.bincount(self.values, minlength=len(self.titles))
        return np.argsort(-counts, kind="stable")[:COLOURED]

    def coverage(self, n_nodes: int) -> float:
        """The share of nodes that have a coloured value."""
        return len(np.unique(self.nodes[np.isin(self.values, self.coloured())])) / max(n_nodes, 1)

    def colours(self, n_nodes: int) -> tuple[tuple[str, ...], list[int]]:
        """The coloured titles, and for each node the place of its value among them, -1 for none.

        Of several coloured values the rarest is taken: nearly every film is a drama or a comedy, too.
        """
        chosen = self.coloured()
        found = np.full(n_nodes, -1)
        for place, value in enumerate(chosen):  # rarer ones overwrite
            found[self.nodes[self.values == value]] = place
        return tuple(self.titles[value] for value in chosen), found.tolist()


def of_columns(names: ItemNames) -> Iterator[Grouping]:
    """Columns of lists and of texts, of which at least two items have the same value on average."""
    table = names.features
    if table is None:
        return
    for column in table.columns:
        kind = table[column].dtype
        if column in (names.key, names.title) or not (isinstance(kind, pl.List) or kind == pl.String):
            continue
        pairs = pl.DataFrame({"node": range(names.count), "value": pl.Series(names.column(column), dtype=kind)})
        pairs = (pairs.explode("value") if isinstance(kind, pl.List) else pairs).drop_nulls()
        values = pairs["value"].cast(pl.String)
        titles = values.unique(maintain_order=True)
        if len(values) >= 2 * len(titles) > 0:
            number = dict(zip(titles, range(len(titles)), strict=True))
            coded = np.array([number[value] for value in values], dtype=np.int64)
            yield Grouping(column, pairs["node"].to_numpy().astype(np.int64), coded, tuple(titles))


def of_relations(graph: HeteroGraph, node_type: str) -> Iterator[Grouping]:
    """The node types that a type is joined to, users and itself left out."""
    for source, relation, end in graph.edge_types:
        adj = graph.adjacency((source, relation, end)).pattern()
        other, matrix = (end, adj) if source == node_type else (source, adj.t())
        if node_type not in (source, end) or other in (node_type, "user", "item"):
            continue
        titles = tuple(node_of(graph, other, node).title for node in range(graph.count(other)))
        yield Grouping(other, matrix.rows.numpy(), matrix.indices.numpy(), titles)


def choose(found: list[Grouping], wanted: str | None, n_nodes: int) -> Grouping | None:
    """The feature to colour by: the one that is asked for, else the first whose common values most nodes have.

    Raises:
        ValueError: there is no such feature; names those that there are.
    """
    if wanted is not None:
        for grouping in found:
            if grouping.name == wanted:
                return grouping
        there = ", ".join(repr(grouping.name) for grouping in found) or "none"
        raise ValueError(f"color = {wanted!r} is no feature with values that several share; there are {there}")
    covered = [grouping.coverage(n_nodes) for grouping in found]
    enough = [place for place, share in enumerate(covered) if share >= _COVERED]
    if not found:
        return None
    return found[enough[0] if enough else covered.index(max(covered))]
