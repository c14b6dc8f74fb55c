"""Logs: ids and times come in as they are written, in every format; errors name the place;
filters.
"""

from __future__ import annotations

import datetime as dt
import gzip
import json
import uuid
import zoneinfo
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from refusing import refused

import recgraph as rg
from recgraph import Interactions
from recgraph.data.ids import numbered
from recgraph.data.log import k_core
from recgraph.data.row_files import Form, replace_parts
from recgraph.data.split import SealedSplit
from recgraph.files import CorruptFileError, DataError

#: ids as a text file holds them -> as they come in, where they do not stay texts
IDS: list[tuple[list[str], list[Any] | None]] = [
    (["1", "2", "3"], [1, 2, 3]),
    (["1.0", "2", "3.0"], [1, 2, 3]),
    (["007", "7", "8"], None),
    (["1e5", "100000", "2"], None),
    (["-0", "0", "1"], None),
    (["+1", "1", "2"], None),
    (["1.5", "2", "3"], None),
    (["1_000", "1", "2"], None),
    ([" 1", "2 ", "3"], [1, 2, 3]),
    (["NaN", "nan", "null"], None),
    (["true", "false", "True"], None),
    (["9007199254740993", "9007199254740992", "1"], [9007199254740993, 9007199254740992, 1]),
    (
        ["9223372036854775807", "-9223372036854775808", "1"],
        [9223372036854775807, -9223372036854775808, 1],
    ),
    (["9223372036854775808", "5", "1"], None),
    (["a", "b", "ü"], None),
]


def _csv(ids: list[str], separator: str = ",", header: bool = True) -> str:
    rows = [
        f"{user}{separator}{item}{separator}{time}"
        for user, item, time in zip(ids, (10, 20, 10), (3, 1, 2), strict=True)
    ]
    return (
        "\n".join(
            [*(["user_id,item_id,timestamp".replace(",", separator)] if header else []), *rows]
        )
        + "\n"
    )


def _check(data: rg.Interactions, ids: list[Any]) -> None:
    assert data.users.ids(range(3)).to_list() == ids
    assert data.items.values.to_list() == [10, 20]
    assert data.to_frame()["timestamp"].to_list() == [3, 1, 2]


@pytest.mark.parametrize(("ids", "wanted"), IDS)
def test_ids_come_in_as_they_are_written(
    ids: list[str], wanted: list[Any] | None, tmp_path: Path
) -> None:
    text = _csv(ids)
    files = {
        "a.csv": text.encode(),
        "crlf.csv": text.replace("\n", "\r\n").encode(),
        "bom.csv": b"\xef\xbb\xbf" + text.encode(),
        "blank.csv": text.replace("\n", "\n\n").encode(),
        "open.csv": text.rstrip("\n").encode(),
        "a.tsv": _csv(ids, "\t").encode(),
        "a.csv.gz": gzip.compress(text.encode()),
        "a.dat": _csv(ids, "::").encode(),
        "a.inter": _csv(ids, "\t")
        .replace("id\t", "id:token\t")
        .replace("stamp", "stamp:float")
        .encode(),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        _check(rg.load_data(tmp_path / name), wanted or ids)
    (tmp_path / "16.csv").write_bytes(text.encode("utf-16"))
    _check(rg.load_data(tmp_path / "16.csv", encoding="utf-16"), wanted or ids)
    (tmp_path / "1.csv").write_bytes(text.encode("latin-1"))
    _check(rg.load_data(tmp_path / "1.csv", encoding="latin-1"), wanted or ids)
    (tmp_path / "names.csv").write_text(_csv(ids, header=False))
    _check(
        rg.load_data(tmp_path / "names.csv", names=["user_id", "item_id", "timestamp"]),
        wanted or ids,
    )


def test_json_is_lines_or_one_array(tmp_path: Path) -> None:
    values = zip("aba", "xyz", (3, 1, 2), strict=True)
    rows = [dict(zip(("user_id", "item_id", "timestamp"), each, strict=True)) for each in values]
    lines, array = "\n".join(map(json.dumps, rows)), json.dumps(rows)
    made = {
        "a.jsonl": lines,
        "b.json": lines,
        "c.json": array,
        "d.json": json.dumps(rows, indent=1),
    }
    for name, text in made.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "e.json.gz").write_bytes(gzip.compress(array.encode()))
    for path in tmp_path.iterdir():
        assert rg.load_data(path).to_frame().rows() == [tuple(row.values()) for row in rows]


