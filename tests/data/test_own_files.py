"""Files of one's own: every format, packing and encoding, guessed columns, and ids that are not quite clean."""

from __future__ import annotations

import bz2
import gzip
import logging
import lzma
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import recgraph as rg
from recgraph.data import catalog, errors
from recgraph.data.catalog.cards import Card
from recgraph.data.catalog.own import write_card
from recgraph.data.log_file import LogFile, is_data_path
from recgraph.data.reading import Reading

ROWS = [(f"u{n % 5}", n % 7, 1_700_000_000 + n, n % 5 + 1) for n in range(40)]
TABLE = pl.DataFrame(ROWS, schema=["userId", "movieId", "ts", "stars"], orient="row")
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: bytes(pa.compress(data, codec="zstd", asbytes=True)),
}


def _texts(data: rg.Interactions) -> list[tuple[object, ...]]:
    return [tuple(row) for row in data.to_frame().rows()]


@pytest.mark.parametrize("packed", list(PACKERS))
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_text_files_packed_in_any_way(kind: str, packed: str, tmp_path: Path) -> None:
    separator = "\t" if kind == "tsv" else ","
    text = TABLE.write_ndjson() if kind == "jsonl" else TABLE.write_csv(separator=separator)
    path = tmp_path / f"log.{kind}{packed}"
    path.write_bytes(PACKERS[packed](text.encode()))
    data = rg.load_data(path)
    assert data.columns.named() == ["userId", "movieId", "ts", "stars"]
    assert _texts(data) == [(*row[:3], float(row[3])) for row in ROWS]


def test_parquet_recbole_and_sequences(tmp_path: Path) -> None:
    TABLE.write_parquet(tmp_path / "log.parquet")
    head = "userId:token\tmovieId:token\tts:float\tstars:float\n"
    (tmp_path / "log.inter").write_text(head + TABLE.write_csv(separator="\t", include_header=False))
    expected = [(*row[:3], float(row[3])) for row in ROWS]
    assert _texts(rg.load_data(tmp_path / "log.parquet")) == expected
    assert _texts(rg.load_data(tmp_path / "log.inter")) == expected
    (tmp_path / "lists.txt").write_text("a 1 2\nb 3\n")
    assert _texts(rg.load_data(tmp_path / "lists.txt", format="sequences")) == [("a", 1), ("a", 2), ("b", 3)]
    with pytest.raises(ValueError, match=r"lists\.txt.*format="):
        rg.load_data(tmp_path / "lists.txt")


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "jsonl", "parquet"])
def test_folders_and_patterns_are_one_log_and_errors_name_the_file(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    (folder / "june").mkdir(parents=True)
    parts = [TABLE[:15], TABLE[15:16], TABLE[16:]]
    places = [folder / f"a.{kind}", folder / "june" / f"b.{kind}", folder / f"z.{kind}"]

    def write(frame: pl.DataFrame, path: Path) -> None:
        if kind == "parquet":
            frame.write_parquet(path)
            return
        text = frame.write_ndjson() if kind == "jsonl" else frame.write_csv()
        path.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())

    for frame, path in zip(parts, places, strict=True):
        write(frame, path)
    (folder / "_SUCCESS").write_text("")
    (folder / ".hidden.csv").write_text("x\n")
    whole = [(*row[:3], float(row[3])) for row in ROWS]
    assert _texts(rg.load_data(folder)) == whole
    assert _texts(rg.load_data(str(folder / "**" / f"*.{kind}"))) == whole
    assert _texts(rg.load_data(f"{folder}/[az].{kind}")) == whole[:15] + whole[16:]
    # columns in another order are the same columns; a missing id is found in its file
    write(parts[2].select("stars", "movieId", "ts", "userId"), places[2])
    assert _texts(rg.load_data(folder)) == whole
    broken = parts[2].with_columns(userId=pl.when(pl.int_range(pl.len()) == 3).then(None).otherwise("userId"))
    write(broken, places[2])
    place = {"parquet": r"row 3 \(from 0\)", "jsonl": "line 4"}.get(kind, "line 5")
    with pytest.raises(errors.MissingIdError, match=rf"z\.{kind}, {place}: the user id"):
        rg.load_data(folder)
    write(parts[2].rename({"userId": "who"}), places[2])
    with pytest.raises(errors.MissingColumnError, match=rf"z\.{kind}.*'userId'"):
        rg.load_data(folder)


