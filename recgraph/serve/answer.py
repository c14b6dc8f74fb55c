"""Answers: a row for each item that was found, with the columns of the item features that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from recgraph.data.columns import Columns
from recgraph.data.dataframe import FrameKind, to_native
from recgraph.data.ids import IdMap
from recgraph.data.item_columns import feature_rows
from recgraph.evaluate.topk import Lists
from recgraph.serve.request import take
from recgraph.texts import listed

__all__ = ["answer", "check_item_columns", "names_of_lists", "names_of_similar"]

_OWN = ("score", "rank")
_SIMILAR = "similar"


def names_of_lists(columns: Columns, item_columns: Sequence[str]) -> tuple[str, str]:
    """The names of the user and the item column: those of the log, or ``user`` and ``item`` where one is taken."""
    if {*_OWN, *item_columns} & {columns.user, columns.item}:
        return "user", "item"
    return columns.user, columns.item


def names_of_similar(columns: Columns, item_columns: Sequence[str]) -> tuple[str, str]:
    """The names of the column of items asked for, that of the log or ``item`` where it is taken, and ``similar``."""
    taken = columns.item in {*_OWN, _SIMILAR, *item_columns}
    return "item" if taken else columns.item, _SIMILAR


def check_item_columns(item_features: pl.DataFrame | None, names: Sequence[str], own: tuple[str, str]) -> None:
    """Check that the item features have the columns and that the answer has no others of these names.

    Args:
        own: the names of the two columns of ids of the answer.

    Raises:
        ValueError: names the column, and those that exist.
    """
    there = [] if item_features is None else item_features.columns
    missing = [name for name in names if name not in there]
    if missing:
        known = listed(there) or "none: fit with item_features"
        raise ValueError(f"item_columns = {missing[0]!r} is no column of the item features; there are {known}")
    taken = [*_OWN, *own]
    for name in names:
        if name in taken:
            raise ValueError(
                f"item_columns = {name!r} would be in the answer twice, whose columns are {', '.join(taken)}; leave it "
                "out, or rename the column of the item features"
            )
        taken.append(name)


def answer(
    labels: pl.Series,
    lists: Lists,
    items: IdMap,
    names: tuple[str, str],
    kind: FrameKind,
    item_features: pl.DataFrame | None,
    key: str,
    item_columns: Sequence[str],
) -> Any:
    """One row an item of a list: who or what the list is for, the item, score, rank (from 1), the wanted columns.

    Args:
        labels: [B] ids of what the lists are for.
        lists: B of them; padding is left out.
        names: of the columns of labels and of items.
        kind: of the frame to return.
        key: the column of ids in the item features.
        item_columns: checked by :func:`check_item_columns`.
    """
    rows, places = (lists.items >= 0).nonzero(as_tuple=True)
    found = lists.items[rows, places]
    series = [
        take(labels, rows).alias(names[0]),
        items.ids(found).alias(names[1]),
        pl.Series("score", lists.scores[rows, places].numpy()),
        pl.Series("rank", (places + 1).numpy()),
    ]
    if item_columns and item_features is not None:
        row_of = feature_rows(items, item_features[key])[found]
        series += [item_features[name].gather(pl.Series(row_of.numpy()).replace(-1, None)) for name in item_columns]
    return to_native(pl.DataFrame(series), kind)