def test_a_missing_rating_is_refused_with_what_may_be_done(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user_id,item_id,rating\n1,2,5\n2,3,\n")
    with refused("'rating'", "rating='none'", by=DataError):
        rg.load_data(tmp_path / "a.csv", timestamp="none")
    assert len(rg.load_data(tmp_path / "a.csv", timestamp="none", rating="none")) == 2


def test_the_formats_of_a_data_set_are_one_log(shared: Path, tmp_path: Path) -> None:
    data = rg.load_data(shared / "data" / "ml-100k")
    frame = data.to_frame()
    digest = data.split("time").hash
    assert data.item_features is not None
    assert data.user_features is not None
    frame.write_csv(tmp_path / "a.csv")
    frame.write_parquet(tmp_path / "a.parquet")
    (tmp_path / "parts").mkdir()
    frame[:50_000].write_csv(tmp_path / "parts" / "1.csv")
    frame[50_000:].write_csv(tmp_path / "parts" / "2.csv")
    for given in ("a.csv", "a.parquet", "parts", "parts/*.csv"):
        assert rg.load_data(tmp_path / given).split("time").hash == digest
    assert rg.load_data(frame.to_pandas()).split("time").hash == digest
    data.save(tmp_path / "saved")
    assert rg.Interactions.load(tmp_path / "saved").split("time").hash == digest


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (
            [uuid.UUID(int=5), uuid.UUID(int=7), uuid.UUID(int=5)],
            [str(uuid.UUID(int=5)), str(uuid.UUID(int=7))],
        ),
        ([dt.date(2024, 1, 1), dt.date(2024, 1, 2), dt.date(2024, 1, 1)], None),
        ([1.0, 2.0, 1.0], [1, 2]),
        ([1.5, 2.5, 1.5], None),
        (np.array([2**63 + 1, 5, 2**63 + 1], dtype=np.uint64), [2**63 + 1, 5]),
        (np.array([1, 2, 1], dtype=np.int8), [1, 2]),
        ([b"a", b"b", b"a"], [b"a", b"b"]),
    ],
)
def test_ids_of_frames_keep_their_type(values: Any, wanted: list[Any] | None) -> None:
    data = rg.load_data(pd.DataFrame({"user_id": values, "item_id": [3, 4, 4]}))
    assert data.users.ids([0, 1]).to_list() == (wanted or list(values[:2]))
    assert data.users.index(data.users.ids([1, 0])).tolist() == [1, 0]


ZONE = zoneinfo.ZoneInfo("America/New_York")
NOON = 1_714_566_600_000_000  # 2024-05-01T12:30 UTC


@pytest.mark.parametrize(
    ("texts", "unit", "times"),
    [
        (["3", "1", "2"], "own", [3, 1, 2]),
        (["1.0", "2.0", "3.0"], "own", [1, 2, 3]),
        (["1.5e9", "1.6e9", "1.7e9"], "own", [1_500_000_000, 1_600_000_000, 1_700_000_000]),
        (["1.5", "2.25", "3"], "seconds", [1_500_000, 2_250_000, 3_000_000]),
        (["20240501", "20240502", "20240503"], "own", [20240501, 20240502, 20240503]),
        (
            ["2024-05-01T12:30:00Z", "2024-05-01 12:30", "2024-05-01T08:30:00-04:00"],
            "us",
            [NOON] * 3,
        ),
        (
            ["2024/05/01 12:30:00.000001", "2024-05-01T12:30", "2024-05-01 12:30:00 UTC"],
            "us",
            [NOON + 1, NOON, NOON],
        ),
    ],
)
def test_times_as_texts(texts: list[str], unit: str, times: list[int], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "user_id,item_id,timestamp\n" + "".join(f"1,{i},{t}\n" for i, t in enumerate(texts))
    )
    data = rg.load_data(tmp_path / "a.csv")
    assert (data.time_unit, data.log["time"].to_list()) == (unit, times)


def test_times_as_values_and_by_a_format(tmp_path: Path) -> None:
    def read(values: list[Any], **options: Any) -> rg.Interactions:
        return rg.load_data(
            pl.DataFrame({"user_id": [1], "item_id": [1], "timestamp": values}), **options
        )

    for value in (dt.datetime(2024, 5, 1, 12, 30), dt.datetime(2024, 5, 1, 8, 30, tzinfo=ZONE)):
        assert (read([value]).time_unit, read([value]).log["time"].to_list()) == ("us", [NOON])
    assert read(["01/05/2024 12:30"], time_format="%d/%m/%Y %H:%M").log["time"].to_list() == [NOON]
    for given, options in (
        (["1/5/2024"], {}),
        (["2024-05-01"], {"time_format": "%Y/%m/%d"}),
        (["x"], {}),
    ):
        with refused("timestamp", "row 0", by=DataError):
            read(given, **options)