def test_nothing_there_and_several_formats(tmp_path: Path) -> None:
    for name in ("log.csv", "*.csv", "."):
        with pytest.raises(FileNotFoundError, match=r"not there|pattern|no file"):
            rg.load_data(str(tmp_path / name))
    TABLE.write_csv(tmp_path / "a.csv")
    TABLE.write_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"csv, parquet; give format= \(--data-format\)"):
        rg.load_data(tmp_path)
    assert len(rg.load_data(tmp_path, format="csv")) == 40


@pytest.mark.parametrize(
    ("encoding", "names"),
    [("latin-1", ["Zoë", "José"]), ("utf-16", ["Zoë", "日本"]), ("cp1252", ["Zoë", "€"]), ("utf-8-sig", ["Zoë", "日"])],
)
def test_encodings(encoding: str, names: list[str], tmp_path: Path) -> None:
    text = "user_id,item_id\n" + "".join(f"{name},{place}\n" for place, name in enumerate(names))
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress(text.encode(encoding)))
    given = {} if encoding == "utf-8-sig" else {"encoding": encoding}
    assert rg.load_data(path, **given).users.ids([0, 1]).to_list() == names
    if encoding == "latin-1":
        with pytest.raises(errors.EncodingError, match=r"line 2: .*encoding='latin-1'"):
            rg.load_data(path)
        with pytest.raises(errors.EncodingError, match=r"after line \d is not ascii"):
            rg.load_data(path, encoding="ascii")
    with pytest.raises(ValueError, match="encoding = 'klingon'"):
        rg.load_data(path, encoding="klingon")


