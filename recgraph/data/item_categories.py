"""The category of each item, by its features, and of each user, by the items."""

from __future__ import annotations

import torch
from torch import Tensor

from recgraph.data.item_features import ItemFeatures
from recgraph.sparse.ragged import Ragged

__all__ = ["item_categories", "user_categories"]


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


def user_categories(items: Ragged, categories: Tensor) -> Tensor:
    """[n_users] int64: the category that most of a user's items have, of several the lowest.

    Args:
        items: n_users rows of items.
        categories: [n_items] int64, -1 for an item without one; a user of such items alone has -1.
    """
    found = categories[items.values]
    held_mask = found >= 0
    n_categories = int(found.max()) + 1 if found.numel() else 0
    pairs, counts = torch.unique(items.rows[held_mask] * n_categories + found[held_mask], return_counts=True)
    users, of_users = pairs // max(n_categories, 1), pairs % max(n_categories, 1)
    # the greatest count first, then the lowest category
    ranked = counts * n_categories + n_categories - 1 - of_users
    best = torch.full((items.n_rows,), -1, device=pairs.device).scatter_reduce(0, users, ranked, "amax")
    return torch.where(best < 0, -1, n_categories - 1 - best % max(n_categories, 1))
