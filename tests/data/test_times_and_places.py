"""Times in the forms that people write, empty ids in quotes, and folders as disks and archives leave them."""

from __future__ import annotations

import datetime as dt
import decimal
import gzip
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import recgraph as rg
from recgraph.data import errors
from recgraph.data.log_file import LogFile
from recgraph.data.reading import Reading

FIRST = dt.datetime(2024, 5, 1, 9, 30)


def log(folder: Path, times: Sequence[str]) -> Path:
    path = folder / "log.csv"
    path.write_text("user_id,item_id,timestamp\n" + "".join(f'1,{n},"{time}"\n' for n, time in enumerate(times)))
    return path


def times_of(path: Path, time_format: str | None = None) -> list[dt.datetime]:
    return list(rg.load_data(path, time_format=time_format).to_frame()["timestamp"])


@pytest.mark.parametrize(
    "times", [("05/01/24", "06/01/24"), ("05-01-24", "06-01-24"), ("05/01/24 12:30", "1/6/24 9:00")]
)
def test_years_of_two_digits_are_no_years_of_the_first_century(tmp_path: Path, times: Sequence[str]) -> None:
    with pytest.raises(errors.TimestampError, match=r"line 2: .*time_format="):
        rg.load_data(log(tmp_path, times))


def test_a_format_of_four_digits_does_not_read_two(tmp_path: Path) -> None:
    path = log(tmp_path, ("01/05/24", "02/05/24"))
    with pytest.raises(errors.TimestampError, match="has not the form"):
        rg.load_data(path, time_format="%d/%m/%Y")
    assert times_of(path, "%d/%m/%y") == [dt.datetime(2024, 5, 1), dt.datetime(2024, 5, 2)]


def test_the_year_1_stands_for_no_date_in_some_systems(tmp_path: Path) -> None:
    path = log(tmp_path, ("0001-01-01T00:00:00", "2024-05-01T09:30:00"))
    assert times_of(path) == [dt.datetime(1, 1, 1), FIRST]