@pytest.mark.parametrize("packed", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_damaged_file_says_so(kind: str, packed: str, tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": np.random.default_rng(0).integers(1 << 60, size=4000), "item": range(4000)})
    whole = PACKERS[packed]((frame.write_ndjson() if kind == "jsonl" else frame.write_csv()).encode())
    path = tmp_path / f"log.{kind}{packed}"
    for cut in (len(whole) // 2, 40):
        path.write_bytes(whole[:cut])
        with pytest.raises(errors.DataError, match=rf"log\.{kind}\{packed}: .*(damaged|read)"):
            rg.load_data(path)


def test_lines_are_named_in_a_file_of_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes("user;item;stars\nZoë;1;5\nZoë;;4\nJosé;2;-1\n".encode("latin-1"))
    with pytest.raises(errors.MissingIdError, match=r"log\.csv, line 3: the item id"):
        rg.load_data(path, encoding="latin-1")
    data = rg.load_data(path, encoding="latin-1", missing_ids="drop")
    with pytest.raises(errors.RatingError, match=r"line 4: the rating -1"):  # the plain copy is gone by now
        data.min_rating(0)
    data.save(tmp_path / "saved")
    with pytest.raises(errors.RatingError, match=r"line 4: the rating -1"):
        rg.Interactions.load(tmp_path / "saved").min_rating(0)


def test_columns_are_guessed_from_usual_names_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for header, found in {
        "userId,movieId,rating,timestamp": ["userId", "movieId", "timestamp", "rating"],
        "uid;sku;score;event_time": ["uid", "sku", "event_time", "score"],
        "timestamp,visitorid,event,itemid,transactionid": ["visitorid", "itemid", "timestamp"],
        "t_dat,customer_id,article_id,price,sales_channel_id": ["customer_id", "article_id", "t_dat"],
        "asin,product,reviewerID,overall,unixReviewTime": ["reviewerID", "asin", "unixReviewTime", "overall"],
        "user_id,customer_id,product_id,product,Date": ["user_id", "product_id", "Date"],
    }.items():
        mark = ";" if ";" in header else ","
        names = header.split(mark)
        row = mark.join("3" if name != "t_dat" else "2020-01-01" for name in names)
        path = tmp_path / "log.csv"
        path.write_text(f"{header}\n{row}\n")
        if header.startswith("asin"):  # two columns may each be the item
            with pytest.raises(errors.AmbiguousColumnError, match=r"'asin', 'product' .* item='asin' \(--item asin\)"):
                rg.load_data(path)
            data = rg.load_data(path, item="asin")
        else:
            with caplog.at_level(logging.INFO, "recgraph"):
                data = rg.load_data(path)
            assert f"user = '{found[0]}', item = '{found[1]}'" in caplog.text
        assert data.columns.named() == found


def test_columns_that_cannot_be_guessed(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("who,item,time,date,score\na,1,5,6,7\n")
    with pytest.raises(errors.MissingColumnError, match=r"looks like the user.*--user NAME.*'who', 'item'"):
        rg.load_data(path)
    with pytest.raises(errors.AmbiguousColumnError, match=r"'time', 'date' .*timestamp.*\(--time time\).*'none'"):
        rg.load_data(path, user="who")
    data = rg.load_data(path, user="who", timestamp="none", rating="none")
    assert data.columns.named() == ["who", "item"]
    with pytest.raises(errors.MissingColumnError, match="'what'"):
        rg.load_data(path, user="what")
    path.write_text("196,242,3,881250949\n186,302,3,891717742\n")
    with pytest.raises(errors.MissingColumnError, match="names="):
        rg.load_data(path)
    assert len(rg.load_data(path, names=["user", "item", "rating", "time"])) == 2


def test_another_separator_than_the_given_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id\n1,2\n")
    for separator in (";", "::"):
        with pytest.raises(errors.MissingColumnError, match=r"separated by ',': separator=',' \(--separator ,\)\.$"):
            rg.load_data(tmp_path / "log.csv", separator=separator)


def test_a_spreadsheet_is_to_be_saved_as_csv(tmp_path: Path) -> None:
    (tmp_path / "log.xlsx").touch()
    with pytest.raises(ValueError, match=r"log\.xlsx' is a spreadsheet, which is not read; save it as csv"):
        rg.load_data(tmp_path / "log.xlsx")


def test_a_duplicated_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id,ts,user_id\n1,2,3,4\n")
    (tmp_path / "log.dat").write_text("user_id::item_id::item_id\n1::2::3\n")
    for read in (rg.load_data, rg.Interactions.read):
        with pytest.raises(errors.DuplicateColumnError, match=r"log\.csv, line 1: .*'user_id' 2 times.*columns 1, 4"):
            read(tmp_path / "log.csv")
        with pytest.raises(errors.DuplicateColumnError, match=r"'item_id' 2 times.*columns 2, 3"):
            read(tmp_path / "log.dat")
    frame = pd.DataFrame([[1, 2, 3]], columns=["user_id", "item_id", "user_id"])
    with pytest.raises(errors.DuplicateColumnError, match=r"'user_id' 2 times.*columns 1, 3"):
        rg.Interactions.from_frame(frame, user="user_id", item="item_id")


def test_whole_floats_are_integers_and_that_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ids = [1000.0, 1001.0, 1000.0, 1002.0]
    frame = pd.DataFrame({"u": ids, "i": [10, 11, 12, 10]})
    frame.to_csv(tmp_path / "floats.csv", index=False)
    frame.to_json(tmp_path / "floats.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "floats.parquet")
    with caplog.at_level(logging.INFO, "recgraph"):
        logs = [rg.Interactions.from_frame(frame, user="u", item="i")]
        assert [r.getMessage() for r in caplog.records if "whole floats" in r.getMessage()] == [
            "frame: the user ids (column 'u') are whole floats, such as 1000.0; they are read as integers"
        ]
    logs += [rg.load_data(path, user="u", item="i") for path in sorted(tmp_path.glob("floats.*"))]
    for data in logs:
        assert data.users.ids([0, 1, 2]).to_list() == [1000, 1001, 1002]
        assert data.log["user"].to_list() == [0, 1, 0, 2]
        assert data.users.index([1000]).tolist() == data.users.index([1000.0]).tolist() == [0]
        assert data.users.parse(["1000", "1000.0", "x"]).to_list() == [1000, 1000, None]
    # written in both ways they are one id; a fraction is none
    (tmp_path / "both.csv").write_text("u,i\n7,1\n7.0,2\n8.00,1\n")
    both = rg.load_data(tmp_path / "both.csv", user="u", item="i")
    assert (both.users.ids([0, 1]).to_list(), both.log["user"].to_list()) == ([7, 8], [0, 0, 1])
    (tmp_path / "half.csv").write_text("u,i\n7.5,1\n7.0,2\n")
    assert rg.load_data(tmp_path / "half.csv", user="u", item="i").users.ids([0, 1]).to_list() == ["7.5", "7.0"]
    large = pd.DataFrame({"u": [2.0**60, 1.0], "i": [1, 2]})
    with pytest.raises(
        errors.MixedIdError, match=r"row 0 .*'u' holds 1\.15.*e\+18, which is a float that may stand for"
    ):
        rg.Interactions.from_frame(large, user="u", item="i")


def test_pandas_ids_beside_a_nan(caplog: pytest.LogCaptureFixture) -> None:
    frame = pd.DataFrame({"u": [1000, np.nan, 1001, np.nan, 1000], "i": [1, 2, 3, 4, 5]})
    assert frame["u"].dtype == float
    message = r"row 1 \(from 0\): the user id \(column 'u'\) is missing \(2 rows have none; .*row 3.*missing_ids='drop'"
    with pytest.raises(errors.MissingIdError, match=message):
        rg.Interactions.from_frame(frame, user="u", item="i")
    data = rg.Interactions.from_frame(frame, user="u", item="i", missing_ids="drop")
    assert "2 rows without a user or an item are left out" in caplog.text
    assert data.to_frame()["u"].tolist() == [1000, 1001, 1000]
    assert data.items.ids([0, 1, 2]).to_list() == [1, 3, 5]  # the items of dropped rows are none of the log
    mixed = pd.DataFrame({"u": pd.Series([7, 8.0, 7], dtype=object), "i": [1, 2, 3]})
    assert rg.Interactions.from_frame(mixed, user="u", item="i").users.ids([0, 1]).to_list() == [7, 8]


def test_a_column_that_turned_to_text_says_which_line_did_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [f"{1000 + n % 50},{n % 20}" for n in range(400)]
    rows[216] = "unknown,3"
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id\n" + "\n".join(rows) + "\n")
    data = rg.load_data(path)
    said = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 1
    assert f"{path}, line 218: the id 'unknown' (column 'user_id')" in said[0].getMessage()
    assert data.users.ids([0]).to_list() == ["1000"]
    caplog.clear()
    path.write_text("user_id,item_id\nB01,3\nB02,7\n1234567890,7\n")  # texts among which one looks like a number
    rg.load_data(path)
    assert not caplog.records


def test_missing_ids_in_a_file_name_their_lines_and_can_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,ts\n1,2,3\n,2,4\n1,3,5\n,2,6\n1,,7\n2,2,late\n")
    with pytest.raises(errors.MissingIdError, match=r"line 3: the user id .* \(2 rows have none; .*line 5"):
        rg.load_data(path)
    with pytest.raises(errors.TimestampError, match=r"line 7: .*'late'"):  # lines count those that are left out
        rg.load_data(path, missing_ids="drop")
    data = rg.load_data(path, missing_ids="drop", timestamp="none")
    assert _texts(data) == [(1, 2), (1, 3), (2, 2)]


def test_date_formats(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,item,when\na,1,31/12/2024 23:30\na,2,01/01/2025 00:15\n")
    with pytest.raises(errors.TimestampError, match="time_format="):
        rg.load_data(path)
    data = rg.load_data(path, time_format="%d/%m/%Y %H:%M")
    assert [str(time) for time in data.to_frame()["when"]] == ["2024-12-31 23:30:00", "2025-01-01 00:15:00"]
    path.write_text("user,item,when\na,1,31.12.24\na,2,02.01.25\na,3,1.1\n")
    with pytest.raises(errors.TimestampError, match=r"line 4: .*'1\.1'"):
        rg.load_data(path, time_format="%d.%m.%y")
    with pytest.raises(errors.TimestampError, match=r"line 2: .*'31\.12\.24'.*time_format='%Q'"):
        rg.load_data(path, time_format="%Q")
    path.write_text("user,item,day\na,1,20241231\n")
    assert str(rg.load_data(path, time_format="%Y%m%d").to_frame()["day"][0]) == "2024-12-31 00:00:00"


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "jsonl", "parquet"])
def test_files_of_features(kind: str, tmp_path: Path) -> None:
    films = pl.DataFrame({"itemId": list(range(9)), "title": [f"Film {n}" for n in range(9)], "year": [1990] * 9})
    path = tmp_path / f"films.{kind}"
    if kind == "parquet":
        films.write_parquet(path)
    else:
        text = films.write_ndjson() if kind == "jsonl" else films.write_csv(separator=";")
        path.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())
    TABLE.write_csv(tmp_path / "log.csv")
    for given in (path, films.rename({"itemId": "movieId"})):
        data = rg.load_data(tmp_path / "log.csv", item_features=given)
        assert data.item_features is not None
        assert data.item_features.to_dicts()[3] == {"movieId": 3, "title": "Film 3", "year": 1990}
    with pytest.raises(errors.MissingColumnError, match=r"user features need the column 'userId'.*'title'"):
        rg.load_data(tmp_path / "log.csv", user_features=path)
    with pytest.raises(FileNotFoundError, match="nothing"):
        rg.load_data(tmp_path / "log.csv", item_features=tmp_path / "nothing.csv")


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_features_separated_by_two_characters(packed: str, tmp_path: Path) -> None:
    path = tmp_path / f"films.dat{packed}"
    text = 'movieId::title::year\n0::"Odd", Café::1990\n1::::\n2::Film, 2::1992\n'
    path.write_bytes(PACKERS[packed](text.encode("latin-1")))
    TABLE.write_csv(tmp_path / "log.csv")
    data = rg.load_data(tmp_path / "log.csv", item_features=path, encoding="latin-1")
    assert data.item_features is not None
    assert data.item_features.rows() == [(0, '"Odd", Café', 1990), (1, None, None), (2, "Film, 2", 1992)]
    path.write_bytes(PACKERS[packed](b"movieId::title\n0::a\n1::a::b\n"))
    with pytest.raises(errors.DelimiterError, match=rf"films\.dat{packed}, line 3: 3 fields separated by '::'"):
        rg.load_data(tmp_path / "log.csv", item_features=path)


@pytest.mark.parametrize("separator", [",", "::"])
@pytest.mark.parametrize(
    ("texts", "values", "stray"),
    [
        (["007", "7", "07", ""], ["007", "7", "07", None], "007"),
        (["1", "-0", "3", ""], ["1", "-0", "3", None], "-0"),
        (["01234", "1.5", "2", ""], ["01234", "1.5", "2", None], "01234"),
        (["+1.5", "2", "", "3"], ["+1.5", "2", None, "3"], "+1.5"),
        (["1", "1234567890123456789", "NaN", ""], ["1", "1234567890123456789", "NaN", None], "1234567890123456789"),
        (["7", "-12", "0", ""], [7, -12, 0, None], None),
        (["0.5", "1.50", "-0.25", "1e3"], [0.5, 1.5, -0.25, 1000.0], None),
        (["true", "false", "", "true"], [True, False, None, True], None),
        (["a", "007", "", "1.5"], ["a", "007", None, "1.5"], None),
    ],
)
def test_codes_in_files_of_features_stay_as_written(
    separator: str, texts: list[str], values: list[Any], stray: str | None, tmp_path: Path, caplog: Any
) -> None:
    path = tmp_path / "films.csv"
    lines = [separator.join(("movieId", "code", "year"))]
    lines += [separator.join((str(place), text, "1990")) for place, text in enumerate(texts)]
    path.write_text("\n".join(lines) + "\n")
    TABLE.write_csv(tmp_path / "log.csv")
    found = rg.load_data(tmp_path / "log.csv", item_features=path).item_features
    assert found is not None
    assert found["code"].to_list() == values
    assert found["year"].to_list() == [1990] * 4
    if stray is None:
        assert "plain number" not in caplog.text
    else:
        said = f"films.csv, line {texts.index(stray) + 2}: {stray!r} (column 'code' of the features) is no plain number"
        assert said in caplog.text


@pytest.mark.parametrize(
    ("form", "option", "value"),
    [
        ("sequences", "timestamp", "when"),
        ("sequences", "rating", "stars"),
        ("sequences", "weight", "w"),
        ("sequences", "separator", ","),
        ("parquet", "separator", ";"),
        ("parquet", "names", ("user", "item")),
        ("parquet", "encoding", "latin-1"),
        ("jsonl", "separator", ";"),
        ("jsonl", "names", ("user", "item")),
        ("recbole", "separator", ";"),
    ],
)
def test_options_that_say_nothing_of_a_format_are_refused(form: Any, option: str, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "log"
    frame = pl.DataFrame({"user": [1, 2], "item": [3, 4]})
    if form == "parquet":
        frame.write_parquet(path)
    elif form == "jsonl":
        frame.write_ndjson(path)
    elif form == "recbole":
        path = path.with_suffix(".inter")
        path.write_text("user:token\titem:token\n1\t3\n2\t4\n")
    else:
        path.write_text("1 3\n2 4\n")
    default = "none" if option in ("timestamp", "rating") else "UTF-8" if option == "encoding" else None
    rg.load_data(path, format=form, **({} if default is None else {option: default}))
    message = re.escape(f"{option} = {value!r} says nothing of files of format {form!r}; leave it out")
    with pytest.raises(ValueError, match=message):
        rg.load_data(path, format=form, **{option: value})
    with pytest.raises(ValueError, match=message):
        LogFile(str(path), Reading(**{"format": form, option: value})).completed()
    if option != "encoding":  # another part may be a text
        with pytest.raises(ValueError, match=message):
            rg.Split.from_parts(path, test=path, format=form, **{option: value})


def test_a_parquet_log_has_features_in_any_encoding(tmp_path: Path) -> None:
    pl.DataFrame({"user": [1, 2], "item": [3, 4]}).write_parquet(tmp_path / "log.parquet")
    (tmp_path / "films.csv").write_bytes("item,title\n3,Café\n".encode("latin-1"))
    data = rg.load_data(tmp_path / "log.parquet", item_features=tmp_path / "films.csv", encoding="latin-1")
    assert data.item_features is not None
    assert data.item_features.rows() == [(3, "Café")]


def test_fingerprints_and_names_of_paths(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    TABLE.write_csv(path)
    file = LogFile(str(path))
    before = file.fingerprint()
    assert (before["files"], before["size"]) == (1, path.stat().st_size)
    path.write_text(path.read_text().replace("u0", "u9", 1))
    assert file.fingerprint()["sha256"] != before["sha256"]
    assert file.completed() == Reading.of(user="userId", item="movieId", timestamp="ts", rating="stars")
    for name in ("log.csv", "log.parquet", "a.jsonl.gz", "./log", "/data/log", "logs/*.x", "*.csv"):
        assert is_data_path(name)
    for name in ("", "ml-100k", "card.toml", "/data/card.toml", "amazon-beauty"):
        assert not is_data_path(name)


@pytest.mark.slow
def test_two_hundred_thousand_dirty_rows(tmp_path: Path) -> None:
    generator, n = np.random.default_rng(0), 200_000
    times = pd.to_datetime(generator.integers(1_600_000_000, 1_700_000_000, n), unit="s")
    frame = pd.DataFrame(
        {
            "customer_id": generator.integers(100_000, 120_000, n).astype(float),
            "sku": generator.integers(1, 5_000, n),
            "event_time": times.strftime("%Y-%m-%d %H:%M:%S"),
        }
    )
    frame.loc[generator.choice(n, 50, replace=False), "customer_id"] = np.nan
    frame.to_csv(tmp_path / "log.csv.gz", index=False)
    data = rg.load_data(tmp_path / "log.csv.gz", missing_ids="drop")
    clean = frame.dropna()
    assert data.to_frame()["customer_id"].to_list() == clean["customer_id"].astype(int).tolist()
    assert data.to_frame()["sku"].to_list() == clean["sku"].tolist()
    assert data.to_frame()["event_time"].cast(pl.String).str.head(19).to_list() == clean["event_time"].tolist()


def test_files_beside_a_log_behind_a_card_are_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))
    (tmp_path / "toy.inter").write_text("user_id:token\titem_id:token\n1\t1\n1\t2\n2\t1\n")
    (tmp_path / "toy.item").write_text("item_id:token\ttitle:token_seq\n1\tA\n2\tB\n")
    (tmp_path / "mine.toml").write_text('name = "mine"\n[data]\nfile = "toy.inter"\n')

    def titles() -> list[str]:
        features = rg.load_dataset(str(tmp_path / "mine.toml")).item_features
        assert features is not None
        found: list[str] = features["title"].to_list()
        return found

    assert titles() == ["A", "B"]
    (tmp_path / "toy.item").write_text("item_id:token\ttitle:token_seq\n1\tA\n2\tBetter\n")
    assert titles() == ["A", "Better"]


def test_a_file_given_in_place_of_the_card_s_own_is_what_is_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))
    card, moved = tmp_path / "mine.toml", tmp_path / "moved.csv"
    card.write_text('name = "mine"\n[data]\nfile = "log.csv"\n')
    moved.write_text("user_id,item_id\n1,1\n1,2\n")
    assert catalog.get(str(card), moved).counts["interactions"] == 2
    assert len(rg.load_dataset(str(card))) == 2, "log.csv need not be there"
    moved.write_text("user_id,item_id\n1,1\n1,2\n1,3\n")
    assert len(rg.load_dataset(str(card))) == 3
    moved.unlink()
    with pytest.raises(FileNotFoundError, match=r"moved\.csv"):
        rg.load_dataset(str(card))


def test_a_file_given_in_place_of_one_that_is_there_does_not_stay_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))
    card, own, archive = tmp_path / "mine.toml", tmp_path / "log.csv", tmp_path / "archive.csv"
    card.write_text('name = "mine"\n[data]\nfile = "log.csv"\n')
    own.write_text("user_id,item_id\n1,1\n1,2\n")
    archive.write_text("user_id,item_id\n1,1\n1,2\n2,1\n")
    assert catalog.get(str(card), archive).counts["interactions"] == 3
    assert catalog.get(str(card), archive).counts["interactions"] == 3
    assert len(rg.load_dataset(str(card))) == 2
    assert f"dataset mine: {archive} took the place of its file, which is read now" in caplog.text
    assert catalog.get(str(card)).cached
    own.write_text("user_id,item_id\n1,1\n")
    assert len(rg.load_dataset(str(card))) == 1
    assert catalog.get(str(card), own).counts["interactions"] == 1
    assert catalog.get(str(card)).cached


