"""Filters against slow versions of themselves."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from refusing import refused

from recgraph import Interactions
from recgraph.data.errors import EmptyLogError
from recgraph.data.log import k_core

PAIRS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=60)


def _slow_core(pairs: list[tuple[int, int]], users: int, items: int) -> list[int]:
    rows = list(range(len(pairs)))
    while True:
        user, item = (Counter(pairs[row][side] for row in rows) for side in (0, 1))
        kept = [row for row in rows if user[pairs[row][0]] >= users and item[pairs[row][1]] >= items]
        if kept == rows:
            return rows
        rows = kept


@settings(max_examples=150, deadline=None)
@given(PAIRS, st.integers(0, 4), st.integers(0, 4))
def test_k_core_is_the_fixed_point(pairs: list[tuple[int, int]], users: int, items: int) -> None:
    array = np.array(pairs, dtype=np.int32).reshape(-1, 2)
    keep_mask = k_core(array[:, 0], array[:, 1], users, items)
    assert np.flatnonzero(keep_mask).tolist() == _slow_core(pairs, users, items)


def test_k_core_needs_more_than_one_round() -> None:
    # user c goes, then item 3 has one left and goes, then user b
    pairs = [("a", 1), ("a", 2), ("b", 1), ("b", 3), ("c", 3), ("d", 1), ("d", 2)]
    data = _log(pairs).k_core(2, 2)
    assert data.to_frame().rows() == [("a", 1), ("a", 2), ("d", 1), ("d", 2)]
    assert data.log["row"].to_list() == [0, 1, 5, 6]  # the rows of the file, for errors
    assert data.users.ids([0, 1]).to_list() == ["a", "d"]
    assert data.k_core(2, 2) is data
    with refused("k_core", by=EmptyLogError):
        _log(pairs).k_core(3, 2)


def _log(pairs: list[tuple[str, int]], times: list[int] | None = None) -> Interactions:
    frame = pl.DataFrame(pairs, schema=["u", "i"], orient="row")
    if times is None:
        return Interactions.from_frame(frame, user="u", item="i")
    return Interactions.from_frame(frame.with_columns(t=pl.Series(times)), user="u", item="i", timestamp="t")


def test_duplicates_by_time_then_by_row() -> None:
    pairs = [("a", 1), ("a", 1), ("b", 1), ("a", 1), ("a", 2)]
    data = _log(pairs, [5, 3, 1, 5, 0])
    assert data.deduplicate("all") is data
    assert data.deduplicate("first").log["row"].to_list() == [1, 2, 4]
    assert data.deduplicate("last").log["row"].to_list() == [2, 3, 4]  # of two at time 5 the later row
    assert _log(pairs).deduplicate("first").log["row"].to_list() == [0, 2, 4]
    with refused("policy"):
        data.deduplicate("some")  # type: ignore[arg-type]


def test_order_is_by_time_then_by_row() -> None:
    data = _log([("a", 1), ("b", 2), ("a", 3), ("a", 4), ("a", 5)], [7, 1, 2, 7, 2])
    assert data.ordered.rows.tolist() == [2, 4, 0, 3, 1]
    assert data.ordered.times is not None
    assert data.ordered.times.tolist() == [2, 2, 7, 7, 1]


def test_min_rating_compares_exactly() -> None:
    frame = pl.DataFrame({"u": [1, 1, 2], "i": [1, 2, 3], "r": [4.1, 4.0999, 4.2]})
    data = Interactions.from_frame(frame, user="u", item="i", rating="r")
    assert data.min_rating(4.1).log["row"].to_list() == [0, 2]
    assert data.n_interactions == 3  # the log itself is as it was


def test_ids_are_renumbered_in_the_order_of_first_appearance() -> None:
    data = _log([("x", 9), ("a", 1), ("b", 2), ("b", 1), ("a", 2)]).k_core(2, 2)
    assert data.users.ids([0, 1]).to_list() == ["a", "b"]
    assert data.items.ids([0, 1]).to_list() == [1, 2]
    assert data.log["user"].to_list() == [0, 1, 1, 0]
