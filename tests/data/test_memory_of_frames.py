"""A log keeps what it was made of: later changes of the arrays and frames that it was read from do not reach it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from recgraph.data.interactions import Interactions
from recgraph.graph.hetero import HeteroGraph


def _frame(kind: str, columns: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A frame that shares the memory of arrays, and these."""
    if kind == "pandas":
        return pd.DataFrame(columns, copy=False), columns
    made = pl.DataFrame([pl.Series(name, values) for name, values in columns.items()])
    return (made.lazy() if kind == "lazy" else made), columns


@pytest.mark.parametrize("kind", ["pandas", "polars", "lazy"])
def test_ids_and_features_are_a_logs_own(kind: str) -> None:
    frame, arrays = _frame(kind, {"u": np.arange(5), "i": np.arange(10, 15).astype("datetime64[D]").astype("M8[us]")})
    data = Interactions.from_frame(frame, user="u", item="i")
    features, held = _frame(kind, {"u": np.arange(5), "age": np.arange(5.0), "height": np.arange(5)})
    data = data.with_features(user_features=features)
    ids = pl.Series(np.arange(20, 23))
    before = (data.users.values.to_list(), data.items.values.to_list(), data.split("ratio").hash)
    assert data.user_features is not None
    told = data.user_features.rows()
    for array in (*arrays.values(), *held.values()):
        if array.flags.writeable:
            array[...] = array[::-1].copy()
    if kind == "pandas":
        frame.loc[0, "u"] = 99
        features.loc[0, "age"] = 99.0
    assert (data.users.values.to_list(), data.items.values.to_list()) == before[:2]
    assert data.split("ratio").hash == before[2]
    assert data.user_features.rows() == told
    more = data.with_ids(users=ids)
    assert more.users.values.to_list() == [*before[0], 20, 21, 22]


def test_vectors_of_features_are_a_logs_own() -> None:
    vectors = np.zeros((2, 3))
    log = pl.DataFrame({"u": [1, 2], "i": [1, 2]})
    features = pl.DataFrame({"i": [1, 2], "vector": pl.Series(vectors)})
    data = Interactions.from_frame(log, user="u", item="i", item_features=features)
    vectors[:] = 7
    assert data.item_features is not None
    assert data.item_features["vector"].to_list() == [[0.0, 0.0, 0.0]] * 2


def test_ids_of_nodes_are_a_graphs_own() -> None:
    ids = np.arange(3)
    nodes = {"a": pl.DataFrame({"id": pl.Series(ids)})}
    graph = HeteroGraph.from_frames({("a", "to", "a"): pl.DataFrame({"a": [0], "b": [1]})}, nodes)
    digest = graph.hash
    ids[:] = 9
    assert graph.nodes["a"].ids is not None
    assert graph.nodes["a"].ids.values.to_list() == [0, 1, 2]
    assert graph.hash == digest
