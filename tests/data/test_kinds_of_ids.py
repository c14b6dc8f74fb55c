"""Ids that another type holds, or may have merged: floats, decimals, dates beside times, texts that are none."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from recgraph.data.errors import DataError, EncodingError, MixedIdError
from recgraph.data.ids import IdMap
from recgraph.data.interactions import Interactions

NOON = dt.datetime(2024, 5, 1, 12, 30)
DAYS = [dt.date(2024, 5, 1), dt.date(2024, 5, 2)]


def read(users: Any, items: Any = (1, 2, 3), **options: Any) -> Interactions:
    frame = users if isinstance(users, pl.DataFrame | pd.DataFrame) else pl.DataFrame({"u": users, "i": items})
    return Interactions.from_frame(frame, user="u", item="i", **options)


def read_file(folder: Path, users: pl.Series, **others: pl.Series) -> Interactions:
    path = folder / "log.parquet"
    pl.DataFrame({"user_id": users, "item_id": [1, 2, 3], **others}).write_parquet(path)
    return Interactions.from_parquet(path, timestamp="timestamp" if others else None)


def test_floats_that_pandas_has_rounded_are_refused() -> None:
    frame = pd.DataFrame({"u": [1234567890123456789, 1234567890123456790, None], "i": [1, 2, 3]})
    with pytest.raises(MixedIdError, match=r"row 0 .*column 'u' holds 1\.2345.*e\+18, .* as integers of 64 bits or"):
        read(frame, missing_ids="drop")
    frame["u"] = pd.array([1234567890123456789, 1234567890123456790, None], dtype="Int64")
    assert read(frame, missing_ids="drop").n_users == 2


@pytest.mark.parametrize(("dtype", "limit"), [(pl.Float64, 2**53), (pl.Float32, 2**24)])
def test_floats_stand_for_integers_below_the_first_that_is_two(dtype: Any, limit: int, tmp_path: Path) -> None:
    below, at = (pl.Series([1, limit - 1, last], dtype=dtype) for last in (limit - 2, limit))
    assert read(below).users.values.to_list() == [1, limit - 1, limit - 2]
    assert read(pl.Series([1, limit, 0.5], dtype=dtype)).users.values.dtype == dtype  # these are no integers
    with pytest.raises(MixedIdError, match=r"row 2 .*may stand for several integers"):
        read(at)
    with pytest.raises(MixedIdError, match=r"log\.parquet, row 2 .*may stand for several integers"):
        read_file(tmp_path, at)
    with pytest.raises(ValueError, match="are floats that may stand for several integers, but the log's ids are int"):
        IdMap(pl.Series([1, limit])).index(at)


@pytest.mark.parametrize("scale", [0, 1, 10])
def test_whole_decimals_with_a_scale_are_integers(scale: int, tmp_path: Path) -> None:
    users = pl.Series([Decimal(1), Decimal(2), Decimal(3)]).cast(pl.Decimal(38, scale))
    data = read(users)
    assert data.users.values.to_list() == [1, 2, 3]
    assert data.users.index(users).tolist() == [0, 1, 2]
    found = read_file(tmp_path, users, timestamp=users)
    assert found.users.values.to_list() == [1, 2, 3]
    assert data.with_features(user_features=pl.DataFrame({"u": users, "a": [1, 2, 3]})).user_features is not None


@pytest.mark.parametrize(("bad", "scale"), [(Decimal("2.5"), 2), (Decimal(10) ** 25, 0), (Decimal(10) ** 25, 3)])
def test_other_decimals_are_refused_with_their_row(bad: Decimal, scale: int, tmp_path: Path) -> None:
    users = pl.Series([Decimal(1), bad, Decimal(3)], dtype=pl.Decimal(38, scale))
    with pytest.raises(MixedIdError, match=r"row 1 .*column 'u' holds Decimal.*, which is no integer of 64 bits; make"):
        read(users)
    with pytest.raises(MixedIdError, match=r"log\.parquet, row 1"):
        read_file(tmp_path, users)
    assert read([1, 2, 3]).users.index(users).tolist() == [0, -1, 2]


def test_a_moment_of_a_day_is_another_id_than_the_day() -> None:
    days = read([1, 2], DAYS)
    assert days.items.index([NOON, dt.datetime(2024, 5, 2)]).tolist() == [-1, 1]
    assert days.with_ids(items=[dt.datetime(2024, 5, 3)]).items.values.to_list()[-1] == dt.date(2024, 5, 3)
    with pytest.raises(ValueError, match=r"datetime\(2024, 5, 1, 12, 30\) \(place 0, from 0\) is missing or no Date"):
        days.with_ids(items=[NOON])
    moments = read([1, 2], pl.Series([NOON, dt.datetime(2024, 5, 1)]).cast(pl.Datetime("ms")))
    assert moments.items.index([NOON + dt.timedelta(microseconds=500), NOON]).tolist() == [-1, 0]
    assert moments.items.index(DAYS).tolist() == [1, -1]


def test_features_of_moments_are_none_of_days(caplog: pytest.LogCaptureFixture) -> None:
    days = read([1, 2], DAYS)
    at = [dt.datetime(2024, 5, 1, 7), dt.datetime(2024, 5, 2)]
    found = days.with_features(item_features=pl.DataFrame({"i": at, "what": ["a", "b"]})).item_features
    assert found is not None
    assert found.rows() == [(DAYS[1], "b")]
    assert "item_features: 1 of 2 rows are left out: the log's ids are of type Date, and in column 'i'" in caplog.text


def test_times_of_day_are_no_dates() -> None:
    days = read([1, 2], DAYS)
    with pytest.raises(ValueError, match="are times of day, but the log's ids are dates and times"):
        days.items.index([dt.time(1)])
    with pytest.raises(MixedIdError, match="column 'i' of the features holds times of day, the log's ids are dates"):
        days.with_features(item_features=pl.DataFrame({"i": [dt.time(1)], "a": [1]}))


def test_the_hash_of_dates_is_as_it_was() -> None:
    assert IdMap(pl.Series(DAYS)).digest().hex()[:16] == "b8b5af132d32e7b2"
    assert IdMap(pl.Series([dt.time(1)])).digest().hex()[:16] == "bdffc31e9a76b5f6"


def test_integers_that_no_type_of_64_bits_holds_together_are_looked_up() -> None:
    ids = IdMap(pl.Series([3, 2**63 + 5], dtype=pl.UInt64))
    assert ids.index([-1, 2**63 + 5, None, 3]).tolist() == [-1, 1, -1, 0]


def test_half_a_pair_of_surrogates_is_named() -> None:
    frame = pd.DataFrame({"u": pd.Series(["a", "a\ud800"], dtype=object), "i": [1, 2]})
    for options in ({"user": "u", "item": "i"}, {"user": "i", "item": "u"}):
        with pytest.raises(EncodingError, match=r"row 1 .*column 'u' holds 'a\\ud800', which is no text"):
            Interactions.from_frame(frame, **options)


def test_half_a_pair_of_surrogates_in_json_lines_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    whole = r'{"user_id": "\ud83d\ude00", "item_id": 1, "text": "\ud801"}', r'{"user_id": "\\ud800", "item_id": 2}'
    path.write_text("\n".join(whole))
    assert Interactions.from_jsonl(path).users.values.to_list() == ["\U0001f600", r"\ud800"]
    for bad in (r"\ud800", r"\uDFFF", r"\ud83d\u0041", r"\ude00\ud83d", r"\ud83d\ud83d\ude00", r"\\ud83d\ude00"):
        path.write_text("\n".join([*whole, f'{{"user_id": "{bad}", "item_id": 3}}']))
        with pytest.raises(EncodingError, match=r"log\.jsonl, line 3: column 'user_id' holds '.*', which is no text"):
            Interactions.from_jsonl(path)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([4, 3.5], [4.0, 3.5]),
        ([dt.date(2024, 5, 1), NOON], [dt.datetime(2024, 5, 1), NOON]),
        ([np.datetime64("2024-05-01"), np.datetime64("2024-05-01T12:30")], [dt.datetime(2024, 5, 1), NOON]),
        ([np.datetime64("2024-05-01"), NOON], [dt.datetime(2024, 5, 1), NOON]),
    ],
)
def test_objects_of_related_types_are_read_in_any_order(values: list[Any], wanted: list[Any], order: int) -> None:
    column = pd.Series(values[::order], dtype=object)
    frame = pd.DataFrame({"u": [1, 2], "i": [1, 2], "t": column})
    data = Interactions.from_frame(frame, user="u", item="i", timestamp="t", user_features=frame[["u", "t"]])
    assert data.user_features is not None
    assert data.user_features["t"].to_list() == wanted[::order]
    assert data.to_frame()["t"].tolist() == wanted[::order]


def test_objects_of_other_types_are_named_with_their_row() -> None:
    frame = pd.DataFrame({"u": [1, 2], "i": [1, 2], "r": pd.Series([4, "x"], dtype=object)})
    with pytest.raises(DataError, match=r"row 1 .*'r' holds 'x' \(str\), but before it 4 \(int\); bring all values"):
        Interactions.from_frame(frame, user="u", item="i", rating="r")


def test_sets_are_no_features() -> None:
    features = pd.DataFrame({"i": [1, 2], "tags": [{"a"}, {"b"}]})
    with pytest.raises(DataError, match=r"column 'tags' of the features holds \{'a'\} \(set\); make it one of plain"):
        read([1, 2], [1, 2]).with_features(item_features=features)
