"""Item features: what is learnt of columns, how catalogues are encoded by it, and what is
refused.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import polars as pl
import torch
from refusing import refused

from recgraph.data.ids import IdMap
from recgraph.data.item_features import (
    FeatureSchema,
    FeatureSpec,
    FeatureWish,
    ItemColumns,
    ItemFeatures,
)
from recgraph.files import DataError

ITEMS = IdMap(pl.Series(["a", "b", "c", "d", "cold"]))
KNOWN = torch.tensor([True, True, True, True, False])
TABLE = pl.DataFrame(
    {
        # in another order than the catalogue, with an item that it does not have, and without "d"
        "id": ["cold", "c", "b", "other", "a"],
        "genres": [["war", "new"], ["war"], ["war", "love", "love"], ["x"], None],
        "maker": ["M", "M", "N", "N", "M"],
        "year": [2050, 1990, 2000, 1, 1980],
        "vector": [[9.0, 0.0], [1.0, 2.0], None, [5.0, 5.0], [3.0, 2.0]],
        "title": ["The Cold War", "War", "Of Love and war", "-", "one more"],
    }
)


def learn(wish: FeatureWish, table: pl.DataFrame = TABLE) -> ItemFeatures:
    return ItemFeatures.learn(table, "id", ITEMS, KNOWN, wish)


def test_a_category_is_the_mean_of_its_known_values_and_else_missing() -> None:
    features = learn(("genres",))
    (column,) = features.schema.columns
    # "new" and "x" are not in training
    assert (column.kind, column.values) == (
        "category",
        ("love", "war"),
    )
    wanted = [[1, 0, 0], [0, 0.5, 0.5], [0, 0, 1], [1, 0, 0], [0, 0, 1]]
    assert features.entries.to_dense().tolist() == wanted
    assert features.dense.shape == (5, 0)


def test_words_are_the_set_of_lower_case_words() -> None:
    features = learn((FeatureSpec(name="title", kind="words"),))
    (column,) = features.schema.columns
    assert column.values == ("and", "love", "more", "of", "one", "war")
    dense = features.entries.to_dense()
    assert dense[4].tolist() == [0, 0, 0, 0, 0, 0, 1]  # "the" and "cold" are not in training
    assert dense[1].tolist() == [0, 0.25, 0.25, 0, 0.25, 0, 0.25]
    assert dense[3].tolist() == [1, 0, 0, 0, 0, 0, 0]  # no row in the frame


def test_a_number_fills_the_intervals_below_it() -> None:
    features = learn(("year",))
    (column,) = features.schema.columns
    edges = np.unique(np.quantile([1980, 1990, 2000], np.linspace(0, 1, 9)))
    assert column.edges == tuple(edges)
    years = {"a": 1980, "b": 2000, "c": 1990, "cold": 2050}
    filled = {
        name: [
            min(max((year - low) / (high - low), 0), 1) for low, high in itertools.pairwise(edges)
        ]
        for name, year in years.items()
    }
    means = np.mean([filled[name] for name in "abc"], 0)
    scale = math.sqrt(np.mean([np.sum((np.array(filled[name]) - means) ** 2) for name in "abc"]))
    for row, name in enumerate(["a", "b", "c", "d", "cold"]):
        wanted = np.zeros(8) if name == "d" else (np.array(filled[name]) - means) / scale
        np.testing.assert_allclose(features.dense[row].numpy(), wanted, atol=1e-6)
    assert features.entries.to_dense().flatten().tolist() == [0, 0, 0, 1, 0]
    # beyond the training items' numbers: as their largest
    assert torch.equal(features.dense[4], features.dense[1])


def test_a_vector_is_centred_and_scaled() -> None:
    features = learn(("vector",))
    (column,) = features.schema.columns
    assert (column.kind, column.means, column.scale) == ("vector", (2.0, 2.0), 1.0)
    assert features.dense.tolist() == [[1, 0], [0, 0], [-1, 0], [0, 0], [7, -2]]
    assert features.entries.to_dense().flatten().tolist() == [0, 1, 0, 1, 0]


def test_items_of_a_later_day_are_encoded_by_what_was_learnt() -> None:
    before = learn(("genres", "year", "vector"))
    later = ITEMS.extended(["z"])
    more = pl.concat(
        [
            TABLE,
            pl.DataFrame(
                [["z"], [["love"]], ["M"], [1990], [[1.0, 1.0]], ["Z"]], schema=TABLE.schema
            ),
        ]
    )
    schema = FeatureSchema.of(before.schema.model_dump(mode="json"))  # as a bundle keeps it
    after = ItemFeatures.encode(schema, more, "id", later)
    assert torch.equal(after.entries.to_dense()[:5], before.entries.to_dense())
    assert torch.equal(after.dense[:5], before.dense)
    assert after.entries.to_dense()[5].tolist() == [0, 1, 0, 0, 0]


def test_what_does_not_fit_is_named() -> None:
    wishes: list[tuple[FeatureWish, str]] = [
        (("no",), "'no'"),
        ((FeatureSpec(name="genres", kind="number"),), "'genres'"),
        ((FeatureSpec(name="title", kind="vector"),), "'title'"),
        ((FeatureSpec(name="year", kind="words"),), "'words'"),
    ]
    for wish, named in wishes:
        with refused(named, by=DataError):
            learn(wish)


def columns(values: list[object]) -> ItemColumns:
    ids = pl.Series("id", range(len(values)))
    return ItemColumns(IdMap(ids), pl.DataFrame({"id": ids, "told": values}, strict=False), "id")


def test_nan_is_no_value_of_an_item() -> None:
    found = columns([1990.0, float("nan"), None, float("nan"), 1990.0])
    assert found.codes("told", "max_per").tolist() == [[0], [-1], [-1], [-1], [0]]
    lists = columns([[1.0, float("nan")], [float("nan")], [2.0]])
    assert lists.codes("told", "max_per").tolist() == [[0], [-1], [1]]