@pytest.mark.parametrize("form", ["sequences", "csv"])
def test_a_card_of_a_folder_says_the_format_of_its_files(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.csv").write_text("user_id,item_id\n1,1\n1,2\n" if form == "csv" else "1 1 2\n")
        other = "b.jsonl" if form == "csv" else "b.txt"
        (tmp_path / name / other).write_text('{"no": "log"}\n' if form == "csv" else "2 1 2\n")
    card = tmp_path / "mine.toml"
    card.write_text(f'name = "mine"\n[data]\ntrain = "train"\ntest = "test"\nformat = "{form}"\n')
    first = catalog.get(str(card))
    assert catalog.get(str(card)) == replace(first, cached=True)
    path = tmp_path / "test" / "a.csv"
    path.write_text(path.read_text() + ("1,3\n" if form == "csv" else "3 1\n"))
    assert catalog.get(str(card)).counts["interactions"] == first.counts["interactions"] + 1


def test_a_card_in_a_linked_folder_finds_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "cards").symlink_to(tmp_path / "real" / "deep")
    (tmp_path / "logs").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "log.csv").write_text("user_id,item_id\n1,1\n1,2\n")
    for number, path in enumerate((tmp_path / "logs" / "log.csv", tmp_path / "logs" / "*.csv", tmp_path / "logs")):
        card, _ = write_card(str(path), tmp_path / "cards" / f"c{number}.toml")
        assert len(rg.load_dataset(str(card))) == 2


def test_a_card_says_what_ratings_below_0_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))
    (tmp_path / "log.csv").write_text("user_id,item_id,rating\n1,1,-1\n1,2,5\n1,3,2\n")
    card = tmp_path / "mine.toml"
    card.write_text('name = "mine"\n[data]\nfile = "log.csv"\n[prepare]\nmin_rating = 3\n')
    before = Card.load(card).hash
    with pytest.raises(errors.RatingError, match='in a card negative = "drop"'):
        rg.load_dataset(str(card))
    card.write_text(card.read_text() + 'negative = "error"\n')
    assert Card.load(card).hash == before
    card.write_text(card.read_text().replace('"error"', '"drop"'))
    assert Card.load(card).hash != before
    assert len(rg.load_dataset(str(card))) == 1
