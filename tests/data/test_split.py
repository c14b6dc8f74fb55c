"""Splits against slow versions, their hash, the seal, and their files."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from refusing import refused

from recgraph import Interactions, Split
from recgraph.data.part import Cases
from recgraph.data.split import SealedSplit, SealedTestError, without_test_data
from recgraph.files import CorruptFileError

STRATEGIES = ("leave-one-out", "time", "ratio", "users")


def _log(n: int = 400, n_users: int = 30, seed: int = 0, least: int = 3) -> Interactions:
    rng = np.random.default_rng(seed)
    users = np.concatenate(
        [np.repeat(np.arange(n_users), least), rng.integers(0, n_users, n - least * n_users)]
    )
    rng.shuffle(users)
    frame = pl.DataFrame(
        {
            "u": [f"u{user}" for user in users],
            "i": rng.integers(0, 50, n),
            "t": rng.integers(0, 60, n),  # many ties
            "w": rng.random(n),
            "r": rng.integers(1, 6, n),
        }
    )
    return Interactions.from_frame(frame, user="u", item="i", timestamp="t", weight="w", rating="r")


def _sorted_rows(data: Interactions) -> dict[int, list[tuple[int, int, int]]]:
    """User -> (time, row, item), by time then row."""
    rows: dict[int, list[tuple[int, int, int]]] = {user: [] for user in range(data.n_users)}
    for row in data.log.iter_rows(named=True):
        rows[row["user"]].append((row["time"], row["row"], row["item"]))
    return {user: sorted(of) for user, of in rows.items()}


def _as_lists(cases: Cases) -> dict[int, tuple[list[int], list[int]]]:
    rows = zip(cases.users.tolist(), cases.history.to_lists(), cases.truth.to_lists(), strict=True)
    return {user: (history, truth) for user, history, truth in rows}


def _items(rows: list[tuple[int, int, int]]) -> list[int]:
    return [item for _, _, item in rows]


def test_leave_one_out_against_a_slow_version() -> None:
    data = _log()
    split = data.split("leave-one-out")
    rows = _sorted_rows(data)
    assert split.train.items.to_lists() == [_items(rows[user][:-2]) for user in rows]
    assert _as_lists(split.valid) == {
        u: (_items(of[:-2]), _items(of[-2:-1])) for u, of in rows.items()
    }
    assert _as_lists(split.test) == {
        u: (_items(of[:-1]), _items(of[-1:])) for u, of in rows.items()
    }
    assert split.fit_part("train") is split.train
    assert split.fit_part("train+valid").items.to_lists() == [
        _items(rows[user][:-1]) for user in rows
    ]


def test_time_cut_by_shares_and_by_instants() -> None:
    data = _log()
    times = sorted(data.log["time"].to_list())
    valid_from, test_from = times[320], times[360]
    split = data.split("time", valid=0.1, test=0.1)
    rows = _sorted_rows(data)
    train = {u: [row for row in of if row[0] < valid_from] for u, of in rows.items()}
    valid = {u: [row for row in of if valid_from <= row[0] < test_from] for u, of in rows.items()}
    test = {u: [row for row in of if row[0] >= test_from] for u, of in rows.items()}
    assert split.train.items.to_lists() == [_items(train[user]) for user in rows]
    assert _as_lists(split.valid) == {
        u: (_items(train[u]), _items(valid[u])) for u in rows if valid[u] and train[u]
    }
    known = {u: train[u] + valid[u] for u in rows}
    assert _as_lists(split.test) == {
        u: (_items(known[u]), _items(test[u])) for u in rows if test[u] and known[u]
    }
    same = data.split("time", valid_from=valid_from, test_from=test_from)
    assert torch.equal(same.labels, split.labels)
    assert same.hash != split.hash  # other parameters


def _slow_counts(n: int, valid: float, test: float) -> tuple[int, int]:
    n_valid, n_test = int(n * valid + 1e-9), int(n * test + 1e-9)
    if n_test == 0 and test > 0 and n - n_valid - n_test >= 2:
        n_test = 1
    if n_valid == 0 and valid > 0 and n - n_valid - n_test >= 2:
        n_valid = 1
    return n_valid, n_test


@pytest.mark.parametrize("order", ["random", "time"])
@pytest.mark.parametrize(("valid", "test"), [(0.1, 0.1), (0.2, 0.3), (0.0, 0.2)])
def test_ratio_against_a_slow_version(order: str, valid: float, test: float) -> None:
    data = _log(least=1, n_users=60)
    split = data.split("ratio", valid=valid, test=test, order=order)
    rows = _sorted_rows(data)
    for user, of in rows.items():
        n_valid, n_test = _slow_counts(len(of), valid, test)
        cut = len(of) - n_valid - n_test
        history, truth = _as_lists(split.test).get(user, ([], []))
        assert len(truth) == n_test or cut + n_valid == 0
        assert split.train.items.lengths[user] == cut
        if order == "time":
            assert split.train.items.row(user).tolist() == _items(of[:cut])
            assert not truth or (history, truth) == (
                _items(of[: len(of) - n_test]),
                _items(of[len(of) - n_test :]),
            )
        assert sorted(history + truth) == sorted(_items(of)) or not truth


@pytest.mark.parametrize("order", ["time", "random"])
def test_held_out_users(order: str) -> None:
    data = _log(n_users=40, least=1)
    split = data.split("users", seed=3, valid=0.2, test=0.3, fold_in=0.6, order=order)
    rows = _sorted_rows(data)
    valid, test = _as_lists(split.valid), _as_lists(split.test)
    able = sum(len(of) >= 2 for of in rows.values())
    assert (len(valid), len(test)) == (int(0.2 * able), int(0.3 * able))
    assert not set(valid) & set(test)
    fit = split.fit_part("train+valid").items.to_lists()
    for user, of in rows.items():
        held = valid.get(user) or test.get(user)
        assert split.train.items.row(user).tolist() == ([] if held else _items(of))
        assert fit[user] == ([] if user in test else _items(of))
        if held:
            known = min(max(int(0.6 * len(of) + 1e-9), 1), len(of) - 1)
            assert (len(held[0]), len(held[1])) == (known, len(of) - known)
            assert sorted(held[0] + held[1]) == sorted(_items(of))
            assert order == "random" or held == (_items(of[:known]), _items(of[known:]))


def test_hash_is_stable_and_sees_everything() -> None:
    frame = pl.DataFrame({"u": [1, 1, 1, 2, 2, 2], "i": [5, 6, 7, 7, 6, 5]})

    def digest(table: pl.DataFrame, **params: Any) -> str:
        return (
            Interactions.from_frame(table, user="u", item="i").split("leave-one-out", **params).hash
        )

    # a constant: the same on every machine and in every version that does not say otherwise
    assert digest(frame) == "eeda27664682b088bea83df9a7a983ebaf8e970cb1536efe88ec2574045a9ae1"
    assert digest(frame.with_columns(pl.col("u").cast(pl.Int16))) == digest(frame)
    assert digest(frame.to_pandas()) == digest(frame)
    others = [
        digest(frame, short_users="train"),
        digest(frame.with_columns(pl.col("u") + 1)),
        digest(frame.with_columns(pl.col("u").cast(pl.String))),
        digest(frame[::-1]),
        digest(frame.with_columns(i=pl.Series([5, 6, 7, 7, 5, 6]))),
    ]
    assert len({digest(frame), *others}) == 6


@pytest.mark.parametrize("name", STRATEGIES)
def test_sealed_split_has_no_test_rows(name: str) -> None:
    split = _log().split(name)
    sealed = split.sealed()
    secret = set(
        split.interactions.ordered.rows[(split.labels == 2) | (split.labels == 4)].tolist()
    )
    assert secret
    assert not secret & set(sealed.interactions.log["row"].to_list())
    assert sealed.interactions.ordered.rows.tolist() == [
        row for row in split.interactions.ordered.rows.tolist() if row not in secret
    ]
    assert (sealed.n_users, sealed.n_items, sealed.hash) == (
        split.n_users,
        split.n_items,
        split.hash,
    )
    assert sealed.train.items.to_lists() == split.train.items.to_lists()
    assert _as_lists(sealed.valid) == _as_lists(split.valid)
    with refused("unseal", by=SealedTestError):
        _ = sealed.test
    with refused("train+valid", by=SealedTestError):
        sealed.fit_part("train+valid")
    assert sealed.sealed() is sealed


def test_a_block_without_test_data_refuses_the_part_of_all() -> None:
    split = _log().split()
    with without_test_data("a trial runs"):
        assert split.fit_part("train+valid").n_interactions < len(split.interactions)
        for opened in (lambda: split.fit_part("all"), lambda: split.test):
            with refused("test part", by=SealedTestError):
                opened()
    assert split.fit_part("all").n_interactions == len(split.interactions)


def test_unsealing_is_logged_and_remembered(caplog: pytest.LogCaptureFixture) -> None:
    split = _log().split()
    sealed = split.sealed()
    with refused("reason"):
        sealed.unseal(" ")
    with caplog.at_level(logging.INFO, logger="recgraph"):
        assert sealed.unseal("the last evaluation") is split
    assert sealed.unsealed_reasons == ["the last evaluation"]
    assert "the last evaluation" in caplog.text
    assert split.hash[:12] in caplog.text


@pytest.mark.parametrize("name", STRATEGIES)
def test_saved_split_opens_its_test_file_at_unseal_alone(name: str, tmp_path: Path) -> None:
    split = _log().split(name)
    split.save(tmp_path / "split")
    shutil.move(tmp_path / "split" / "test", tmp_path / "elsewhere")  # as workers see it
    sealed = SealedSplit.load(tmp_path / "split")
    assert sealed.train.items.to_lists() == split.train.items.to_lists()
    assert _as_lists(sealed.valid) == _as_lists(split.valid)
    assert (sealed.hash, sealed.params, sealed.seed, sealed.name) == (
        split.hash,
        split.params,
        split.seed,
        name,
    )
    assert sealed.users.ids(range(3)).to_list() == split.users.ids(range(3)).to_list()
    with refused("test.parquet", by=CorruptFileError):
        sealed.unseal("too early")
    assert not sealed.unsealed_reasons
    shutil.move(tmp_path / "elsewhere", tmp_path / "split" / "test")
    again = Split.load(tmp_path / "split", "comparison")
    assert again.hash == split.hash
    assert torch.equal(again.labels, split.labels)
    assert _as_lists(again.test) == _as_lists(split.test)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_saved_sealed_split_leaves_no_test_file_of_an_earlier_one(tmp_path: Path) -> None:
    _log().split().save(tmp_path)
    _log(seed=1).split().sealed().save(tmp_path)
    assert not list(tmp_path.rglob("test.parquet"))
    assert SealedSplit.load(tmp_path).without_test().hash == _log(seed=1).split().hash


def test_changed_test_file_is_refused(tmp_path: Path) -> None:
    _log().split().save(tmp_path)
    path = tmp_path / "test" / "test.parquet"
    rows = pl.read_parquet(path)
    rows.with_columns(pl.col("item").reverse()).write_parquet(path)
    with refused("test.parquet", by=CorruptFileError):
        SealedSplit.load(tmp_path).unseal("check")
    path.write_bytes(b"PAR1 not")
    with refused("test.parquet", by=CorruptFileError):
        SealedSplit.load(tmp_path).unseal("check")
    with refused("nowhere", by=FileNotFoundError):
        SealedSplit.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("strategy", "params", "named"),
    [
        ("sideways", {}, "leave-one-out"),
        ("leave_one_ot", {}, "leave-one-out"),
        ("ratio", {"tests": 0.1}, "tests"),
        ("ratio", {"valid": 0.5, "test": 0.5}, "valid"),
        ("time", {"valid_from": 3}, "test_from"),
        ("time", {"valid_from": -5, "test_from": 40}, "valid_from"),
        ("time", {"valid_from": 40, "test_from": 10**12}, "test_from"),
        ("time", {"valid_from": float("nan"), "test_from": 10}, "valid_from"),
        ("time", {"valid_from": "2024-05-01", "test_from": "2024-06-01"}, "valid_from"),
        ("leave-one-out", {"grades": "stars"}, "grades"),
    ],
)
def test_what_is_no_split_is_refused(strategy: str, params: dict[str, Any], named: str) -> None:
    with refused(named):
        _log().split(strategy, **params)
    with refused("timestamp"):
        Interactions.from_frame(pl.DataFrame({"u": [1, 1], "i": [1, 2]}), user="u", item="i").split(
            "time"
        )
