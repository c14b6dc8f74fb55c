"""Checks of splits whose faults are known, scorers at chance, and groups of users."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

import recgraph as rg
from recgraph.data.part import Cases
from recgraph.evaluate import Protocol, Result, checks
from recgraph.evaluate.checks import (
    Check,
    chance,
    check_split,
    duplicates,
    popularity,
    time_leakage,
    unknown_items,
)
from recgraph.evaluate.results import by_group, history_groups, popularity_groups
from recgraph.sparse.ragged import Ragged


def interactions(rows: list[tuple[int, int, int]], timed: bool = True) -> rg.Interactions:
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    return rg.Interactions.from_frame(frame, user="user", item="item", timestamp="time" if timed else None)


# user 1 ends before user 2 begins; item 5 occurs only in user 2's test; user 1's test repeats item 1
ROWS = [(1, 1, 0), (1, 2, 1), (1, 3, 2), (1, 1, 3), (2, 1, 10), (2, 2, 11), (2, 3, 12), (2, 5, 13)]


def test_time_leakage_by_hand() -> None:
    split = interactions(ROWS).split("leave-one-out")
    found = time_leakage(split)
    # training interactions at 0, 1, 10, 11; test ones at 3 and 13
    assert (found.status, found.value) == ("warn", 0.5)
    assert "1 of 2 test interactions" in found.detail
    # a test interaction at the very moment of a training interaction does not precede it
    for last, value in ((5, 0), (4, 0.5)):
        rows = [(1, 1, 0), (1, 2, 1), (1, 3, last), (2, 1, 5), (2, 2, 6), (2, 3, 7)]
        assert time_leakage(interactions(rows).split("leave-one-out")).value == value
    untimed = interactions(ROWS, timed=False).split("leave-one-out")
    assert time_leakage(untimed).status == "warn"


def test_duplicates_and_unknown_items_by_hand() -> None:
    split = interactions(ROWS).split("leave-one-out")
    assert duplicates(split.test, "test").value == 1
    assert duplicates(split.valid, "valid").value == 0
    counts = [split.fit_part(on).item_counts() for on in ("train", "train+valid")]
    assert unknown_items(split.test, counts[1], "test").value == 1
    # item 3 is in no training part: both users have it as validation item
    assert unknown_items(split.valid, counts[0], "valid").value == 1


def popularity_of(split: rg.Split) -> Check:
    return popularity(split.valid, split.test, split.fit_part("train").item_counts())


def test_popularity_by_hand() -> None:
    found = popularity_of(interactions(ROWS).split("leave-one-out"))
    # items 1 and 2 have two training interactions each; valid asks for item 3 twice, test for items 1 and 5
    assert (found.status, found.value) == ("ok", None)
    assert found.detail.endswith("has 1.0 training interactions in the mean, one of valid 0.0 (within 5 allowed)")
    # every other user begins with item 0, and in the end all want it
    rows = [(user, user % 2 * (1 + user), 0) for user in range(40)]
    rows += [(user, 100 + (user + place) % 7, 1 + place) for user in range(40) for place in range(2)]
    rows += [(user, 0, 9) for user in range(40) if user % 2]
    found = popularity_of(interactions(rows).split("leave-one-out", short_users="train"))
    # item 0 has twenty training interactions, the seven others twenty together
    assert (found.status, found.value) == ("warn", pytest.approx(11.45 / 2.85))
    one = interactions([(1, 1, 0), (1, 2, 1), (1, 3, 2)]).split("leave-one-out")
    assert popularity_of(one).status == "skipped"


def random_log(n_users: int = 150, n_items: int = 60) -> rg.Interactions:
    rng = np.random.default_rng(0)
    rows = [
        (user, int(item), int(rng.integers(0, 10_000)))
        for user in range(n_users)
        for item in rng.permutation(n_items)[: rng.integers(5, 15)]
    ]
    return interactions(rows)


def test_all_rows_of_a_sound_split() -> None:
    rows = {row.name: row for row in check_split(random_log().split("leave-one-out"))}
    assert len(rows) == 9
    assert rows["time leakage"].status == "warn"
    assert rows["time leakage"].value > 0.7
    assert (rows["split by time"].status, rows["split by time"].value) == ("ok", 0)
    assert {row.status for name, row in rows.items() if "scorer" in name} == {"ok"}
    assert rows["duplicates in test"].status == "ok"
    by_time = {row.name: row for row in check_split(random_log().split("time"), n_users=20)}
    assert by_time["time leakage"].status == "ok"


def test_a_scorer_off_chance_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = random_log().split("leave-one-out").test
    assert {row.status for row in chance(cases)} == {"ok"}
    monkeypatch.setattr(checks, "_recall_at_chance", lambda cases, k, exclude: np.full(len(cases), 0.6))
    assert {row.status for row in chance(cases)} == {"fail"}


def test_groups() -> None:
    cases = Cases(
        torch.arange(4),
        Ragged.from_lists([[], [0], [0, 1, 2, 3, 4], [1] * 30]),
        Ragged.from_lists([[0], [0, 1], [5], [1, 2]]),
        6,
    )
    assert history_groups(cases) == ["0", "1-4", "5-19", "20+"]
    assert history_groups(cases, (2,)) == ["0-1", "0-1", "2+", "2+"]
    counts = torch.tensor([9, 3, 2, 1, 1, 0])
    assert popularity_groups(cases, counts) == ["head", "mixed", "cold", "tail"]
    values = Result(Protocol(), np.arange(4), {"mrr@5": np.array([1.0, 0.0, np.nan, 0.5])})
    table = by_group(values, ["warm", "cold", "warm", "cold"])
    assert table.rows() == [("warm", 2, 1.0), ("cold", 2, 0.25)]
    empty = Result(Protocol(), np.arange(2), {"mrr@5": np.array([np.nan, 0.5])})
    assert by_group(empty, pl.Series([None, "a"])).rows() == [(None, 1, None), ("a", 1, 0.5)]
    # to the last digit those of NumPy, whatever the number of threads
    drawn = np.random.default_rng(0).random(20_000)
    many = Result(Protocol(), np.arange(20_000), {"mrr@5": drawn})
    assert by_group(many, ["a", "b"] * 10_000)["mrr@5"].to_list() == [drawn[::2].mean(), drawn[1::2].mean()]
