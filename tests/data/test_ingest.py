"""Logs of every kind come in the same, with their ids as they were."""

from __future__ import annotations

import datetime as dt
import gzip
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from recgraph import Interactions, load_data
from recgraph.data import ingest
from recgraph.data.errors import DataError, MissingColumnError, MissingIdError, MixedIdError
from recgraph.data.ids import IdMap
from recgraph.data.numbering import number_keys
from recgraph.graph.hetero import HeteroGraph

ROWS = pl.DataFrame(
    {
        "who": ["b", "a", "b", "c", "a"],
        "what": [30, 10, 10, 20, 30],
        "when": [5, 3, 3, 9, 1],
        "stars": [4.0, 1.5, 5.0, 2.0, 3.0],
    }
)
NAMES: dict[str, Any] = {"user": "who", "item": "what", "timestamp": "when", "rating": "stars"}


def _check(data: Interactions) -> None:
    assert data.users.ids(range(3)).to_list() == ["b", "a", "c"]  # in order of first appearance
    assert data.items.ids(range(3)).to_list() == [30, 10, 20]
    assert data.log["user"].to_list() == [0, 1, 0, 2, 1]
    assert data.log["item"].to_list() == [0, 1, 1, 2, 0]
    assert data.log["time"].to_list() == [5, 3, 3, 9, 1]
    assert data.log["rating"].to_list() == [4.0, 1.5, 5.0, 2.0, 3.0]
    assert data.log["row"].to_list() == [0, 1, 2, 3, 4]
    assert (data.n_users, data.n_items, data.n_interactions, data.time_unit) == (3, 3, 5, "own")


@pytest.mark.parametrize("kind", ["polars", "lazy", "pandas", "pyarrow"])
def test_frames_come_in_and_go_out_as_the_same_kind(kind: str) -> None:
    frame = {"polars": ROWS, "lazy": ROWS.lazy(), "pandas": ROWS.to_pandas(), "pyarrow": ROWS.to_arrow()}[kind]
    data = Interactions.from_frame(frame, **NAMES)
    _check(data)
    out = data.to_frame()
    assert isinstance(out, {"pandas": pd.DataFrame, "pyarrow": pa.Table}.get(kind, pl.DataFrame))
    if kind == "pandas":
        pd.testing.assert_frame_equal(out, frame)
    else:
        assert pl.DataFrame(out).equals(ROWS)


def test_a_lazy_frame_is_collected_once() -> None:
    draws = iter(range(9))

    def shuffled(frame: pl.DataFrame) -> pl.DataFrame:  # as unique() and group_by() may give the rows
        return frame.sample(fraction=1.0, shuffle=True, seed=next(draws))

    rows = pl.DataFrame({"who": range(50), "what": [f"i{number}" for number in range(50)], "when": range(50)})
    lazy = rows.lazy().map_batches(shuffled, schema=rows.schema, validate_output_schema=False)
    data = Interactions.from_frame(lazy, user="who", item="what", timestamp="when")
    assert next(draws) == 1
    assert data.to_frame().sort("who").equals(rows)
    with pytest.raises(MissingColumnError, match="there is no column 'stars'; the columns are 'who', 'what', 'when'"):
        Interactions.from_frame(lazy, user="who", item="what", rating="stars")


@pytest.mark.parametrize("kind", ["frame", "parquet", "jsonl"])
def test_ids_that_come_as_texts_stay_as_written(kind: str, tmp_path: Path) -> None:
    rows = pl.DataFrame({"who": ["1.0", "2.0", "1"], "what": ["1.0", "2.0", "3.0"]})
    path = tmp_path / f"log.{kind}"
    if kind != "frame":
        (rows.write_parquet if kind == "parquet" else rows.write_ndjson)(path)
    data = load_data(rows if kind == "frame" else path, user="who", item="what")
    assert data.to_frame().equals(rows)
    assert (data.n_users, data.n_items) == (3, 3)
    assert data.with_features(item_features=pl.DataFrame({"what": ["2.0"], "n": [7]})).item_features is not None
    assert data.with_features(item_features=rows.select("what", n="who")).item_relation("n").height == 3


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet", "csv.gz", "tsv.gz", "jsonl.gz"])
def test_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"log.{suffix}"
    kind = suffix.split(".")[0]
    if kind == "parquet":
        ROWS.write_parquet(path)
    else:
        text = {"csv": ROWS.write_csv(), "tsv": ROWS.write_csv(separator="\t"), "jsonl": ROWS.write_ndjson()}[kind]
        path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    _check(Interactions.read(path, **NAMES))
    _check(getattr(Interactions, f"from_{kind}")(path, **NAMES))


