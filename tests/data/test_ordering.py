"""Stable sorts by columns of integers, against numpy's."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from recgraph.data import ordering
from recgraph.data.ordering import offsets_of, stable_order
from recgraph.data.part import OrderedLog, order

INT64 = np.iinfo(np.int64)


def _keys(seed: int, rows: int, lows: tuple[int, ...], highs: tuple[int, ...]) -> list[np.ndarray]:
    drawn = np.random.default_rng(seed)
    return [drawn.integers(low, high, rows, endpoint=True) for low, high in zip(lows, highs, strict=True)]


@pytest.mark.parametrize("rows", [1, 2, 3, 64, 65, 1000])
@pytest.mark.parametrize(
    ("lows", "highs"),
    [
        ((0,), (5,)),
        ((-3, 0), (3, 4)),
        ((0, INT64.min), (2, INT64.max)),
        ((INT64.min, INT64.max - 1, 0), (INT64.min + 3, INT64.max, 0)),
        ((0, 1_500_000_000, 0), (30, 1_500_000_400, 9)),
    ],
)
def test_orders_as_lexsort_does(rows: int, lows: tuple[int, ...], highs: tuple[int, ...]) -> None:
    for seed in range(3):
        keys = _keys(seed, rows, lows, highs)
        expected = np.lexsort(keys[::-1])
        found = stable_order(*keys)
        if found is None:
            found = np.arange(rows)
        np.testing.assert_array_equal(found, expected)


def test_whole_seconds_in_microseconds_are_one_digit_and_others_are_several() -> None:
    # 2^17 rows leave 47 bits beside a place; twenty years have 2^49 microseconds
    rows, drawn = 2**17, np.random.default_rng(0)
    seconds = drawn.integers(0, 20 * 365 * 86400, rows)
    for times in (seconds * 1_000_000, seconds * 1_000_000 + drawn.integers(0, 1_000_000, rows)):
        users = drawn.integers(0, 300, rows, dtype=np.int32)
        np.testing.assert_array_equal(stable_order(users, times), np.lexsort((times, users)))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint32, np.int32, np.uint64])
def test_types(dtype: type) -> None:
    limits = np.iinfo(dtype)
    key = np.array([limits.max, limits.min, limits.max, 7, limits.min], dtype=dtype)
    np.testing.assert_array_equal(stable_order(key), key.argsort(kind="stable"))
    assert offsets_of(key, int(limits.min)).tolist() == [int(each) - int(limits.min) for each in key.tolist()]


def test_what_is_in_order_is_left_alone() -> None:
    assert stable_order(np.array([], dtype=np.int64)) is None
    assert stable_order(np.array([1, 1, 2]), np.array([5, 5, 6])) is None


@pytest.mark.parametrize("times", ["none", "ascending", "drawn"])
@pytest.mark.parametrize("shuffled", [True, False])
@pytest.mark.parametrize("part", [2**19, 16, 90])
def test_logs_are_ordered_by_user_time_and_row(
    times: str, shuffled: bool, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordering, "_PART", part)
    monkeypatch.setattr(ordering, "_BLOCK", 70)
    drawn = np.random.default_rng(1)
    rows = np.arange(500, dtype=np.uint32) + 9
    if shuffled:
        drawn.shuffle(rows)
    # a hundredth of the users have half of the rows; some have none
    users = (40 * drawn.random(500) ** 3).astype(np.int32) + 3
    log = pl.DataFrame({"row": rows, "user": users, "item": np.arange(500), "rating": drawn.random(500)})
    if times != "none":
        values = drawn.integers(0, 30, 500)
        log = log.with_columns(pl.Series("time", np.sort(values) if times == "ascending" else values))
    expected = log.sort(["user", "row"] if times == "none" else ["user", "time", "row"])
    assert order(log).equals(expected)
    assert order(expected).equals(expected)


@pytest.mark.parametrize("dtype", [pl.UInt32, pl.Int32, pl.Int64])
def test_logs_have_indices_of_any_integer_type(dtype: type[pl.DataType]) -> None:
    log = pl.DataFrame(
        {"row": [0, 1, 2], "user": [1, 0, 1], "item": [2, 0, 1]}, schema_overrides={"user": dtype, "item": dtype}
    )
    assert OrderedLog.of(log, 3, 3).items.to_lists() == [[0], [2, 1], []]
