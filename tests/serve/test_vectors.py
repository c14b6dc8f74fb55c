"""Vectors of items and users, with their ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from test_recommender import ServedTowers, log, serve

from recgraph.data.interactions import Interactions
from recgraph.models.closed_form.linear import EASE
from recgraph.serve.recommender import NoHistoryError


def matrix(frame: Any) -> np.ndarray:
    return np.stack([np.asarray(row) for row in pl.DataFrame(frame)["vector"].to_list()])


def test_scores_are_inner_products_of_the_vectors() -> None:
    served = serve(log())
    items, users = served.item_vectors(), served.user_vectors()
    assert (items.columns, users.columns) == (["what", "vector"], ["who", "vector"])
    assert items.schema["vector"] == pl.Array(pl.Float32, 6)
    assert items["what"].to_list() == served.items.values.to_list()
    assert users["who"].to_list() == served.users.values.to_list()
    scores = matrix(users) @ matrix(items).T
    place_of = {item: n for n, item in enumerate(items["what"])}
    found = served.recommend(users=["3", "17"], k=5)
    for user, item, score in found.select("who", "what", "score").iter_rows():
        row = users["who"].to_list().index(user)
        assert score == pytest.approx(scores[row, place_of[item]], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "wanted"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame), ("pyarrow", pa.Table)]
)
def test_vectors_come_in_the_kind_of_the_log(kind: str, wanted: type[Any]) -> None:
    served = serve(log(kind))
    for frame in (served.item_vectors(), served.user_vectors(users=["1", "2"])):
        assert isinstance(frame, wanted)
        values = frame["vector"].tolist() if kind == "pandas" else frame["vector"].to_numpy()
        assert np.asarray(values[0]).dtype == np.float32
        assert len(values[0]) == 6


def test_histories_get_the_vectors_of_the_same_users() -> None:
    served = serve(log())
    rows = {user: served.items.ids(served.seen.row(n)).to_list() for n, user in enumerate(served.users.values)}
    wanted = ["7", "3", "11"]
    known = served.user_vectors(users=wanted)
    new = served.user_vectors(histories={user: rows[user] for user in wanted})
    assert known.equals(new)
    assert known["who"].to_list() == wanted


def test_users_without_a_history_are_left_out_of_all_and_refused_by_name() -> None:
    data = Interactions.from_frame(pl.DataFrame({"user": ["a", "b"], "item": [1, 2]}), user="user", item="item")
    served = serve(data.with_ids(users=["c"]))
    assert served.user_vectors()["user"].to_list() == ["a", "b"]
    with pytest.raises(NoHistoryError, match="'c'"):
        served.user_vectors(users=["a", "c"])
    with pytest.raises(ValueError, match="or neither for all users"):
        served.user_vectors(users=["a"], histories={"x": [1]})


def test_an_id_column_called_vector_makes_way() -> None:
    frame = pl.DataFrame({"vector": [1, 1, 2], "item": [3, 4, 3]})
    served = serve(Interactions.from_frame(frame, user="vector", item="item"))
    assert served.user_vectors().columns == ["user", "vector"]


def test_models_without_vectors_say_so() -> None:
    served = serve(log(), EASE())
    with pytest.raises(ValueError, match="EASE ranks by scores alone and has no vectors"):
        served.item_vectors()
    with pytest.raises(ValueError, match="EASE ranks by scores alone and has no vectors"):
        served.user_vectors(users=["1"])


def test_vectors_do_not_depend_on_who_is_asked_for_beside(device: torch.device) -> None:
    served = serve(log(), ServedTowers())
    served.model.to(device)
    every = served.user_vectors()
    one = served.user_vectors(users=["5"])
    at = every["who"].to_list().index("5")
    np.testing.assert_allclose(matrix(every)[at], matrix(one)[0], atol=1e-6)
