"""Each bad input has its own error, with the file and the line."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from recgraph import Interactions
from recgraph.data import errors

GOOD = "user_id,item_id,rating,ts\n" + "".join(f"u{i % 4},i{i % 3},{i % 5},{100 + i}\n" for i in range(12))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def _write(content: str | bytes, name: str = "log.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return _write


Write = Callable[..., Path]


def _line(text: str, number: int, line: str) -> str:
    lines = text.splitlines()
    lines[number - 1] = line
    return "\n".join(lines) + "\n"


def test_missing_column_names_the_columns_there_are(write: Write) -> None:
    with pytest.raises(errors.MissingColumnError, match=r"'time'.*'user_id', 'item_id', 'rating', 'ts'"):
        Interactions.from_csv(write(GOOD), timestamp="time")
    with pytest.raises(errors.MissingColumnError, match=r"'nobody'.*'a', 'b'"):
        Interactions.from_frame(pl.DataFrame({"a": [1], "b": [2]}), user="nobody", item="b")
    with pytest.raises(errors.MissingColumnError, match=r"'item_id'.*'user_id', 'what'"):
        Interactions.from_jsonl(write('{"user_id": 1, "what": 2}\n', "log.jsonl"))


@pytest.mark.parametrize("late", [False, True])
def test_unparsable_timestamp_in_text(write: Write, late: bool) -> None:
    text = GOOD * 1 if not late else GOOD + "u1,i1,1,5\n" * 2000
    number = 7 if not late else 1500
    path = write(_line(text, number, "u9,i9,3,yesterday"))
    with pytest.raises(errors.TimestampError, match=rf"log\.csv, line {number}: .*'yesterday'") as caught:
        Interactions.from_csv(path, timestamp="ts")
    assert (caught.value.path, caught.value.line) == (path, number)


def test_unparsable_timestamp_among_dates_and_from_the_start(write: Write) -> None:
    dates = "user_id,item_id,ts\na,b,2024-01-01\n\na,c,2024-01-02\nb,c,2024-13-40\n"
    with pytest.raises(errors.TimestampError, match=r"line 5: .*'2024-13-40'"):  # the blank line counts
        Interactions.from_csv(write(dates), timestamp="ts")
    with pytest.raises(errors.TimestampError, match=r"line 2: .*'soon'"):
        Interactions.from_csv(write("user_id,item_id,ts\na,b,soon\n"), timestamp="ts")
    with pytest.raises(errors.TimestampError, match=r"line 3: .*missing"):
        Interactions.from_csv(write("user_id,item_id,ts\na,b,1\na,c,\n"), timestamp="ts")


def test_missing_timestamp_in_a_frame() -> None:
    frame = pd.DataFrame({"u": [1, 2], "i": [3, 4], "t": pd.to_datetime(["2024-01-01", None])})
    with pytest.raises(errors.TimestampError, match=r"row 1 .*missing"):
        Interactions.from_frame(frame, user="u", item="i", timestamp="t")
    with pytest.raises(errors.TimestampError, match="Boolean"):
        Interactions.from_frame(frame.assign(t=[True, False]), user="u", item="i", timestamp="t")


@pytest.mark.parametrize("stamps", [[1.0, np.inf], [1.5, -np.inf], [1.0, 1e300], [1.5, 1e300]])
def test_timestamps_beyond_all_numbers(write: Write, stamps: list[float]) -> None:
    frame = pl.DataFrame({"u": [1, 2], "i": [3, 4], "t": stamps})
    given = re.escape(str(stamps[1]))
    with pytest.raises(errors.TimestampError, match=rf"row 1 \(from 0\): .*'t'\) {given} cannot be read"):
        Interactions.from_frame(frame, user="u", item="i", timestamp="t")
    text = write("".join(f"{n},{n},{stamp}\n" for n, stamp in enumerate(stamps)))
    with pytest.raises(errors.TimestampError, match=rf"line 2: .*'{given}' cannot be read"):
        Interactions.from_csv(text, user="u", item="i", timestamp="t", names=["u", "i", "t"])


@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.jsonl", "log.parquet", "log.inter"])
def test_empty_file(write: Write, name: str) -> None:
    path = write("", name)
    with pytest.raises(errors.EmptyLogError, match="empty"):
        Interactions.read(path)


def test_file_without_rows_and_empty_frame(write: Write) -> None:
    with pytest.raises(errors.EmptyLogError, match="only a header"):
        Interactions.from_csv(write("user_id,item_id\n"))
    with pytest.raises(errors.EmptyLogError):
        Interactions.from_sequences(write("\n\n", "log.txt"))
    with pytest.raises(errors.EmptyLogError):
        Interactions.from_frame(pl.DataFrame({"u": [], "i": []}), user="u", item="i")


def test_wrong_delimiter(write: Write) -> None:
    with pytest.raises(errors.DelimiterError, match=r"line 1: .*separator=';'"):
        Interactions.from_csv(write(GOOD.replace(",", ";")))
    with pytest.raises(errors.DelimiterError, match=r"line 1: .*separator='\\t'"):
        Interactions.from_csv(write(GOOD.replace(",", "\t")))
    with pytest.raises(errors.DelimiterError, match=r"line 1: .*separator='::'"):
        Interactions.from_csv(write("1::2::3\n1::3::4\n"), names=["user_id", "item_id", "ts"])
    with pytest.raises(errors.DelimiterError, match=r"line 1: .*by ','"):
        Interactions.from_sequences(write("1,2,3\n2,3,4\n", "log.txt"))


def test_line_with_too_many_fields(write: Write) -> None:
    with pytest.raises(errors.DelimiterError, match=r"line 6: 5 fields"):
        Interactions.from_csv(write(_line(GOOD, 6, "u1,i1,2,103,7")))


@pytest.mark.parametrize("names", [["user_id", "item_id", "ts"], ["user_id", "item_id", "rating", "x", "ts"]])
def test_names_that_are_not_as_many_as_the_fields_between_long_separators(write: Write, names: list[str]) -> None:
    path = write("\n1::2::5::100\n1::3::4::101\n", "ratings.dat")
    with pytest.raises(errors.DelimiterError, match=rf"ratings\.dat, line 2: 4 fields .*'::'.* {len(names)} names"):
        Interactions.from_csv(path, separator="::", names=names, timestamp="ts")


@pytest.mark.parametrize("line", ["u1::i1::2::103::7", "u1::i1"])
def test_line_with_another_number_of_fields_between_long_separators(write: Write, line: str) -> None:
    path = write(_line(GOOD.replace(",", "::"), 6, line))
    with pytest.raises(errors.DelimiterError, match=rf"line 6: {line.count('::') + 1} fields .* 4 names"):
        Interactions.from_csv(path, separator="::")


def test_user_without_items_in_a_sequence_file(write: Write) -> None:
    with pytest.raises(errors.MissingIdError, match=r"line 2: user '8'"):
        Interactions.from_sequences(write("7 1 2\n8\n", "log.txt"))


def test_mixed_id_types_in_a_frame() -> None:
    frame = pd.DataFrame({"u": pd.Series([1, 2, "x", 3], dtype=object), "i": [1, 2, 3, 4]})
    with pytest.raises(errors.MixedIdError, match=r"row 2 .*'u' holds 'x' \(str\).*1 \(int\)"):
        Interactions.from_frame(frame, user="u", item="i")
    late = pd.DataFrame({"u": pd.Series(["a"] * 100 + [3], dtype=object), "i": range(101)})  # types are inferred of 100
    with pytest.raises(errors.MixedIdError, match=r"row 100 .*'u' holds 3 \(int\).*'a' \(str\)"):
        Interactions.from_frame(late, user="u", item="i")


@pytest.mark.parametrize(("first", "odd"), [("1", '"1"'), ('"1"', "1"), ("1", "[1]")])
@pytest.mark.parametrize("late", [False, True])
def test_mixed_id_types_in_json(write: Write, first: str, odd: str, late: bool) -> None:
    many = 2000 if late else 3
    text = f'{{"user_id": {first}, "item_id": 2}}\n' * many + f'{{"user_id": {odd}, "item_id": 2}}\n'
    with pytest.raises(errors.MixedIdError, match=f"line {many + 1}: .*'user_id'"):
        Interactions.from_jsonl(write(text, "log.jsonl"))


def test_missing_ids(write: Write) -> None:
    nan = pd.DataFrame({"u": [1.0, np.nan, 2.0], "i": ["a", "b", "c"]})
    with pytest.raises(errors.MissingIdError, match=r"row 1 .*user id \(column 'u'\)"):
        Interactions.from_frame(nan, user="u", item="i")
    with pytest.raises(errors.MissingIdError, match=r"row 2 .*user id.*NaN"):
        Interactions.from_frame(pl.DataFrame({"u": [1.0, 2.0, float("nan")], "i": [1, 2, 3]}), user="u", item="i")
    with pytest.raises(errors.MissingIdError, match=r"row 1 .*item id"):
        Interactions.from_frame(pd.DataFrame({"u": [1, 2], "i": ["a", None]}), user="u", item="i")
    with pytest.raises(errors.MissingIdError, match=r"line 5: the user id"):
        Interactions.from_csv(write(_line(GOOD, 5, ",i1,2,103")))
    with pytest.raises(errors.MissingIdError, match=r"line 2: the item id"):
        Interactions.from_jsonl(write('{"user_id": 1, "item_id": 2}\n{"user_id": 1}\n', "log.jsonl"))


def test_negative_rating_under_a_threshold(write: Write) -> None:
    data = Interactions.from_csv(write(_line(GOOD, 8, "u1,i0,-1,106")), rating="rating")
    with pytest.raises(errors.RatingError, match=r"line 8: the rating -1 is negative .*negative='drop'"):
        data.min_rating(3)
    with pytest.raises(errors.RatingError, match="line 8"):  # also after another filter
        data.k_core(2, 2).min_rating(3)
    assert data.min_rating(0, negative="drop").n_interactions == 11
    with pytest.raises(errors.DataError, match="rating="):
        Interactions.from_csv(write(GOOD)).min_rating(3)


def test_ratings_and_weights_that_are_no_numbers(write: Write) -> None:
    with pytest.raises(errors.RatingError, match=r"line 4: the rating 'good'"):
        Interactions.from_csv(write(_line(GOOD, 4, "u1,i1,good,103")), rating="rating")
    with pytest.raises(errors.RatingError, match=r"line 4: the weight '-2'"):
        Interactions.from_csv(write(_line(GOOD, 4, "u1,i1,-2,103")), weight="rating")


def test_user_with_one_interaction_under_leave_one_out(write: Write) -> None:
    path = write("user_id,item_id\na,1\na,2\na,3\nb,1\na,4\n")
    with pytest.raises(errors.ShortUserError, match=r"line 5: .*user 'b' has 1 \(1 of 2 users.*short_users='train'"):
        Interactions.from_csv(path).split("leave-one-out", short_users="error")


def test_corrupt_parquet(write: Write, tmp_path: Path) -> None:
    pl.DataFrame({"user_id": range(1000), "item_id": range(1000)}).write_parquet(tmp_path / "good.parquet")
    whole = (tmp_path / "good.parquet").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"PAR1" + b"x" * 100 + b"PAR1", b"not parquet at all"):
        with pytest.raises(errors.CorruptFileError, match=r"bad\.parquet: "):
            Interactions.from_parquet(write(damaged, "bad.parquet"))
    flipped = bytearray(whole)
    flipped[4:200] = bytes(196)
    with pytest.raises(errors.CorruptFileError, match=r"bad\.parquet: "):
        Interactions.from_parquet(write(bytes(flipped), "bad.parquet"))


@pytest.mark.parametrize("name", ["log.csv.gz", "log.tsv.gz", "log.jsonl.gz"])
def test_corrupt_gzip(write: Write, name: str) -> None:
    # noise does not compress, so that half of the file is far from the header
    rows = np.random.default_rng(0).integers(1 << 60, size=(4000, 2)).tolist()
    mark = "\t" if "tsv" in name else ","
    if "json" in name:
        text = "".join(f'{{"user_id": {u}, "item_id": {i}}}\n' for u, i in rows)
    else:
        text = f"user_id{mark}item_id\n" + "".join(f"{u}{mark}{i}\n" for u, i in rows)
    whole = gzip.compress(text.encode())
    assert Interactions.read(write(whole, name)).n_interactions == 4000
    broken = bytearray(whole)
    broken[len(whole) // 2 : len(whole) // 2 + 400] = bytes(400)
    for damaged in (whole[: len(whole) // 2], whole[:40], bytes(broken)):
        with pytest.raises(errors.CorruptFileError, match="gzip file is damaged"):
            Interactions.read(write(damaged, name))


@pytest.mark.parametrize("packed", [False, True])
def test_not_utf8(write: Write, packed: bool) -> None:
    text = GOOD.encode() + "café,i1,1,999\n".encode("latin-1")
    path = write(gzip.compress(text) if packed else text, "log.csv")
    with pytest.raises(errors.EncodingError, match=r"line 14: byte 4 of the line \(0xe9\) is not UTF-8"):
        Interactions.from_csv(path)
    with pytest.raises(errors.EncodingError, match="line 2"):
        Interactions.from_sequences(write("u 1 2\ncafé 1 2\n".encode("latin-1"), "log.txt"))


def test_broken_json(write: Write) -> None:
    for many in (2, 2000):
        text = '{"user_id": 1, "item_id": 2}\n' * many
        with pytest.raises(errors.CorruptFileError, match=f"line {many + 1}: the line is not JSON"):
            Interactions.from_jsonl(write(text + '{"user_id": 1, "item_id"\n', "log.jsonl"))


def test_broken_recbole_header(write: Write) -> None:
    with pytest.raises(errors.CorruptFileError, match=r"line 1: header field 'item_id'"):
        Interactions.from_recbole(write("user_id:token\titem_id\n1\t2\n", "log.inter"))


def test_missing_file_and_unknown_format(write: Write, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.csv"):
        Interactions.from_csv(tmp_path / "nothing.csv")
    with pytest.raises(ValueError, match="format="):
        Interactions.read(write("1 2 3\n", "log.txt"))
    with pytest.raises(ValueError, match=r"list.*pandas, polars, pyarrow"):
        Interactions.from_frame([1, 2], user="u", item="i")
