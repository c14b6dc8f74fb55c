"""From ranked lists to the frame that goes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
import torch
from torch import Tensor

from recgraph.data.columns import Columns
from recgraph.data.ids import IdMap
from recgraph.data.native import to_native
from recgraph.evaluate.topk import Lists
from recgraph.serve.request import Request, take

_OWN = ("score", "rank")


def check_item_columns(item_features: pl.DataFrame | None, names: Sequence[str], columns: Columns) -> None:
    """Refuse names that the item features do not have, or that the answer has already.

    Raises:
        ValueError: names the column, and those that exist.
    """
    there = [] if item_features is None else item_features.columns
    missing = [name for name in names if name not in there]
    if missing:
        known = ", ".join(map(repr, there)) or "none"
        raise ValueError(f"item_columns = {missing[0]!r} is no column of the item features; there are {known}")
    taken = [*_OWN, *_id_names(columns, names)]
    for name in names:
        if name in taken:
            raise ValueError(
                f"item_columns = {name!r} would be in the answer twice, whose columns are {', '.join(taken)}; leave it "
                "out, or rename the column of the item features"
            )
        taken.append(name)


def _id_names(columns: Columns, item_columns: Sequence[str]) -> tuple[str, str]:
    """The user and the item column of an answer: as in the log, or plain where another column is called so."""
    if {*_OWN, *item_columns} & {columns.user, columns.item}:
        return "user", "item"
    return columns.user, columns.item


def answer(
    request: Request,
    lists: Lists,
    items: IdMap,
    columns: Columns,
    item_features: pl.DataFrame | None,
    item_columns: Sequence[str],
) -> Any:
    """One row a recommendation: user, item, score, rank (from 1) and the wanted item columns.

    Args:
        lists: for each row of the request; padding is left out.
        columns: the names of the user and item columns; plain ones are used where another column is called so.
        item_columns: checked by :func:`check_item_columns`.

    Returns:
        A frame of the request's kind.
    """
    rows, places = (lists.items >= 0).nonzero(as_tuple=True)
    found = lists.items[rows, places]
    user, item = _id_names(columns, item_columns)
    series = [
        take(request.labels, rows).alias(user),
        items.ids(found).alias(item),
        pl.Series("score", lists.scores[rows, places].numpy()),
        pl.Series("rank", (places + 1).numpy()),
    ]
    if item_columns and item_features is not None:
        row_of = feature_rows(items, item_features[columns.item])[found]
        series += [item_features[name].gather(pl.Series(row_of.numpy()).replace(-1, None)) for name in item_columns]
    return to_native(pl.DataFrame(series), request.kind)


def feature_rows(items: IdMap, ids: pl.Series) -> Tensor:
    """[n_items] int64: the row of each item in the features, -1 where it has none."""
    index = torch.from_numpy(items.index(ids))
    rows = torch.full((len(items),), -1)
    rows[index[index >= 0]] = (index >= 0).nonzero().flatten()
    return rows
