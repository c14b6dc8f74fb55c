"""The category of each item, by its features."""

from __future__ import annotations

import torch
from torch import Tensor

from recgraph.data.item_features import ItemFeatures

__all__ = ["item_categories"]


def item_categories(features: ItemFeatures) -> Tensor | None:
    """[n_items] int64: the value of the first column of categories, of several the first in its vocabulary.

    -1 for an item that has none; None: no column is of that kind.
    """
    first = 0
    for column in features.schema.columns:
        if column.kind == "category":
            values = features.entries.indices - first - 1
            held_mask = (values >= 0) & (values < len(column.values))
            none = torch.full((features.n_items,), len(column.values), device=values.device)
            found = none.scatter_reduce(0, features.entries.rows[held_mask], values[held_mask], "amin")
            return torch.where(found == len(column.values), -1, found)
        first += column.n_entries
    return None
