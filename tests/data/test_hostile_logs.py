"""Files of strangers and damaged ones: each is read right, or has an error that says what is wrong and where."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import random
import tracemalloc
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import forging
import polars as pl
import pytest

from recgraph import Interactions, load_data
from recgraph.data import errors
from recgraph.data.readers import scan_parquet

GOOD = "user_id,item_id,rating\n" + "".join(f"u{i % 4},i{i % 3},{i % 5}\n" for i in range(12))
GIB = 1 << 30

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def _write(content: str | bytes, name: str = "log.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return _write


def _with_hole(path: Path, before: bytes, after: bytes = b"\n") -> Path:
    """A file with a gigabyte of NUL bytes within, which take no place on the disk."""
    with path.open("wb") as file:
        file.write(before)
        file.seek(GIB, 1)
        file.write(after)
    return path


@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.jsonl", "log.inter", "log.txt"])
def test_a_line_of_a_gigabyte_is_refused_and_never_held(tmp_path: Path, name: str) -> None:
    heads = {"log.jsonl": b'{"user_id": 1, "item_id": 2}\n', "log.inter": b"user_id:token\titem_id:token\n1\t2\n"}
    head = heads.get(
        name, b"user_id,item_id\n1,2\n".replace(b",", b"\t") if "tsv" in name else b"user_id,item_id\n1,2\n"
    )
    path = _with_hole(tmp_path / name, head)
    line = head.count(b"\n") + 1
    tracemalloc.start()
    with pytest.raises(errors.DelimiterError, match=rf"{name}, line {line}: the line is longer than 16,384 KiB"):
        load_data(path, format="sequences" if name == "log.txt" else None)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


def test_a_first_line_without_end_is_refused(write: Write) -> None:
    text = "user_id,item_id" + ",x" * (1 << 20)
    for path in (write(text), write(gzip.compress(text.encode()), "log.csv.gz")):
        with pytest.raises(errors.DelimiterError, match=r"line 1: the line is longer than 1,024 KiB"):
            load_data(path)


def test_lines_of_any_allowed_length_are_found(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    from recgraph.data import lines

    monkeypatch.setattr(lines, "LONGEST_LINE", 40)
    monkeypatch.setattr(lines, "_BLOCK", 7)
    for long in range(30, 50):
        texts = ["a" * 12, "b" * 40, "c" * long, "d" * 3] * 3
        path = write("\n".join(texts), "log.txt")
        if long <= 40:
            lines.check_lines(path, "utf-8")
        else:
            with pytest.raises(errors.DelimiterError, match="line 3: "):
                lines.check_lines(path, "utf-8")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_another_encoding_is_named_and_read_where_it_is_given(write: Write, encoding: str) -> None:
    path = write(GOOD.encode(encoding))
    with pytest.raises(errors.EncodingError, match=r"line 1: byte \d of the line is NUL.*encoding='utf-16'"):
        load_data(path)
    assert load_data(path, encoding=encoding).to_frame().equals(load_data(write(GOOD, "good.csv")).to_frame())


def test_a_byte_that_is_nul_stays_in_an_id(write: Write) -> None:
    data = load_data(write(GOOD + "a\0b,i1,3\n"))
    assert data.to_frame()["user_id"].to_list()[-1] == "a\0b"


def test_lines_that_end_in_a_carriage_return_alone(write: Write) -> None:
    with pytest.raises(errors.DelimiterError, match=r"line 1: lines end in CR alone"):
        load_data(write(GOOD.replace("\n", "\r")))
    assert load_data(write(GOOD.replace("\n", "\r\n"))).n_interactions == 12


@pytest.mark.parametrize(
    "row", ['"a,i1,1\nb,i2,3\n', '"a"b,i1,1\nb,i2,3\n', 'a"b,i1,1\nb,i2,3\n', '"a,i1,1\n' * 20_001]
)
def test_quotes_that_do_not_pair_have_a_line(write: Write, row: str) -> None:
    with pytest.raises(errors.CorruptFileError, match=r"log\.csv, line 14: a quote "):
        load_data(write(GOOD + row))
    long = GOOD + '"a,i1,1\n' + "b,i2,3\n" * 40_000
    with pytest.raises(errors.CorruptFileError, match=r"log\.csv, line 14: a quote "):
        load_data(write(long))


def test_a_quote_that_never_ends_before_many_long_lines(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fuzzing, CSV, seed 3, case 5443: polars took 1.1 GB of 90 MB before it gave up, and the reason was another."""
    path = write(GOOD + '"a,i1,1\n' + f"{'x' * 300_000}\n" * 60)
    with monkeypatch.context() as patch:
        patch.setattr(pl, "scan_csv", lambda *_, **__: pytest.fail("polars reads it"))
        with pytest.raises(errors.CorruptFileError, match=r"line 14: a quote that .* not end within 16,384 KiB"):
            load_data(path)
    data = load_data(write(GOOD + f'"{"x" * 200_000}\n",i1,1\n'))  # longer than Python's csv allows by default
    assert data.to_frame()["user_id"].to_list()[-1] == "x" * 200_000 + "\n"
    with pytest.raises(errors.DelimiterError, match=r"line 15: 4 fields separated by ',', the first line has 3"):
        load_data(write(GOOD + f"{'x' * 200_000},i1,1\nb,i2,1,1\n"))


