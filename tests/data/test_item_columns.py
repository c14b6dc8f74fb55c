"""Columns of the item features: what is kept, and what is refused."""

from __future__ import annotations

import polars as pl
import pytest

from recgraph.data import item_columns
from recgraph.data.ids import IdMap
from recgraph.data.item_columns import ItemColumns


def columns(values: list[object]) -> ItemColumns:
    ids = pl.Series("id", range(len(values)))
    return ItemColumns(IdMap(ids), pl.DataFrame({"id": ids, "told": values}, strict=False), "id")


@pytest.mark.parametrize("as_text", [True, False])
def test_more_values_of_an_item_than_are_compared_are_refused(as_text: bool) -> None:
    texts = [" ".join(map(str, range(n))) for n in (0, 3, 256)]
    fits = columns([text if as_text else text.split() for text in texts])
    assert fits.codes("told", "max_per", " ").shape == (3, 256)
    too_long = columns([*(text if as_text else text.split() for text in [*texts, f"{texts[-1]} one more"])])
    with pytest.raises(ValueError, match=r"max_per: an item has 258 values in column .told.; .* another separator"):
        too_long.codes("told", "max_per", " ")


def test_columns_of_any_separators_take_bounded_memory() -> None:
    found = columns(["a b", "b|c"])
    for number in range(3 * item_columns._MOST_KEPT):
        assert found.codes("told", "max_per", f"separator {number}").tolist() == [[0], [1]]
        assert len(found._values) <= item_columns._MOST_KEPT
    assert found.codes("told", "max_per", " ").tolist() == [[0, 1], [2, -1]]


def test_nan_is_no_value_of_an_item() -> None:
    found = columns([1990.0, float("nan"), None, float("nan"), 1990.0])
    assert found.codes("told", "max_per").tolist() == [[0], [-1], [-1], [-1], [0]]
    lists = columns([[1.0, float("nan")], [float("nan")], [2.0]])
    assert lists.codes("told", "max_per").tolist() == [[0], [-1], [1]]