def test_a_form_of_times_needs_times(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id\n1,2\n1,3\n")
    frame = pl.read_csv(path)
    said = r"time_format = '%Y' says how timestamps are written, and the log has none: name their column"
    for read in (
        lambda: rg.load_data(path, time_format="%Y"),
        lambda: rg.load_data(frame, time_format="%Y"),
        lambda: rg.Interactions.from_frame(frame, user="user_id", item="item_id", time_format="%Y"),
        lambda: rg.Interactions.from_csv(path, time_format="%Y"),
        lambda: rg.Split.from_parts(frame, test=frame, time_format="%Y"),
        lambda: LogFile(str(path), Reading(time_format="%Y")).completed(),
    ):
        with pytest.raises(ValueError, match=said):
            read()
    # what reads a log again, or a later one, gives the form that the first log was read by
    assert rg.Interactions.from_files(LogFile(str(path), Reading(time_format="%Y"))).time_unit == "none"


def test_fractions_that_are_no_seconds() -> None:
    frame = pl.DataFrame({"user_id": [1, 2], "item_id": [1, 2], "timestamp": [1.7e15 + 0.5, 1.7e15 + 1]})
    with pytest.raises(errors.TimestampError, match=r"row 0 .*1700000000000000\.5 is too large for seconds, which num"):
        rg.load_data(frame)


@pytest.mark.parametrize(
    ("time_format", "text"),
    [
        ("%d/%m/%Y %-H:%M", "1/5/2024 9:30"),
        ("%d/%m/%Y %k:%M", "1/5/2024  9:30"),
        ("%d/%m/%Y %r", "01/05/2024 09:30:00 AM"),
        ("%d/%m/%Y %-I:%M %p", "1/5/2024 9:30 AM"),
        ("%+", "2024-05-01T11:30:00+02:00"),
    ],
)
def test_no_letter_of_a_clock_is_left_out(tmp_path: Path, time_format: str, text: str) -> None:
    assert times_of(log(tmp_path, [text]), time_format) == [FIRST]


@pytest.mark.filterwarnings("error")
def test_fractions_of_a_second_are_read_as_python_writes_them(tmp_path: Path) -> None:
    path = log(tmp_path, ("2024-05-01 09:30:00.123456", "2024-05-01 09:30:00.5", "2024-05-01 09:30:00"))
    found = [time - FIRST for time in times_of(path, "%Y-%m-%d %H:%M:%S.%f")]
    assert found == [dt.timedelta(microseconds=n) for n in (123456, 500000, 0)]


def test_fractions_behind_a_comma_need_their_digits(tmp_path: Path) -> None:
    path = log(tmp_path, ["2024-05-01 09:30:00,123"])
    with pytest.raises(ValueError, match=r"time_format = .*'%3f'"):
        rg.load_data(path, time_format="%Y-%m-%d %H:%M:%S,%f")
    assert times_of(path, "%Y-%m-%d %H:%M:%S,%3f") == [FIRST + dt.timedelta(milliseconds=123)]


def test_names_of_zones_are_not_overlooked(tmp_path: Path) -> None:
    form = "%Y-%m-%d %H:%M %Z"
    assert times_of(log(tmp_path, ["2024-05-01 09:30 UTC", "2024-05-01 09:30 GMT"]), form) == [FIRST, FIRST]
    with pytest.raises(errors.TimestampError, match=r"line 2: .*names of zones"):
        rg.load_data(log(tmp_path, ["2024-05-01 09:30 EST"]), time_format=form)
    with pytest.raises(errors.TimestampError, match=r"line 3: .*EST"):
        rg.load_data(log(tmp_path, ["2024-05-01 09:30 UTC", "2024-05-01 09:31 EST"]), time_format=form)


@pytest.mark.parametrize(
    "text", ["2024-05-01T09:30Z", "2024-05-01T11:30+02:00", "2024-05-01 09:30:00 UTC", "2024-05-01 09:30:00.000 UTC"]
)
def test_usual_forms_with_a_zone_need_no_format(tmp_path: Path, text: str) -> None:
    assert times_of(log(tmp_path, [text])) == [FIRST]


def test_an_empty_id_in_quotes_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text('"user_id","item_id"\n"1","2"\n"","3"\n"4",""\n"4","2"\n')
    with pytest.raises(errors.MissingIdError, match=r"line 3: the user id .* is missing"):
        rg.load_data(path)
    kept = rg.load_data(path, missing_ids="drop").to_frame()
    assert kept.rows() == [(1, 2), (4, 2)]


def test_ids_that_are_words_for_missing_ones_are_told(caplog: pytest.LogCaptureFixture) -> None:
    users = [str(user) for user in ("a", float("nan"), "b", float("nan"), "NULL")]
    frame = pd.DataFrame({"user_id": users, "item_id": [1, 2, 3, 4, 5]})
    assert len(rg.load_data(frame)) == 5
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert message.startswith("row 1 (from 0): the user id 'nan' (column 'user_id') is a word for a missing one")
    assert "in 3 rows with 'NULL'" in message
    caplog.clear()
    rg.load_data(frame.assign(user_id=["a", "b", "nana", "Nan", "none"]))
    assert not caplog.records or "missing" not in caplog.text


def test_ids_with_blanks_around_them_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user_id, item_id\n1, 12\n2, 12\n2, 13\n")
    assert rg.load_data(path).items.values.to_list() == [" 12", " 13"]
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert message.startswith(f"{path}, line 2: the item id ' 12' (column ' item_id') has blanks around it, as 2 of 2")
    assert "another one than '12'" in message
    assert "separator=', '" in message
    caplog.clear()
    assert rg.load_data(path, separator=", ").items.values.to_list() == [12, 13]
    rg.load_data(pd.DataFrame({"user_id": ["a b", "c"], "item_id": [1, 2]}))
    assert not caplog.text
    rg.load_data(pd.DataFrame({"user_id": ["a", "c "], "item_id": [1, 2]}))
    assert "row 1 (from 0): the user id 'c ' (column 'user_id') has blanks around it, as 1 of 2" in caplog.text
    assert "separator" not in caplog.text


DAYS = ["2024-01-02", "2024-01-01", "2024-01-03"]


@pytest.mark.parametrize(
    ("times", "read"),
    [
        (pd.Categorical(DAYS), None),
        (pd.PeriodIndex(DAYS, freq="D"), None),
        (pl.Series(DAYS, dtype=pl.Categorical), None),
        (pl.Series(DAYS, dtype=pl.Enum(sorted(DAYS))), None),
        (pd.Categorical([7, 5, 9]), [7, 5, 9]),
        ([decimal.Decimal(n) for n in (7, 5, 9)], [7, 5, 9]),
        (pl.Series([7, 5, 9]).cast(pl.Decimal(20, 2)), [7, 5, 9]),
        ([decimal.Decimal(n) / 4 for n in (7, 5, 9)], [1.75, 1.25, 2.25]),
    ],
    ids=str,
)
def test_times_of_a_frame_that_are_categories_periods_or_decimals(times: object, read: list[float] | None) -> None:
    frame: Any = {"user_id": [1, 1, 1], "item_id": [1, 2, 3], "timestamp": times}
    data = rg.load_data((pl.DataFrame if isinstance(times, pl.Series) else pd.DataFrame)(frame))
    found = pl.DataFrame(data.to_frame())["timestamp"]
    assert found.to_list() == (read or [dt.datetime.fromisoformat(day) for day in DAYS])


@pytest.mark.parametrize(
    "given",
    [
        pd.Categorical(["4", "2.5", "5"]),
        pd.Categorical([4, 2.5, 5]),
        pl.Series(["4", "2.5", "5"], dtype=pl.Categorical),
        pl.Series(["4", "2.5", "5"], dtype=pl.Enum(["2.5", "4", "5"])),
        pl.Series([4.0, 2.5, 5.0]).cast(pl.Decimal(38, 1)),
    ],
    ids=lambda given: f"{type(given).__module__.partition('.')[0]} {given.dtype}",
)
def test_ratings_and_weights_of_a_frame_that_are_categories_or_decimals(given: Any) -> None:
    kind: Any = pl.DataFrame if isinstance(given, pl.Series) else pd.DataFrame
    frame = kind({"user": [1, 1, 1], "item": [1, 2, 3], "rating": given, "weight": given})
    data = rg.load_data(frame, weight="weight")
    assert data.log["rating"].to_list() == data.log["weight"].to_list() == [4, 2.5, 5]
    split = rg.Split.from_parts(train=frame, test=kind({"user": [1], "item": [1], "rating": [3]}))
    assert split.interactions.log["rating"].to_list() == [4, 2.5, 5, 3]


def test_a_rating_that_is_a_category_and_no_number_is_named() -> None:
    frame = pd.DataFrame({"user": [1, 1], "item": [1, 2], "rating": pd.Categorical(["4", "good"])})
    with pytest.raises(errors.RatingError, match=r"row 1 .*the rating 'good' \(column 'rating'\) is not a number"):
        rg.load_data(frame)


def test_columns_of_pandas_without_names_are_found_by_their_numbers() -> None:
    features = pd.DataFrame({1: [5], 2: ["a"]})
    data = rg.load_data(pd.DataFrame([[1, 5], [2, 6]]), user="0", item="1", item_features=features)
    assert data.to_frame().to_numpy().tolist() == [[1, 5], [2, 6]]
    assert data.item_features is not None
    assert data.item_features["2"].to_list() == ["a"]


def test_features_with_a_byte_order_mark(tmp_path: Path) -> None:
    rows = [{"item_id": 5, "title": "ä"}, {"item_id": 6, "title": "b"}]
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8-sig")
    data = rg.load_data(pl.DataFrame({"user_id": [1, 2], "item_id": [5, 6]}), item_features=path)
    assert data.item_features is not None
    assert data.item_features["title"].to_list() == ["ä", "b"]


def test_features_of_no_item_of_the_log_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user_id, item_id\n1, 5\n2, 6\n")
    features = pl.DataFrame({" item_id": ["5", "6", "7"], "title": ["a", "b", "c"]})
    rg.load_data(path, item_features=features)
    assert (
        "none of the 3 rows is of an id of the log: column ' item_id' holds '5', where the log has ids such as ' 5'"
        in (caplog.text)
    )
    caplog.clear()
    rg.load_data(path, item_features=features.with_columns(pl.Series(" item_id", [" 6", "6", "7"])))
    assert "none of the" not in caplog.text


def folder_of(place: Path) -> Path:
    folder = place / "logs"
    folder.mkdir()
    (folder / "a.csv").write_text("user_id,item_id\n1,2\n")
    return folder


def test_a_pattern_in_a_folder_whose_name_looks_like_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "shop [old]" / "*"
    place.mkdir(parents=True)
    folder = folder_of(place)
    (folder / "b.csv").write_text("user_id,item_id\n7,8\n")
    monkeypatch.chdir(place)
    for pattern in ("logs/*.csv", str(folder / "[ab].csv"), "**/*.csv", "./lo*/?.csv"):
        data = rg.load_data(pattern)
        assert data.to_frame().rows() == [(1, 2), (7, 8)]
        assert data.files is not None
        assert len(data.files.files) == 2  # by the absolute path
    with pytest.raises(FileNotFoundError, match="no file fits"):
        rg.load_data("logs/*.tsv")


@pytest.mark.parametrize("name", ["log[1]", "lo?", "*"])
@pytest.mark.parametrize("kind", ["csv", "csv.gz", "csv.zst", "dat", "jsonl", "parquet", "txt"])
def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path, name: str, kind: str) -> None:
    own, other = pl.DataFrame({"user_id": [1, 2], "item_id": [3, 4]}), pl.DataFrame({"user_id": [7], "item_id": [8]})
    separator = "::" if kind == "dat" else ","
    for stem, frame in ((name, own), ("log1", other), ("log", other)):
        path = tmp_path / f"{stem}.{kind}"
        text = separator.join(frame.columns) + "".join(f"\n{user}{separator}{item}" for user, item in frame.rows())
        if kind == "parquet":
            frame.write_parquet(path)
        elif kind == "jsonl":
            frame.write_ndjson(path)
        elif kind == "txt":
            path.write_text("".join(f"{user} {item}\n" for user, item in frame.rows()))
        elif kind == "csv.zst":
            path.write_bytes(pa.compress(text.encode(), codec="zstd", asbytes=True))
        else:
            path.write_bytes(gzip.compress(text.encode()) if kind == "csv.gz" else text.encode())
    data = rg.load_data(tmp_path / f"{name}.{kind}", format="sequences" if kind == "txt" else None)
    assert data.to_frame().rows() == own.rows()
    if kind in ("csv", "csv.gz", "jsonl", "parquet"):
        read = rg.load_data(own, item_features=tmp_path / f"{name}.{kind}").item_features
        assert read is not None
        assert read["item_id"].to_list() == [3, 4]


def test_linked_folders_are_part_of_a_folder(tmp_path: Path) -> None:
    folder, other = folder_of(tmp_path), tmp_path / "other"
    other.mkdir()
    (other / "b.csv").write_text("user_id,item_id\n7,8\n")
    (folder / "older").symlink_to(other)
    (folder / "around").symlink_to(folder)
    assert rg.load_data(folder).to_frame().rows() == [(1, 2), (7, 8)]


def test_a_zip_archive_is_not_left_out_in_silence(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    with zipfile.ZipFile(folder / "b.csv.zip", "w") as archive:
        archive.writestr("b.csv", "user_id,item_id\n7,8\n")
    for path in (folder, folder / "b.csv.zip"):
        with pytest.raises(ValueError, match=r"b\.csv\.zip' is packed .*unpack it"):
            rg.load_data(path)
    with pytest.raises(errors.CorruptFileError, match="zip archive"):
        rg.load_data(folder / "b.csv.zip", format="csv")
    (folder / "b.csv.zip").rename(folder / "notes.zip")
    assert len(rg.load_data(folder)) == 1