@pytest.mark.parametrize("block", [1, 7, 64])
def test_rows_that_quotes_hold_open_for_any_length(write: Write, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """The oracle looks at every byte of random rows; a break within quotes ends none."""
    from recgraph.data import lines

    monkeypatch.setattr(lines, "LONGEST_LINE", 20)
    monkeypatch.setattr(lines, "_SEARCHED", block)
    monkeypatch.setattr(lines, "_BLOCK", 5)
    rng, refused = random.Random(0), set()
    for _ in range(200):
        text = "".join(rng.choices('ab"\n', (8, 8, rng.choice((1, 2, 4)), 2), k=120))
        inside, rows = False, [""]
        for byte in text:
            inside ^= byte == '"'
            rows[-1] += byte
            rows += [""] * (byte == "\n" and not inside)
        lengths = {"".join(rows[:at]).count("\n") + 1: len(row) for at, row in enumerate(rows)}
        path, line = write(text, "log.txt"), None
        try:
            lines.check_quotes(path, path)
        except errors.CorruptFileError as error:
            line = error.line
        assert lengths[line] > 20 if line else max(lengths.values()) <= 20 + block
        refused.add(line is not None)
    assert refused == {True, False}


def test_quoted_separators_quotes_and_breaks_are_values(write: Write) -> None:
    data = load_data(write(GOOD + '"a,""b""\nc","i\t1",3\n'))
    assert data.to_frame().row(-1) == ('a,"b"\nc', "i\t1", 3.0)


def test_thousands_of_columns_are_read_at_once(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """An expression of all columns takes polars minutes; blank lines are still no rows, and commas alone no row."""
    from recgraph.data import readers

    n = 4000
    row = ",1" * n
    text = "user_id,item_id" + "".join(f",c{i}" for i in range(n)) + f"\nu,i{row}\n\n{',' * (n + 1)}\nv,j{row}\n"
    data = load_data(write(text))
    assert data.to_frame().rows() == [("u", "i"), ("v", "j")]
    with pytest.raises(errors.MissingIdError, match=r"line 6: the user id"):
        load_data(write(text + f",j{row}\n"))
    with pytest.raises(errors.MissingIdError, match=r"line 6: the user id"):  # a value in the last column alone
        load_data(write(text + f"{',' * (n + 1)}1\n"))
    monkeypatch.setattr(readers, "_TOGETHER", 2)
    few = load_data(write("user_id,item_id,c,d,e\nu,i,1,,\n\n,,,,\nv,j,,,1\n"))
    assert few.to_frame().rows() == [("u", "i"), ("v", "j")]


def test_messages_list_some_of_many_columns(write: Write) -> None:
    text = ",".join(f"column {i} {'x' * 100}" for i in range(4000)) + "\n" + ",".join("1" * 4000) + "\n"
    with pytest.raises(errors.MissingColumnError, match=r"and 3,980 more") as caught:
        load_data(write(text))
    assert len(str(caught.value)) < 2500


@pytest.mark.parametrize(
    "values",
    [
        [[1], [2]],
        [{"a": 1}, {"a": 2}],
        [[{"a": [1]}], []],
        [dt.timedelta(1), dt.timedelta(2)],
    ],
)
@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_values_that_are_no_ids(tmp_path: Path, column: str, values: list[Any]) -> None:
    frame = pl.DataFrame({"user_id": [1, 2], "item_id": [3, 4]}).with_columns(pl.Series(column, values))
    frame.write_parquet(tmp_path / "log.parquet")
    wrong = rf"log\.parquet: the {column[:4]} ids \(column '{column}'\) are of type (List|Struct|Duration)"
    with pytest.raises(errors.MixedIdError, match=wrong):
        load_data(tmp_path / "log.parquet")
    with pytest.raises(errors.MixedIdError, match="are of type"):
        Interactions.from_frame(frame, user="user_id", item="item_id")


def test_categories_and_whole_decimals_are_ids(tmp_path: Path) -> None:
    large = 2**62 + 1  # no float holds it
    users = pl.Series(["b", "a"], dtype=pl.Categorical)
    frame = pl.DataFrame({"user_id": users, "item_id": [Decimal(large), Decimal(2)]})
    frame.write_parquet(tmp_path / "log.parquet")
    assert load_data(tmp_path / "log.parquet").to_frame().rows() == [("b", large), ("a", 2)]
    frame.with_columns(item_id=pl.Series([Decimal(10**20), Decimal(2)])).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(
        errors.MixedIdError, match=r"log\.parquet, row 0 .*'item_id' holds Decimal\('1000*'\), which is no"
    ):
        load_data(tmp_path / "log.parquet")


@pytest.mark.parametrize("values", [[1, 2**30], [1, -(2**30)]])
@pytest.mark.parametrize("dtype", [pl.Date, pl.Datetime("ms"), pl.Datetime("us", "UTC"), pl.Datetime("ns")])
def test_dates_beyond_the_calendar_are_no_ids(tmp_path: Path, values: list[int], dtype: Any) -> None:
    scale = 1 if dtype == pl.Date else {"ms": 10**6, "us": 10**9}.get(dtype.time_unit, 1)
    frame = pl.DataFrame({"user_id": pl.Series([each * scale for each in values]).cast(dtype), "item_id": [1, 2]})
    frame.write_parquet(tmp_path / "log.parquet")
    if dtype == pl.Datetime("ns"):  # 64 bits of nanoseconds do not leave the calendar
        assert load_data(tmp_path / "log.parquet").split("ratio", seed=0).hash
        return
    with pytest.raises(errors.MixedIdError, match=r"log\.parquet, row 1 .*beyond the years 1 to 9999"):
        load_data(tmp_path / "log.parquet")


@pytest.mark.parametrize("values", [[[1.0], [2.0]], [{"a": 1}, {"a": 2}], [dt.date(2024, 1, 1)] * 2])
def test_values_that_are_no_ratings(tmp_path: Path, values: list[Any]) -> None:
    pl.DataFrame({"user_id": [1, 2], "item_id": [3, 4], "rating": values}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(errors.RatingError, match=r"log\.parquet: column 'rating' \(the rating\) of type .* no numbers"):
        load_data(tmp_path / "log.parquet")


def test_a_moment_that_no_calendar_has(tmp_path: Path) -> None:
    times = pl.Series([1, 2**62]).cast(pl.Datetime("ms"))
    pl.DataFrame({"user_id": [1, 2], "item_id": [3, 4], "time": times}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(errors.TimestampError, match=r"log\.parquet, row 1 .*4611686018427387904 cannot be read"):
        load_data(tmp_path / "log.parquet")


@pytest.mark.parametrize("late", [0, 1500])
@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deep"),
        ("9" * 5000, "not JSON"),
        ("NaN", "NaN is no number of JSON"),
        ("-Infinity", "-Infinity is no number of JSON"),
        ("9" * 30, "does not fit into 64 bits"),
        ('{"a": [1]}', "is a dict|holds {'a'"),
        ("1.5", "is a float|holds 1.5"),
        ("3.0", "is a float|holds 3.0"),
    ],
)
def test_json_values_that_cannot_be_ids(write: Write, value: str, wrong: str, late: int) -> None:
    before = '{"user_id": 1, "item_id": 2}\n' * (late + 1)
    path = write(f'{before}{{"user_id": {value}, "item_id": 2}}\n', "log.jsonl")
    with pytest.raises(errors.DataError, match=rf"log\.jsonl, line {late + 2}: .*({wrong})"):
        load_data(path)


def test_json_nested_values_of_other_keys_do_no_harm(write: Write) -> None:
    rows = [{"user_id": 1, "item_id": 2, "x": {"a": [1, {"b": None}]}}, {"user_id": 2, "item_id": 2, "x": "y"}]
    assert load_data(write("".join(json.dumps(row) + "\n" for row in rows), "log.jsonl")).n_interactions == 2


def test_two_columns_of_one_name_in_an_atomic_file(write: Write) -> None:
    text = "user_id:token\titem_id:token\tuser_id:float\n1\t2\t3\n"
    with pytest.raises(errors.DuplicateColumnError, match=r"log\.inter, line 1: .*'user_id'"):
        load_data(write(text, "log.inter"))


def test_a_panic_of_the_reader_is_an_error_of_the_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def panic(*_: Any, **__: Any) -> None:
        raise pl.exceptions.PanicException("called `Option::unwrap()` on a `None` value")

    path = write(GOOD)
    monkeypatch.setattr(pl.LazyFrame, "collect", panic)
    with pytest.raises(errors.DataError, match=r"log\.csv: the file cannot be read: called"):
        load_data(path)


def test_errors_of_a_file_of_features_name_it(write: Write) -> None:
    log = write(GOOD)
    with pytest.raises(errors.DataError, match=r"items\.csv: id 'i1' occurs several times"):
        load_data(log, item_features=write("item_id,a\ni1,1\ni1,2\n", "items.csv"))
    write("user_id:token\titem_id:token\nu\ti\n", "log.inter")
    write("item_id:token\ta:float\ni\t1\ni\t2\n", "log.item")
    with pytest.raises(errors.DataError, match=r"log\.item: id 'i' occurs several times"):
        load_data(log.with_suffix(".inter"))


def test_a_message_is_short_whatever_the_value_is(write: Write) -> None:
    with pytest.raises(errors.RatingError, match=r"line 14: the rating 'xx.*\[\.\.\.\].* is not a number") as caught:
        load_data(write(GOOD + f"u,i,{'x' * 1_000_000}\n"))
    assert len(str(caught.value)) < 2500


@pytest.mark.parametrize("place", ["footer", "page head"])
@pytest.mark.parametrize("name", ["log.parquet", "items.parquet"])
def test_a_table_of_two_billion_rows_in_a_kilobyte(tmp_path: Path, name: str, place: str) -> None:
    """The allocation of a column of so many values would end the process."""
    rows = {"user_id": [i % 7 for i in range(60)], "item_id": list(range(60))}
    for each in ("log.parquet", "items.parquet"):
        frame = pl.DataFrame(rows) if each == "log.parquet" else pl.DataFrame({"item_id": rows["item_id"]})
        frame.write_parquet(tmp_path / each, compression="uncompressed")
    whole = (tmp_path / name).read_bytes()
    start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    pages, footer = whole[:start], whole[start:-8]
    few, many = (forging.varint(2 * count) for count in (60, 2**31 - 1))
    if place == "footer":
        assert footer.count(b"\x16" + few) >= 3  # of the file, of its group, of its columns
        footer = footer.replace(b"\x16" + few, b"\x16" + many)
    else:
        at = pages.rindex(b"\x15" + few)
        pages = pages[:at] + b"\x15" + many + pages[at + 2 :]
    (tmp_path / name).write_bytes(pages + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(errors.CorruptFileError, match=rf"{name}: the file declares \d+\.\d GiB"):
        load_data(tmp_path / "log.parquet", item_features=tmp_path / "items.parquet")


def test_a_log_in_a_process_with_a_limit_is_read_in_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a scan does not hold at once is no reason to refuse it."""
    rows = 3_000_000
    frame = pl.select(user_id=pl.int_range(rows) % 1000, item_id=pl.int_range(rows), rating=pl.lit(1.0))
    frame.write_parquet(tmp_path / "log.parquet", compression="uncompressed")
    monkeypatch.setenv("RECGRAPH_MEMORY_LIMIT", "1MiB")
    assert scan_parquet(tmp_path / "log.parquet").lazy.select(pl.len()).collect().item() == rows
