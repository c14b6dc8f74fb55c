"""A log without times whose file is sorted by item is no log in the order of time."""

from __future__ import annotations

import logging

import numpy as np
import polars as pl
import pytest

import recgraph as rg

N_USERS, EACH = 40, 6


def log(how: str, **times: str) -> rg.Interactions:
    draw = np.random.default_rng(0)
    items = np.concatenate([draw.permutation(60)[:EACH] + 100 for _ in range(N_USERS)])
    frame = pl.DataFrame({"u": np.repeat(np.arange(N_USERS), EACH), "i": items, "t": np.arange(N_USERS * EACH)})
    if how == "sorted":
        frame = frame.sort("u", "i").with_columns(t=pl.int_range(pl.len()))
    return rg.Interactions.from_frame(frame, user="u", item="i", **times)


@pytest.mark.parametrize("split", [{}, {"strategy": "ratio", "order": "time"}, {"strategy": "users"}])
def test_a_file_that_is_sorted_by_item_is_warned_of(split: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        log("sorted").split(**split)
    assert "no times, and its file is sorted by item" in caplog.text


@pytest.mark.parametrize(
    ("how", "times", "split"),
    [
        ("as it came", {}, {}),
        ("sorted", {"timestamp": "t"}, {}),
        ("sorted", {}, {"strategy": "ratio"}),
        ("sorted", {}, {"strategy": "users", "order": "random"}),
        ("sorted", {}, {"strategy": "all"}),
    ],
)
def test_others_are_not(
    how: str, times: dict[str, str], split: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        log(how, **times).split(**split)
    assert "sorted by item" not in caplog.text
