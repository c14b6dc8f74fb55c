"""Checks of splits whose faults are known, of logs whose order is known, and groups of users."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from math import exp, log

import numpy as np
import polars as pl
import pytest
import torch

import recgraph as rg
from recgraph.data.part import Cases
from recgraph.evaluate import Protocol, Result
from recgraph.evaluate.checks import (
    Check,
    branching,
    check_split,
    duplicates,
    popularity,
    smoothness,
    tied_times,
    time_leakage,
    unknown_items,
)
from recgraph.evaluate.results import by_group, history_groups, popularity_groups
from recgraph.sparse.ragged import Ragged
from recgraph.train.order import order


def interactions(rows: list[tuple[int, int, int]], timed: bool = True) -> rg.Interactions:
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    return rg.Interactions.from_frame(
        frame, user="user", item="item", timestamp="time" if timed else None
    )


# user 1 ends before user 2 begins; item 5 occurs only in user 2's test; user 1's test repeats item
# 1
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
    # items 1 and 2 have two training interactions each; valid asks for item 3 twice, test for items
    # 1 and 5
    assert (found.status, found.value) == ("ok", None)
    assert found.detail.endswith(
        "has 1.0 training interactions in the mean, one of valid 0.0 (within 5 allowed)"
    )
    # every other user begins with item 0, and in the end all want it
    rows = [(user, user % 2 * (1 + user), 0) for user in range(40)]
    rows += [
        (user, 100 + (user + place) % 7, 1 + place) for user in range(40) for place in range(2)
    ]
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
    split = random_log().split("leave-one-out")
    rows = {row.name: row for row in [*check_split(split), *order(split)]}
    assert len(rows) == 12
    assert rows["time leakage"].status == "warn"
    assert rows["time leakage"].value > 0.7
    assert (rows["split by time"].status, rows["split by time"].value) == ("ok", 0)
    assert rows["duplicates in test"].status == "ok"
    assert rows["features of neighbours"].status == "skipped"
    by_time = {row.name: row for row in check_split(random_log().split("time"))}
    assert by_time["time leakage"].status == "ok"
    assert [row.status for row in order(random_log().split("all"))] == ["skipped"]


@pytest.mark.parametrize(
    ("which", "status", "share"), [(1, "fail", 1), (-1, "fail", 0), (0, "ok", 0.5)]
)
def test_ids_that_ascend_within_ties_fail(which: int, status: str, share: float) -> None:
    rng, rows = np.random.default_rng(0), []
    for user in range(100):
        drawn = rng.permutation(60)[:8]
        for day, items in enumerate((drawn[:3], drawn[3:4], drawn[4:])):
            ordered = sorted(items.tolist(), reverse=which < 0) if which else items.tolist()
            # texts: as numbers 10 is more than 9, as texts less
            rows += [(f"u{user}", f"i{item:02}", day) for item in ordered]
    found = tied_times(interactions(rows).split("leave-one-out"))
    assert found.status == status
    assert found.value == pytest.approx(share, abs=0.05)
    assert tied_times(interactions(rows, timed=False).split("leave-one-out")).status != "fail"
    # 25 sorted pairs may be chance
    assert tied_times(interactions(rows[:16]).split("leave-one-out")).status == "ok"


def chain(
    n_users: int = 400, n_items: int = 150, n_next: int = 3, length: int = 12
) -> rg.Interactions:
    """A Markov chain: after item ``i`` comes one of ``n_next`` items of its own, each as often."""
    rng = np.random.default_rng(0)
    follow, rows = np.stack([rng.permutation(n_items)[:n_next] for _ in range(n_items)]), []
    for user in range(n_users):
        item = int(rng.integers(n_items))
        for time in range(length):
            rows.append((user, item, time))
            item = int(follow[item, rng.integers(n_next)])
    return interactions(rows)


def test_branching_is_that_of_the_chain() -> None:
    assert branching(chain(n_users=3000).split("leave-one-out").train).value == pytest.approx(
        3, rel=0.01
    )
    train = random_log().split("leave-one-out").train
    pairs = [pair for row in train.items.to_lists() for pair in pairwise(row)]
    counts, firsts = Counter(pairs), Counter(first for first, _ in pairs)
    entropy = -sum(n / len(pairs) * log(n / firsts[first]) for (first, _), n in counts.items())
    assert branching(train).value == pytest.approx(exp(entropy))


def test_order_says_all_of_a_chain_and_nothing_of_tastes() -> None:
    histories, orders = order(chain().split("leave-one-out"))
    # transitions within ten steps blur a chain, of which the last item says all
    assert histories.value < 0.05
    assert (orders.status, orders.value > 0.2) == ("ok", True)
    rng = np.random.default_rng(0)
    tastes = [
        (user, int(item) + 20 * (user % 5), time)
        for user in range(400)
        for time, item in enumerate(rng.permutation(20)[:9])
    ]
    histories, orders = order(interactions(tastes).split("leave-one-out"))
    assert orders.status == "warn"
    assert abs(orders.value) < 0.02
    drawn = order(chain().split("leave-one-out"), n_users=50, n_interactions=100)
    assert drawn == order(chain().split("leave-one-out"), n_users=50, n_interactions=100)
    assert drawn[1].value < 0.2


def test_smoothness_counts_shared_values() -> None:
    brand, tags = (
        [item % 3 for item in range(60)],
        [[f"t{item % 4}", f"t{item % 7}", f"{item % 5}"] for item in range(60)],
    )
    table = {
        "item": range(60),
        "title": [f"film {item}" for item in range(60)],
        "brand": brand,
        "tags": tags,
    }
    features = pl.DataFrame({**table, "price": [item / 7 for item in range(60)]})
    split = random_log().with_features(item_features=features).split("leave-one-out")
    found = {row.name: row.value for row in smoothness(split)}
    items = split.items.values.to_list()
    pairs = [
        pair
        for row in split.train.items.to_lists()
        for pair in pairwise([items[index] for index in row])
    ]
    same = [brand[first] == brand[second] for first, second in pairs]
    shared = [bool({*tags[first]} & {*tags[second]}) for first, second in pairs]
    assert found == {
        "brand of neighbours": pytest.approx(np.mean(same)),
        "tags of neighbours": pytest.approx(np.mean(shared)),
    }


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
    assert by_group(many, ["a", "b"] * 10_000)["mrr@5"].to_list() == [
        drawn[::2].mean(),
        drawn[1::2].mean(),
    ]
