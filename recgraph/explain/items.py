"""The items of a recommender with their titles and features."""

from __future__ import annotations

import math
from typing import Any

import polars as pl

from recgraph.data.item_features import feature_rows
from recgraph.explain.explanation import Item, Node
from recgraph.serve.recommender import Recommender

#: columns of item features that hold titles; the first that exists is used
_TITLES = ("title", "name", "movie_title", "item_name")


class Items:
    """The items of a recommender with their titles and features.

    Attributes:
        count: number of items.
        features: one row an item, or None.
        key, title: the columns with the ids and with the titles (None: there is none).
    """

    def __init__(self, recommender: Recommender) -> None:
        self._ids, self.features = recommender.items, recommender.item_features
        self.count = len(self._ids)
        self.key = recommender.columns.item
        self._items: dict[int, Item] = {}  # by index: an item is named once for each that it is near
        self.title: str | None = None
        self._columns: list[str] = []
        if self.features is not None:
            self._rows = feature_rows(self._ids, self.features[self.key])
            self.title = next((name for name in _TITLES if name in self.features.columns), None)
            own = (self.key, self.title)
            # no vectors: hundreds of numbers, which say nothing to a reader
            shown = (name for name, dtype in self.features.schema.items() if not is_vector(dtype))
            self._columns = [name for name in shown if name not in own]

    def item(self, index: int) -> Item:
        """An item by its index."""
        if index not in self._items:
            self._items[index] = self._read(index)
        return self._items[index]

    def _read(self, index: int) -> Item:
        own = self._ids.ids([index]).to_list()[0]
        row = -1 if self.features is None else int(self._rows[index])
        if self.features is None or row < 0:
            return Item(own, f"{own}", dict.fromkeys(self._columns))
        values = self.features.row(row, named=True)
        title = None if self.title is None else values[self.title]
        fields = {name: _field(values[name]) for name in self._columns}
        # an empty title names nothing
        return Item(own, f"{own if title is None or title == '' else title}", fields)

    def node(self, index: int) -> Node:
        """An item as a node."""
        item = self.item(index)
        return Node("item", item.id, item.title)

    def column(self, name: str) -> list[Any]:
        """[n_items]: a column of the features by item index; None where an item has no features."""
        assert self.features is not None
        return self.features[name].gather(pl.Series(self._rows.numpy()).replace(-1, None)).to_list()


def is_vector(dtype: pl.DataType) -> bool:
    """Whether a column holds an embedding of each item, not values that items share."""
    return isinstance(dtype, pl.Array) or (isinstance(dtype, pl.List) and dtype.inner.is_float())


def _field(value: Any) -> Any:
    """A value as it is shown: a list as a tuple; NaN, with which pandas marks what is missing, as None."""
    if isinstance(value, list):
        return tuple(value)
    return None if isinstance(value, float) and math.isnan(value) else value
