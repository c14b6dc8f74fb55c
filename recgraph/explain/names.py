"""What to call users, items and nodes."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import polars as pl
import torch

from recgraph.data.hetero import HeteroGraph
from recgraph.data.ids import IdMap
from recgraph.explain.explanation import Item, Node
from recgraph.serve.answer import feature_rows
from recgraph.serve.recommender import Recommender

__all__ = ["ItemNames", "about", "index_of", "node_of"]

#: columns of item features that are titles, the first that is there
_TITLES = ("title", "name", "movie_title", "item_name")
#: ids that are compared as texts with one that is not known, and direct neighbours that are told of a node
_COMPARED, _TOLD = 20_000, 10


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
            rarest = there[torch.argsort(matrix.t().degrees[there], stable=True)][:_TOLD]
            titles = tuple(node_of(graph, other, node).title for node in rarest.tolist())
            if titles:
                found[other] = (*found.get(other, ()), *titles)[:_TOLD]
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
