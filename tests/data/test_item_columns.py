"""Columns of the item features: what is kept, and what is refused."""

from __future__ import annotations

import polars as pl

from recgraph.data.ids import IdMap
from recgraph.data.item_columns import ItemColumns


def columns(values: list[object]) -> ItemColumns:
    ids = pl.Series("id", range(len(values)))
    return ItemColumns(IdMap(ids), pl.DataFrame({"id": ids, "told": values}, strict=False), "id")


def test_nan_is_no_value_of_an_item() -> None:
    found = columns([1990.0, float("nan"), None, float("nan"), 1990.0])
    assert found.codes("told", "max_per").tolist() == [[0], [-1], [-1], [-1], [0]]
    lists = columns([[1.0, float("nan")], [float("nan")], [2.0]])
    assert lists.codes("told", "max_per").tolist() == [[0], [-1], [1]]
