"""Whole decimals are integers wherever ids are given: in the log, in its features, and in requests."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import polars as pl
import pytest

import recgraph as rg
from recgraph.models.collaborative.lightgcn import BPRMF
from recgraph.serve.recommender import Recommender


@pytest.fixture(scope="module")
def served() -> Recommender:
    users, items = [1, 1, 1, 2, 2, 2], [1, 2, 3, 1, 2, 4]
    log = pl.DataFrame({"user": users, "item": items, "timestamp": range(6)}).cast({"user": pl.Decimal(38, 0)})
    features = pl.DataFrame({"item": [Decimal(i) for i in (1, 2, 3, 10**30)], "genre": ["a", "b", "c", "d"]})
    data = rg.load_data(log.cast({"item": pl.Decimal(38, 0)}), item_features=features)
    return rg.fit(BPRMF(hidden_dim=4), data.split("leave-one-out"), seed=0, max_epochs=1).recommender


@pytest.mark.parametrize("given", [[1], [Decimal(1)], pl.Series([Decimal(1)]), Decimal(1)])
def test_whole_decimals_are_integers(served: Recommender, given: Any) -> None:
    found = served.similar(given, k=3, item_columns=["genre"])
    assert found["item"].to_list() == [1, 1, 1]
    assert {*found.select("similar", "genre").iter_rows()} == {(2, "b"), (3, "c"), (4, None)}
    assert served.recommend(given, k=3, exclude_seen=False)["user"].to_list() == [1, 1, 1]
