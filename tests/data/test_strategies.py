"""Folds, and targets after a cut of time: against slow versions; nothing later than the cut or the
target is known.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from refusing import refused as naming

import recgraph as rg
from recgraph.data.strategies import Label

#: what a log was split into before there were folds
_BEFORE: list[tuple[str, dict[str, Any], str]] = [
    ("leave-one-out", {}, "100de674f0795049"),
    ("leave-one-out", {"short_users": "train"}, "55f420adf4a7c08f"),
    ("time", {}, "71616e4b4171c256"),
    (
        "time",
        {"valid": 0.2, "test": 0.3, "targets": "last", "unknown_items": "drop"},
        "5c7536555827cf1c",
    ),
    ("time", {"valid_from": 1000003000, "test_from": 1000004000}, "e3be169e19566324"),
    ("time", {"targets": "random"}, "3f2ecefbc62a10b0"),
    ("ratio", {}, "d126a5109d430102"),
    ("ratio", {"order": "time", "valid": 0.2, "test": 0.2}, "b36320c208c1498f"),
    ("ratio", {"valid": 0.3, "test": 0.5}, "e6b5e038fc775671"),
    ("users", {}, "62a1e8965bd8ae09"),
    ("users", {"order": "random", "valid": 0.2, "test": 0.3, "fold_in": 0.5}, "af8f7048fc8aa9a6"),
    ("all", {}, "f25db52ef0c2c156"),
]


def _frame(n: int = 400, n_users: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(7)
    return pd.DataFrame(
        {
            "user_id": rng.integers(n_users, size=n),
            "item_id": rng.integers(30, size=n),
            "timestamp": rng.integers(10**9, 10**9 + 5000, size=n),
            "rating": rng.integers(1, 6, size=n),
        }
    )


def _rows(split: rg.Split) -> pd.DataFrame:
    """The log by user, time and row, with the part of each interaction."""
    frame = split.interactions.log.to_pandas().sort_values(["user", "time", "row"], kind="stable")
    return frame.assign(part=[Label(label).name for label in split.labels.tolist()])


@pytest.mark.parametrize(("strategy", "params", "digest"), _BEFORE)
def test_a_split_without_folds_has_the_hash_that_it_had(
    strategy: str, params: dict[str, Any], digest: str
) -> None:
    split = rg.load_data(_frame()).split(strategy, seed=5, **params)
    assert split.hash[:16] == digest
    assert not {"fold", "n_folds"} & split.params.keys()


@pytest.mark.parametrize("least", [1, 5])
def test_leave_one_out_of_a_fold_is_that_of_a_log_that_ends_earlier(least: int) -> None:
    data = rg.load_data(_frame()).k_core(least, 0)
    for fold, split in enumerate(rg.folds(data, 3)):
        found = _rows(split)
        # places from the end of what is left
        left = found.groupby("user").cumcount(ascending=False) - fold
        n = found.groupby("user")["row"].transform("size") - fold
        expected = np.select(
            [left < 0, (left == 0) & (n >= 3), (left == 1) & (n >= 3)],
            ["TEST_LEFT", "TEST", "VALID"],
            "TRAIN",
        )
        assert (found["part"] == expected).all()
        assert (
            split.fit_part("train+valid").n_interactions
            == np.isin(expected, ["TRAIN", "VALID"]).sum()
        )
        history = split.test.history.lengths.sum()
        assert history == (np.isin(expected, ["TRAIN", "VALID"]) & (n >= 3)).sum()


def test_windows_of_time_follow_one_another_to_the_end_of_the_log() -> None:
    data = rg.load_data(_frame())
    whole = data.split("time", valid=0.1, test=0.2)
    cut_before = np.inf
    for fold, split in enumerate(rg.folds(data, 3, "time", valid=0.1, test=0.2)):
        found = _rows(split)
        times = np.sort(found["time"])
        places = 400 - 80 * fold - 80 - 40, 400 - 80 * fold - 80
        expected = np.select(
            [
                found["time"] >= cut_before,
                found["time"] >= times[places[1]],
                found["time"] >= times[places[0]],
            ],
            ["TEST_LEFT", "TEST", "VALID"],
            "TRAIN",
        )
        assert (found["part"] == expected).all()
        cut_before = times[places[1]]
        parts = found.groupby("part")["time"]
        assert (
            parts.max()["TRAIN"]
            < parts.min()["VALID"]
            <= parts.max()["VALID"]
            < parts.min()["TEST"]
        )
        if fold == 0:
            assert torch.equal(split.labels, whole.labels)
            assert split.hash != whole.hash
        else:
            later = found.loc[found["part"] == "TEST_LEFT", "row"]
            sealed = split.sealed().interactions.log
            assert not set(later) & set(sealed["row"])
            assert "left out" in repr(split)


@pytest.mark.parametrize("n_folds", [2, 3, 7])
def test_ratio_tests_each_interaction_once(n_folds: int) -> None:
    frame = pd.concat(
        [_frame(), pd.DataFrame({"user_id": [99], "item_id": [1], "timestamp": [0], "rating": [1]})]
    )
    data = rg.load_data(frame)
    made = [_rows(split) for split in rg.folds(data, n_folds, "ratio", seed=3)]
    tested = pd.concat(found[found["part"] == "TEST"] for found in made)
    sizes = data.log.to_pandas().groupby("user").size()
    assert not tested["row"].duplicated().any()
    assert set(made[0]["row"]) - set(tested["row"]) == {400}  # the user of a single interaction
    for found in made:
        counts = (
            found.groupby(["user", "part"]).size().unstack(fill_value=0).loc[sizes.index[sizes > 1]]
        )
        n = sizes[counts.index]
        assert (counts["TEST"].between(n // n_folds, -(-n // n_folds))).all()
        assert (counts["TRAIN"] >= 1).all()
        expected = (n * 0.1 + 1e-9).astype(int)
        expected += (expected == 0) & (n - counts["TEST"] >= 2)
        assert (counts["VALID"] == np.minimum(expected, n - counts["TEST"] - 1)).all()
    # users of fewer interactions than folds are spread over all folds
    shares = [(found["part"] == "TEST").mean() for found in made]
    assert max(shares) - min(shares) < 0.06


def test_users_are_tested_once() -> None:
    data = rg.load_data(_frame())
    splits = rg.folds(data, 4, "users", seed=3)
    users = torch.cat([split.test.users for split in splits])
    assert users.sort().values.tolist() == list(range(data.n_users))
    for split in splits:
        parts = _rows(split).groupby("user")["part"].agg(set)
        assert sorted(map(sorted, {frozenset(each) for each in parts})) == [
            ["TEST", "TEST_HISTORY"],
            ["TRAIN"],
            ["VALID", "VALID_HISTORY"],
        ]
        assert len(split.valid) == data.n_users // 10


@pytest.mark.parametrize(
    ("strategy", "params", "named"),
    [
        ("time", {"n_folds": 3, "fold": 3}, "fold"),
        ("time", {"n_folds": 3}, "fold"),
        ("ratio", {"n_folds": 1, "fold": 0}, "n_folds"),
        ("time", {"n_folds": 9, "fold": 8}, "n_folds"),
        ("time", {"n_folds": 2, "fold": 0, "test": 0.001}, "n_folds"),
        ("all", {"n_folds": 3, "fold": 0}, "n_folds"),
    ],
)
def test_what_makes_no_folds_is_refused(strategy: str, params: dict[str, Any], named: str) -> None:
    with naming(named):
        rg.load_data(_frame()).split(strategy, **params)


ONE = ("last", "first", "random")


def _log(seed: int = 0, n: int = 300, n_items: int = 40) -> rg.Interactions:
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame(
        # many ties
        {
            "u": rng.integers(0, 25, n),
            "i": rng.integers(0, n_items, n),
            "t": rng.integers(0, 90, n),
        }
    )
    return rg.Interactions.from_frame(frame, user="u", item="i", timestamp="t")


def _slow(
    data: rg.Interactions, cut: int, end: int, choose: Any, known: set[int] | None
) -> dict[int, Any]:
    """User -> (history, truth) of the targets at the times ``cut <= t < end``."""
    found = {}
    for user in range(data.n_users):
        own = sorted(
            (r["time"], r["row"], r["item"])
            for r in data.log.iter_rows(named=True)
            if r["user"] == user
        )
        before = [item for time, _, item in own if time < cut]
        after = [
            item for time, _, item in own if cut <= time < end and (known is None or item in known)
        ]
        if not after:
            continue
        place = choose(user, len(after))
        history, truth = before + after[:place], [after[place]]
        if history:
            found[user] = (history, truth)
    return found


def _cases(cases: Any) -> dict[int, Any]:
    lists = zip(cases.history.to_lists(), cases.truth.to_lists(), strict=True)
    return dict(zip(cases.users.tolist(), lists, strict=True))


@pytest.mark.parametrize("unknown_items", ["keep", "drop"])
@pytest.mark.parametrize("targets", ["last", "first"])
def test_one_target_of_a_user_against_a_slow_version(targets: str, unknown_items: str) -> None:
    data = _log()
    cuts = {"valid_from": 60, "test_from": 75}
    split = data.split("time", targets=targets, unknown_items=unknown_items, **cuts)
    place = {"last": lambda user, n: n - 1, "first": lambda user, n: 0}[targets]
    drop = unknown_items == "drop"
    rows = list(data.log.iter_rows(named=True))
    for part, cut, end in (("valid", 60, 75), ("test", 75, 10**9)):
        known = {row["item"] for row in rows if row["time"] < cut} if drop else None
        expected = _slow(data, cut, end, place, known)
        assert _cases(getattr(split, part)) == expected
    assert split.train.n_interactions == sum(row["time"] < 60 for row in rows)
    assert split.fit_part("train+valid").n_interactions == sum(row["time"] < 75 for row in rows)
    assert split.fit_part("all").n_interactions == len(rows)


@pytest.mark.parametrize("targets", ["all", *ONE])
def test_nothing_at_or_after_a_cut_is_trained_on_and_no_history_is_later_than_its_target(
    targets: str,
) -> None:
    data = _log(1)
    split = data.split("time", valid=0.1, test=0.1, targets=targets, seed=4)
    moments = data.log["time"].sort()
    cuts = {"valid": moments[len(data) - 60], "test": moments[len(data) - 30]}
    assert split.train.times is not None
    assert int(split.train.times.max()) < cuts["valid"]
    both = split.fit_part("train+valid").times
    assert both is not None
    assert int(both.max()) < cuts["test"]
    assert split.sealed().interactions.log.filter(pl.col("time") >= cuts["test"]).is_empty()
    for part, cases in (("valid", split.valid), ("test", split.test)):
        assert len(cases)
        assert cases.times is not None
        for row, user in enumerate(cases.users.tolist()):
            target = data.log.filter(pl.col("user") == user, pl.col("time") >= cuts[part])["time"]
            known = cases.times.to_lists()[row]
            latest = {"first": target.min(), "all": cuts[part]}.get(targets, target.max())
            assert not known or max(known) <= latest