def test_folder_of_parquet_files_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "day=2").mkdir()
    ROWS[:2].write_parquet(tmp_path / "1.parquet")
    ROWS[2:].write_parquet(tmp_path / "day=2" / "2.parquet")
    (tmp_path / "_other.parquet").write_bytes(b"x")
    _check(Interactions.read(tmp_path, **NAMES))
    _check(Interactions.from_parquet(tmp_path, **NAMES))
    assert Interactions.from_parquet(tmp_path, user="who", item="what").log.columns == ["row", "user", "item"]


@pytest.mark.parametrize("separator", ["|", "::"])
def test_no_header_and_other_separators(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "ratings.dat"
    path.write_text("".join(separator.join(map(str, row)) + "\n" for row in ROWS.rows()))
    _check(Interactions.from_csv(path, separator=separator, names=["who", "what", "when", "stars"], **NAMES))
    path.write_text(separator.join(ROWS.columns) + "\n" + path.read_text())
    _check(Interactions.from_csv(path, separator=separator, **NAMES))


def test_quoted_fields_blank_lines_and_columns_that_are_not_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text('who,note,what\n"a,1","two\nlines",x\n\nb,,y\n\n')
    data = Interactions.from_csv(path, user="who", item="what")
    assert data.users.ids([0, 1]).to_list() == ["a,1", "b"]
    assert data.source.line(0) == 2
    assert data.source.line(1) == 5


@pytest.mark.parametrize(
    ("texts", "kept"),
    [
        (["7", "-3", "12"], [7, -3, 12]),
        (["007", "7", "12"], ["007", "7", "12"]),
        (["7", "x"], ["7", "x"]),
        (["+7"], ["+7"]),
        (["99999999999999999999"], ["99999999999999999999"]),
    ],
)
def test_ids_in_text_files_lose_nothing(tmp_path: Path, texts: list[str], kept: list[Any]) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id\n" + "".join(f"{text},1\n" for text in texts))
    assert Interactions.from_csv(path).users.ids(range(len(kept))).to_list() == kept


IDS: dict[str, list[Any]] = {
    "int": [5, -2, 7],
    "numpy int": [np.int64(5), np.int64(-2), np.int64(7)],
    "int and numpy int": [5, np.int64(-2), 7],
    "str": ["x", "", "ü"],
    "uuid": [uuid.UUID(int=3), uuid.UUID(int=1), uuid.UUID(int=2)],
    "date": [dt.date(2024, 5, 1), dt.date(2020, 1, 1), dt.date(2022, 1, 1)],
    "datetime": [dt.datetime(2024, 5, 1, 3), dt.datetime(2020, 1, 1), dt.datetime(2022, 1, 1)],
    "float": [0.5, -1.0, 2.0],
    "bool": [True, False],
    "bytes": [b"x", b"\xff"],
}


@pytest.mark.parametrize("kind", sorted(IDS))
@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_ids_of_any_type_come_back(kind: str, library: str, tmp_path: Path) -> None:
    ids = IDS[kind]
    if library == "pandas":
        frame: Any = pd.DataFrame({"u": pd.Series(ids, dtype=object if kind == "uuid" else None), "i": range(len(ids))})
    elif kind == "uuid":
        frame = pl.DataFrame({"u": pl.Series(ids, dtype=pl.Object), "i": range(len(ids))})
    else:
        frame = pl.DataFrame({"u": ids, "i": range(len(ids))})
    users = Interactions.from_frame(frame, user="u", item="i").users
    users.write(tmp_path / "ids.parquet")
    for same in (users, IdMap.read(tmp_path / "ids.parquet")):
        assert same.ids(range(len(ids))).to_list() == ids
        assert same.index(ids[::-1]).tolist() == list(range(len(ids)))[::-1]
    assert users.index([]).tolist() == []


WITHOUT_PYARROW = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pyarrow":
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Refuse())
import pandas as pd
import recgraph
frame = pd.DataFrame({"u": ["a", "b", "a"], "i": pd.array([1, 2, 3], dtype="Int64"), "t": pd.to_datetime(["2024"] * 3)})
data = recgraph.Interactions.from_frame(frame, user="u", item="i", timestamp="t")
print(data.to_frame()["i"].tolist(), data.users.ids([0, 1]).to_list(), data.time_unit)
"""


def test_pandas_needs_no_pyarrow() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_PYARROW], check=True, capture_output=True, text=True)
    assert done.stdout == "[1, 2, 3] ['a', 'b'] us\n"


def test_widths_are_kept() -> None:
    frame = pd.DataFrame({"u": np.array([3, 9], dtype=np.int16), "i": np.array([1, 2], dtype=np.uint64)})
    data = Interactions.from_frame(frame, user="u", item="i")
    pd.testing.assert_frame_equal(data.to_frame(), frame)
    assert data.users.index([9, 70_000, -1]).tolist() == [1, -1, -1]


def test_categories_come_back_as_their_values() -> None:
    frame = pd.DataFrame({"u": pd.Categorical(["b", "a", "b"]), "i": [1, 2, 3]})
    assert Interactions.from_frame(frame, user="u", item="i").users.ids([0, 1]).to_list() == ["b", "a"]


def test_id_map_against_a_dictionary() -> None:
    rng = np.random.default_rng(1)
    known = rng.permutation(1000)[:300]
    asked = rng.integers(0, 1000, 500)
    oracle = {int(value): place for place, value in enumerate(known)}
    found = IdMap(pl.Series(known)).index(asked)
    assert found.tolist() == [oracle.get(int(value), -1) for value in asked]


@pytest.mark.parametrize("kept", [2**64 - 1, 2**11, 1])
def test_ids_whose_first_hash_is_the_same_are_told_apart(
    kept: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ingest, "number_keys", lambda keys, checks: number_keys(keys % np.uint64(kept), checks))
    rng = np.random.default_rng(0)
    # short texts and long ones are held in two ways
    names = [f"{'a user with a long name ' * (number % 2)}{number}" for number in range(2000)]
    users, items = [names[place] for place in rng.integers(0, 2000, 60_000)], rng.integers(0, 500, 60_000)
    pl.DataFrame({"u": users, "i": items}).write_parquet(tmp_path / "log.parquet", row_group_size=7_000)
    data = Interactions.from_parquet(tmp_path / "log.parquet", user="u", item="i")
    places: dict[str, int] = {}
    assert data.log["user"].to_list() == [places.setdefault(name, len(places)) for name in users]
    assert data.users.values.to_list() == list(places)
    assert data.items.ids(data.log["item"].to_numpy()).to_list() == items.tolist()


def test_hashes_of_ids_cannot_be_foreseen() -> None:
    frame = pl.DataFrame({"u": ["a", "b", "a" * 300]})
    first, again = (frame.select(ingest._key("u", pl.String())).unnest("u") for _ in range(2))
    assert not (first["key"].is_in(again["key"].implode()) | first["check"].is_in(again["check"].implode())).any()
    assert not (first["key"].cast(pl.UInt32, wrap_numerical=True) == first["check"]).any()


@pytest.mark.parametrize(("end", "size"), [(0xC0AC29B7C97C50DD, 12), (0x3F84D5B5B5470917, 16)])
def test_bytes_that_polars_hashes_to_one_value_are_told_apart(end: int, size: int) -> None:
    """They end in a constant of its hash, with which a product is 0, whatever the seed."""
    values = [bytes([first]) * (size - 8) + end.to_bytes(8, "little") for first in range(4)]
    data = Interactions.from_frame(pl.DataFrame({"u": values * 2, "i": range(8)}), user="u", item="i")
    assert data.log["user"].to_list() == [0, 1, 2, 3] * 2
    assert data.users.values.to_list() == values


def test_ids_of_all_types_are_numbered_as_by_a_dictionary() -> None:
    drawn = np.random.default_rng(0).integers(0, 50, 400)
    day = dt.datetime(2024, 1, 1)
    columns = {
        "integers": (drawn - 20).tolist(),
        "far integers": [int(number) * 10**15 - 5 * 10**16 for number in drawn],
        "unsigned": pl.Series([2**64 - 1 - int(number) * 10**9 for number in drawn], dtype=pl.UInt64),
        "fractions": [[-0.0, 0.0, 0.25, 1e300][number % 4] for number in drawn],
        "days": [(day + dt.timedelta(days=int(number))).date() for number in drawn],
        "moments": [day + dt.timedelta(seconds=int(number)) for number in drawn],
        "booleans": [bool(number % 2) for number in drawn],
        "bytes": [bytes([0, number]) for number in drawn.tolist()],
    }
    for name, values in columns.items():
        frame = pl.DataFrame({"u": values, "i": drawn})
        data = Interactions.from_frame(frame, user="u", item="i")
        places: dict[Any, int] = {}
        assert data.log["user"].to_list() == [places.setdefault(value, len(places)) for value in frame["u"]], name
        assert data.users.values.to_list() == list(places), name


def test_id_map_refuses_what_cannot_be_an_id() -> None:
    users = IdMap(pl.Series([4, 2]))
    with pytest.raises(ValueError, match=r"\['4'\] are texts, but the log's ids are integers"):
        users.index(["4"])
    assert users.index(users.parse(["2", "x", "4"])).tolist() == [1, -1, 0]
    with pytest.raises(ValueError, match=r"index 2 .*\[0, 2\)"):
        users.ids([0, 2])
    with pytest.raises(ValueError, match="several types: int, str"):
        users.index([1, "x"])


STAMPS: dict[str, tuple[Any, list[int], str]] = {
    "seconds": ([20, 10], [20, 10], "own"),
    "nanoseconds": ([1_700_000_000_000_000_001, 5], [1_700_000_000_000_000_001, 5], "own"),
    "whole floats": ([20.0, 10.0], [20, 10], "own"),
    "fractions": ([20.25, 10.0], [20_250_000, 10_000_000], "seconds"),
    "dates": ([dt.date(1970, 1, 2), dt.date(1970, 1, 1)], [86_400_000_000, 0], "us"),
    "datetimes": ([dt.datetime(1970, 1, 1, 0, 0, 1), dt.datetime(1970, 1, 1)], [1_000_000, 0], "us"),
    "zoned": (
        [dt.datetime(1970, 1, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=1))), dt.datetime(1970, 1, 1, tzinfo=dt.UTC)],
        [3_600_000_000, 0],
        "us",
    ),
    "texts": (["1970-01-01T00:00:01.5", "1970-01-01T00:00:00"], [1_500_000, 0], "us"),
    "texts with zones": (["1970-01-01T02:00:01Z", "1970-01-01T02:00:01+02:00"], [7_201_000_000, 1_000_000], "us"),
    "mixed texts": (["1970-01-02", "1970-01-01 00:01"], [86_400_000_000, 60_000_000], "us"),
    "numbers as texts": (["20", " 10"], [20, 10], "own"),
    "floats after integers": (["20", "10.5"], [20_000_000, 10_500_000], "seconds"),
}


@pytest.mark.parametrize("case", sorted(STAMPS))
@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_timestamps(case: str, library: str) -> None:
    given, wanted, unit = STAMPS[case]
    columns = {"u": [1, 2], "i": [3, 4], "t": given}
    frame = pd.DataFrame(columns) if library == "pandas" and case != "zoned" else pl.DataFrame(columns)
    data = Interactions.from_frame(frame, user="u", item="i", timestamp="t")
    assert data.log["time"].to_list() == wanted
    assert data.time_unit == unit
    if case in ("seconds", "fractions", "datetimes"):  # as they came
        assert frame.equals(data.to_frame())


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_what_is_written_into_a_frame_later_is_not_in_the_log(library: str) -> None:
    columns = {
        "user": np.array([5, 5, 6]),
        "item": np.array([1, 2, 1]),
        "time": np.array([1, 2, 3]),
        "rating": np.array([1.0, 2.0, 3.0]),
        "weight": np.array([0.5, 1.0, 2.0]),
    }
    frame = pl.DataFrame(columns)
    if library == "pandas":
        frame = pd.DataFrame({name: pd.Series(values, copy=False) for name, values in columns.items()}, copy=False)
    names = {"user": "user", "item": "item", "timestamp": "time", "rating": "rating", "weight": "weight"}
    data = Interactions.from_frame(frame, **names)
    before = data.log.to_dict(as_series=False)
    for values in columns.values():
        values[:] = 0
    assert frame["rating"].to_list() == [0.0] * 3
    assert data.log.to_dict(as_series=False) == before


def test_ratings_and_weights_may_have_blanks_around_them(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,rating,weight,ts\n1,1, 5, 0.5 , 4\n1,2,3 ,1,5\n")
    data = Interactions.from_csv(path, rating="rating", weight="weight", timestamp="ts")
    assert data.log.select("rating", "weight", "time").rows() == [(5.0, 0.5, 4), (3.0, 1.0, 5)]


def test_sequences_keep_the_order_of_the_line(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("7 5 3 5\n\n4\t3 9 \n")
    data = Interactions.from_sequences(path)
    rows = data.ordered.items.to_lists()
    assert [data.items.ids(row).to_list() for row in rows] == [[5, 3, 5], [3, 9]]
    assert data.users.ids([0, 1]).to_list() == [7, 4]
    assert [data.source.line(row) for row in range(5)] == [1, 1, 1, 3, 3]
    assert data.columns.user == "user_id"


def _recbole(folder: Path) -> Path:
    folder.mkdir()
    (folder / "d.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t9\t3\t5\n2\t8\t4\t6.0\n"
    )
    (folder / "d.item").write_text(
        "item_id:token\ttitle:token_seq\tclass:token_seq\tprice:float\n"
        "9\tToy Story\tA B\t1.5\n8\tHeat\t\t\n77\tX\tB\t2\n"
    )
    (folder / "d.user").write_text("user_id:token\tage:token\n2\t30\n")
    return folder


def test_recbole_atomic_files(tmp_path: Path) -> None:
    data = Interactions.from_recbole(_recbole(tmp_path / "d"))
    assert data.users.ids([0, 1]).to_list() == [1, 2]
    assert data.log["time"].to_list() == [5, 6]
    assert data.item_features is not None
    assert data.user_features is not None
    assert data.item_features["title"].to_list() == ["Toy Story", "Heat", "X"]
    assert data.item_features["price"].to_list() == [1.5, None, 2.0]
    assert data.item_relation("class").rows() == [(9, "A"), (9, "B"), (77, "B")]
    assert data.user_relation("age").rows() == [(2, "30")]
    with pytest.raises(MissingColumnError, match=r"'tags'.*'title', 'class', 'price'"):
        data.item_relation("tags")
    (tmp_path / "d" / "d.inter").write_text("user_id:token\titem_id:token\n1\t9\n")
    assert Interactions.read(tmp_path / "d").time_unit == "none"


def test_an_atomic_file_whose_numbers_are_none(tmp_path: Path) -> None:
    folder = _recbole(tmp_path / "d")
    (folder / "d.item").write_text("item_id:token\tprice:float\n9\t 1.5\n8\tN/A\n77\t\n5\tnan\n")
    found = Interactions.from_recbole(folder).item_features
    assert found is not None
    assert found["price"].fill_nan(0).to_list() == [1.5, None, None, 0.0]
    (folder / "d.item").write_text("item_id:token\tprice:float\n9\t1.5\n\n8\t12,5\n")
    with pytest.raises(DataError, match=r"d\.item, line 4: '12,5' \(column 'price:float'\) is no number; write one"):
        Interactions.from_recbole(folder)


def test_an_atomic_log_is_read_without_its_times_and_ratings(tmp_path: Path) -> None:
    folder = _recbole(tmp_path / "d")
    assert Interactions.read(folder).log.columns == ["row", "user", "item", "rating", "time"]
    assert Interactions.read(folder, timestamp="none").log.columns == ["row", "user", "item", "rating"]
    assert Interactions.read(folder, rating="none").log.columns == ["row", "user", "item", "time"]


def test_features_of_a_frame() -> None:
    items = pd.DataFrame({"what": [10, 20], "tags": [["x", "y"], []], "place": ["p", "q"]})
    data = Interactions.from_frame(ROWS, **NAMES, item_features=items)
    assert data.item_relation("tags").rows() == [(10, "x"), (10, "y")]
    assert data.k_core(2, 2).item_features is not None
    with pytest.raises(MixedIdError, match=r"'who' of the features holds integers, the log's ids are texts"):
        data.with_features(user_features=pd.DataFrame({"who": [1], "age": [2]}))
    with pytest.raises(DataError, match="id 10 occurs several times"):
        data.with_features(item_features=pd.concat([items, items]))
    numbered = data.with_features(item_features=pd.DataFrame({0: [5, 6], "what": [10, 20], 1: ["x", "y"]}))
    assert numbered.item_features is not None
    assert numbered.item_features.columns == ["0", "what", "1"]
    assert numbered.item_relation("1").rows() == [(10, "x"), (20, "y")]


@pytest.mark.parametrize("kind", ["frame", "jsonl", "csv", "recbole"])
def test_keys_of_features_are_read_as_the_logs_ids(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = ["7.0", "1000.0", "007", "9", "x"]
    (tmp_path / "d.inter").write_text("u:token\ti:token\n1\t7.0\n1\t1000\n2\t9\n")
    features = pl.DataFrame({"i": keys, "n": range(5)})
    given: Any = features
    if kind == "recbole":
        lines = (f"{key}\t{n}" for n, key in enumerate(keys))
        (tmp_path / "d.item").write_text("\n".join(["i:token\tn:float", *lines]))
        given = None
    elif kind != "frame":
        given = tmp_path / f"features.{kind}"
        (features.write_csv if kind == "csv" else features.write_ndjson)(given)
    data = load_data(tmp_path / "d.inter", user="u", item="i", item_features=given)
    assert data.items.values.to_list() == [7, 1000, 9]
    assert data.item_features is not None
    assert data.item_features.rows() == [(7, 0), (1000, 1), (9, 3)]
    assert "item_features: 2 of 5 rows are left out: the log's ids are integers, and in column 'i' '007'" in caplog.text


def test_keys_of_features_may_be_categories() -> None:
    for dtype in (pl.Categorical(), pl.Enum(["x", "y"])):
        frame = pl.DataFrame({"u": [1, 2], "i": pl.Series(["x", "y"], dtype=dtype)})
        data = Interactions.from_frame(frame, user="u", item="i", item_features=frame.select("i", n="u"))
        assert data.item_features is not None
        assert data.item_features.rows() == [("x", 1), ("y", 2)]


def test_arrays_in_cells_and_infinite_ids() -> None:
    vectors = pd.DataFrame({"i": [5, 6, 7], "v": [np.array([1.0, 2.0]), None, np.array([3.0, 4.0])]})
    data = Interactions.from_frame(pl.DataFrame({"u": [1, 2], "i": [5, 6]}), user="u", item="i", item_features=vectors)
    assert data.item_features is not None
    assert data.item_features["v"].to_list() == [[1.0, 2.0], None, [3.0, 4.0]]
    infinite = pd.DataFrame({"u": pd.Series([1, float("inf")], dtype=object), "i": [5, 6]})
    with pytest.raises(MixedIdError, match=r"row 1 .*column 'u' holds inf \(float\), but before it 1"):
        Interactions.from_frame(infinite, user="u", item="i")


@pytest.mark.parametrize("role", ["user", "item", "timestamp"])
def test_a_column_may_be_named_row(role: str, tmp_path: Path) -> None:
    names = {"user": "u", "item": "i", "timestamp": "t", role: "row"}
    columns = {"user": ["a", "b"], "item": ["x", "y"], "timestamp": [5, 4]}
    frame = pl.DataFrame({names[of]: values for of, values in columns.items()})
    data = Interactions.from_frame(frame, **names)
    assert data.log["row"].to_list() == [0, 1]
    assert data.to_frame().equals(frame)
    frame.write_csv(tmp_path / "log.csv")
    assert Interactions.from_csv(tmp_path / "log.csv", **names).to_frame().equals(frame)
    with pytest.raises(MissingIdError, match=rf"row 1 .*{names['user']!r}"):
        Interactions.from_frame(frame.with_columns(pl.Series(names["user"], ["a", None])), **names)


BOM = "\ufeff"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["csv", "names", "long", "jsonl", "texts", "sequences"])
def test_byte_order_mark(kind: str, packed: bool, tmp_path: Path) -> None:
    text = {
        "csv": "user_id,item_id\n1,7\n2,8\n",
        "names": "1::7\n2::8\n",
        "long": "user_id::item_id\n1::7\n2::8\n",
        "jsonl": '{"user_id": 1, "item_id": 7}\n\n{"user_id": 2, "item_id": 8}\n',
        "texts": '{"user_id": "1", "item_id": 7}\n{"user_id": "2", "item_id": 8}\n',
        "sequences": "1 7\n2 8\n",
    }[kind]
    path = tmp_path / "log"
    content = (BOM + text).encode()
    path.write_bytes(gzip.compress(content) if packed else content)
    read: dict[str, Callable[[], Interactions]] = {
        "csv": lambda: Interactions.from_csv(path),
        "names": lambda: Interactions.from_csv(path, separator="::", names=["user_id", "item_id"]),
        "long": lambda: Interactions.from_csv(path, separator="::"),
        "jsonl": lambda: Interactions.from_jsonl(path),
        "texts": lambda: Interactions.from_jsonl(path),
        "sequences": lambda: Interactions.from_sequences(path),
    }
    data = read[kind]()
    assert data.users.values.to_list() == (["1", "2"] if kind == "texts" else [1, 2])
    assert data.items.values.to_list() == [7, 8]
    assert data.source.line(1) == {"csv": 3, "names": 2, "long": 3, "jsonl": 3, "texts": 2, "sequences": 2}[kind]


def test_save_and_load(tmp_path: Path) -> None:
    items = pl.DataFrame({"what": [10, 20], "place": ["p", "q"]})
    data = Interactions.from_frame(ROWS.to_pandas(), **NAMES, item_features=items)
    data.save(tmp_path / "saved")
    again = Interactions.load(tmp_path / "saved")
    _check(again)
    assert again.item_features is not None
    assert again.item_features.equals(items)
    pd.testing.assert_frame_equal(again.to_frame(), ROWS.to_pandas())
    assert again.split("ratio").hash == data.split("ratio").hash


def test_saving_over_a_folder_leaves_nothing_of_what_was_there(tmp_path: Path) -> None:
    data = Interactions.from_frame(ROWS, **NAMES)
    graph = HeteroGraph.from_edge_lists(
        {"item": 3, "tag": 1}, {("item", "has", "tag"): ([0], [0])}, {"item": np.eye(3)}
    )
    data.with_features(graph=graph).save(tmp_path)
    assert Interactions.load(tmp_path).graph is not None
    data.save(tmp_path)
    assert Interactions.load(tmp_path).graph is None
    assert not (tmp_path / "graph").exists()
    (tmp_path / "graph").mkdir()
    (tmp_path / "graph" / "mine.txt").write_text("of somebody else")
    data.save(tmp_path)
    assert (tmp_path / "graph" / "mine.txt").is_file()
    assert Interactions.load(tmp_path).graph is None


def test_real_files(shared: Path) -> None:
    beauty = Interactions.from_sequences(shared / "data" / "sequences" / "Amazon_Beauty.txt")
    assert (beauty.n_users, beauty.n_items, beauty.n_interactions) == (22_363, 12_101, 198_502)
    assert beauty.k_core(5, 5) is beauty
    split = beauty.split("leave-one-out")
    assert int((split.train.items.lengths - 1).sum()) == 131_413
    movies = Interactions.from_recbole(shared / "data" / "ml-100k")
    assert (movies.n_users, movies.n_items, movies.n_interactions) == (943, 1_682, 100_000)
    assert movies.item_relation("class")["class"].n_unique() > 10
    times = movies.ordered.times
    assert times is not None
    ends = movies.ordered.items.offsets[1:]
    assert int((times[ends - 1] == times[ends - 2]).sum()) == 415


def test_ids_without_interactions_are_numbered_behind_the_others(tmp_path: Path) -> None:
    data = Interactions.from_frame(ROWS, **NAMES)
    more = data.with_ids(users=["z", "a", "z"], items=np.array([7, 30, 5]))
    assert more.users.values.to_list() == ["b", "a", "c", "z"]
    assert more.items.values.to_list() == [30, 10, 20, 7, 5]
    assert more.ordered.items.to_lists() == [*data.ordered.items.to_lists(), []]
    assert more.to_frame().equals(ROWS)
    more.save(tmp_path)
    assert Interactions.load(tmp_path).items.values.to_list() == [30, 10, 20, 7, 5]
    split = more.split("leave-one-out", short_users="train")
    assert (split.train.n_users, split.train.n_items) == (4, 5)
    assert split.hash != data.split("leave-one-out", short_users="train").hash
    assert more.deduplicate() is more
    assert more.min_rating(2).n_items == 3  # filters number anew what is left of the log
    ids = [uuid.UUID(int=n) for n in (3, 1)]
    frame = pd.DataFrame({"who": ids, "what": [1, 2]})
    assert Interactions.from_frame(frame, user="who", item="what").with_ids(users=[uuid.UUID(int=2)]).users.ids(
        [2]
    ).to_list() == [uuid.UUID(int=2)]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ({"users": [1]}, "integers, but the log's ids are texts"),
        ({"items": [1, None]}, r"None \(place 1, from 0\) is missing"),
        ({"users": "abc"}, "must be a list"),
    ],
)
def test_ids_that_cannot_be_added(ids: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Interactions.from_frame(ROWS, **NAMES).with_ids(**ids)