def test_columns_are_guessed_or_named(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"Customer ID": [1, 2], "sku": [3, 4], "event_time": [5, 6], "stars": [1, 2], "n": [1, 2]}
    )
    data = rg.load_data(frame, weight="n")
    assert data.columns.model_dump() == {
        "user": "Customer ID",
        "item": "sku",
        "timestamp": "event_time",
        "rating": "stars",
        "weight": "n",
    }
    assert rg.load_data(frame, timestamp="none", rating="none").columns.timestamp is None
    with refused("user", "sku", by=DataError):
        rg.load_data(frame.drop("Customer ID"))
    with refused("'nobody'", "sku", by=DataError):
        rg.load_data(frame, user="nobody")
    with refused("'movie_id'", "'sku'", by=DataError):
        rg.load_data(frame.with_columns(movie_id=1))


def test_lines_of_sequences(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("7 3 1\t3\n\n8  2\n")
    assert rg.load_data(path, format="sequences").to_frame().rows() == [
        (7, 3),
        (7, 1),
        (7, 3),
        (8, 2),
    ]
    path.write_text("7 3\n9\n")
    with refused("a.txt", "row 1", "9", by=DataError):
        rg.load_data(path, format="sequences")
    assert len(rg.load_data(path, format="sequences", missing_ids="drop")) == 1


@pytest.mark.parametrize(
    ("name", "content", "named", "kind"),
    [
        ("a.csv", b"", (), DataError),
        ("a.csv", b"user_id,item_id\n", (), DataError),
        ("a.csv", b"user_id,item_id\n1,2\n,3\n", ("row 1", "user_id"), DataError),
        (
            "a.csv",
            b"user_id,item_id,rating\n1,2,3\n1,3,good\n",
            ("row 1", "rating", "'good'"),
            DataError,
        ),
        (
            "a.csv",
            b"user_id,item_id,time\n1,2,3\n1,3,soon\n",
            ("row 1", "time", "'soon'"),
            DataError,
        ),
        ("a.csv", "user_id,item_id\nü,1\n".encode("latin-1"), ("encoding",), CorruptFileError),
        ("a.csv.gz", gzip.compress(b"user_id,item_id\n1,2\n" * 99, mtime=0)[:-20], (), DataError),
        ("a.dat", b"user_id::item_id\n1::2\n1::2::3\n", (), DataError),
        ("a.parquet", b"PAR1 no", (), CorruptFileError),
        ("a.jsonl", b'{"user_id": 1, "item_id": [2]}\n', ("item_id",), DataError),
        ("a.jsonl", b'{"user_id": 1\n', (), DataError),
    ],
)
def test_errors_name_the_file_and_the_place(
    name: str, content: bytes, named: tuple[str, ...], kind: type[Exception], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with refused(name, *named, by=kind):
        rg.load_data(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        rg.load_data(tmp_path / "nowhere.csv")
    with refused("format"):
        (tmp_path / "a.xlsx").write_bytes(b"x")
        rg.load_data(tmp_path / "a.xlsx")


def test_ids_of_one_column_are_of_one_type() -> None:
    frame = pd.DataFrame({"user_id": [1.0, np.nan, 2.0], "item_id": ["a", "b", None]})
    assert rg.load_data(frame, missing_ids="drop").to_frame().values.tolist() == [[1, "a"]]
    with refused("user_id", "'a'", by=DataError):
        rg.load_data(pd.DataFrame({"user_id": [1, "a"], "item_id": [1, 2]}))
    with refused("user_id", by=DataError):  # which may stand for several integers
        rg.load_data(pl.DataFrame({"user_id": [2.0**53], "item_id": [1]}))


@pytest.mark.parametrize(
    "make",
    [
        lambda draw: pl.Series(draw.integers(-50, 50, 3000)),
        lambda draw: pl.Series(draw.integers(-(2**62), 2**62, 300)[draw.integers(0, 300, 3000)]),
        lambda draw: pl.Series([f"u{each}" for each in draw.integers(0, 400, 3000)]),
        lambda draw: pl.Series(draw.integers(0, 9, 3000)).cast(pl.Date),
        lambda draw: pl.Series([], dtype=pl.Int64),
    ],
)
def test_numbers_go_by_first_appearance(make: Callable[[np.random.Generator], pl.Series]) -> None:
    values = make(np.random.default_rng(3))
    codes, unique = numbered(values)
    slow: dict[Any, int] = {}
    assert codes.tolist() == [slow.setdefault(value, len(slow)) for value in values.to_list()]
    assert unique.to_list() == list(slow)


def test_a_saved_log_is_the_same_and_damage_is_named(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"user_id": [1, 2, 1], "item_id": ["a", "b", "b"], "timestamp": [1.5, 2.0, 3.0]}
    )
    data = rg.load_data(frame, item_features=pl.DataFrame({"item_id": ["a"], "title": ["A"]}))
    data.save(tmp_path / "log")
    read = rg.Interactions.load(tmp_path / "log")
    assert read.log.equals(data.log)
    assert (read.columns, read.time_unit) == (data.columns, data.time_unit)
    assert read.item_features is not None
    assert (
        json.loads((tmp_path / "log" / "interactions.json").read_text())["time_unit"] == "seconds"
    )
    with pytest.raises(FileNotFoundError):
        SealedSplit.load(tmp_path / "log")
    path = tmp_path / "log" / "users.parquet"
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    with refused("users.parquet", by=CorruptFileError):
        rg.Interactions.load(tmp_path / "log")
    with pytest.raises(FileNotFoundError):
        rg.Interactions.load(tmp_path)


PAIRS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=60)


def _slow_core(pairs: list[tuple[int, int]], users: int, items: int) -> list[int]:
    rows = list(range(len(pairs)))
    while True:
        user, item = (Counter(pairs[row][side] for row in rows) for side in (0, 1))
        kept = [
            row for row in rows if user[pairs[row][0]] >= users and item[pairs[row][1]] >= items
        ]
        if kept == rows:
            return rows
        rows = kept


@settings(max_examples=150, deadline=None)
@drawn(PAIRS, st.integers(0, 4), st.integers(0, 4))
def test_k_core_is_the_fixed_point(pairs: list[tuple[int, int]], users: int, items: int) -> None:
    array = np.array(pairs, dtype=np.int32).reshape(-1, 2)
    keep_mask = k_core(array[:, 0], array[:, 1], users, items)
    assert np.flatnonzero(keep_mask).tolist() == _slow_core(pairs, users, items)


def _log(pairs: list[tuple[str, int]], times: list[int] | None = None) -> Interactions:
    frame = pl.DataFrame(pairs, schema=["u", "i"], orient="row")
    if times is None:
        return Interactions.from_frame(frame, user="u", item="i")
    return Interactions.from_frame(
        frame.with_columns(t=pl.Series(times)), user="u", item="i", timestamp="t"
    )


def test_duplicates_by_time_then_by_row() -> None:
    pairs = [("a", 1), ("a", 1), ("b", 1), ("a", 1), ("a", 2)]
    data = _log(pairs, [5, 3, 1, 5, 0])
    assert data.deduplicate("all") is data
    assert data.deduplicate("first").log["row"].to_list() == [1, 2, 4]
    # of two at time 5 the later row
    assert data.deduplicate("last").log["row"].to_list() == [
        2,
        3,
        4,
    ]
    assert _log(pairs).deduplicate("first").log["row"].to_list() == [0, 2, 4]


# -- files that are written part by part

READERS: dict[Form, Any] = {
    "csv": pl.read_csv,
    "tsv": lambda path: pl.read_csv(path, separator="\t"),
    "json": pl.read_json,
    "jsonl": pl.read_ndjson,
    "parquet": pl.read_parquet,
}


def parts(sizes: list[int], fail_at: int | None = None) -> Iterator[pl.DataFrame]:
    start = 0
    for number, size in enumerate(sizes):
        if number == fail_at:
            raise ValueError("the third part fails")
        index = range(start, start + size)
        yield pl.DataFrame(
            {"user": [f'u, "{n}"\n' for n in index], "rank": index},
            schema={"user": pl.String, "rank": pl.Int64},
        )
        start += size


@pytest.mark.parametrize("form", list(READERS))
@pytest.mark.parametrize("sizes", [[3, 1, 4], [0, 2, 0, 1], [0]])
def test_parts_lie_one_under_the_other(tmp_path: Path, form: Form, sizes: list[int]) -> None:
    path = tmp_path / "rows"
    assert replace_parts(parts(sizes), path, form) == sum(sizes)
    if form == "json" and not sum(sizes):
        assert path.read_text() == "[]\n"
    elif sum(sizes) or form in ("csv", "parquet"):
        found = READERS[form](path)
        assert found["rank"].to_list() == [*range(sum(sizes))]
        assert found["user"].to_list() == pl.concat(parts(sizes))["user"].to_list()
    assert [each.name for each in tmp_path.iterdir()] == ["rows"]


@pytest.mark.parametrize("form", list(READERS))
def test_an_error_leaves_what_was_there(tmp_path: Path, form: Form) -> None:
    path = tmp_path / "rows"
    path.write_text("earlier")
    with refused("third"):
        replace_parts(parts([2, 2, 2], fail_at=2), path, form)
    assert path.read_text() == "earlier"
    assert [each.name for each in tmp_path.iterdir()] == ["rows"]
