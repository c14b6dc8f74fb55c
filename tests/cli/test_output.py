"""Forms of output, and errors as messages and exit codes."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from pathlib import Path

import polars as pl
import pytest

from recgraph.cli import output
from recgraph.cli.output import (
    FAILURE,
    INTERRUPTED,
    USER_MISTAKE,
    Failure,
    FileFormat,
    Format,
    describe,
    show,
    show_frame,
)
from recgraph.config import ConfigError

ROWS = [
    {"name": "a,b", "value": 0.123456789, "many": ["x", "y"], "none": None, "is": True},
    {"name": "[c]", "value": 2, "many": [], "none": None, "is": False},
]


def test_tsv_is_the_default_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    show(ROWS)
    assert capsys.readouterr().out == (
        "name\tvalue\tmany\tnone\tis\na,b\t0.123456789\tx,y\t\tTrue\n[c]\t2\t\t\tFalse\n"
    )


def test_csv_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    show(ROWS, Format.CSV)
    assert '"a,b",0.123456789,"x,y",,True\n' in capsys.readouterr().out


def test_json_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    show(ROWS, Format.JSON)
    assert json.loads(capsys.readouterr().out) == ROWS


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": float("-inf")}}], Format.JSON)
    assert json.loads(capsys.readouterr().out, parse_constant=str) == [{"a": None, "b": [1.5, None], "c": {"d": None}}]


@pytest.mark.parametrize("form", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_columns_of_every_type_are_written(form: str, tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "genres": [["a", "b"], [], None],
            "vector": pl.Series([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=pl.Array(pl.Float64, 2)),
            "parts": [{"x": 1, "y": "é"}, {"x": 2, "y": None}, None],
            "raw": [b"a", b"\xff", None],
            "raws": [[b"a", b"b"], [], None],
            "span": [dt.timedelta(days=1), dt.timedelta(0), None],
        }
    )
    path = tmp_path / f"x.{form}"
    show_frame(frame, None, path)
    if form in ("csv", "tsv"):
        rows = list(csv.DictReader(path.open(newline="", encoding="utf-8"), delimiter="," if form == "csv" else "\t"))
        assert [row["genres"] for row in rows] == ["a,b", "", ""]
        assert rows[0]["vector"] == "1.0,2.0"
        assert json.loads(rows[0]["parts"]) == {"x": 1, "y": "é"}
        assert [row["raw"] for row in rows] == ["a", "\\xff", ""]
        assert rows[0]["raws"] == "a,b"
        assert rows[0]["span"] == "1 day, 0:00:00"
    elif form in ("json", "jsonl"):
        text = path.read_text(encoding="utf-8")
        rows = json.loads(text) if form == "json" else [json.loads(line) for line in text.splitlines()]
        assert [row["genres"] for row in rows] == [["a", "b"], [], None]
        assert [row["raw"] for row in rows] == ["a", "\\xff", None]
    else:
        assert pl.read_parquet(path).equals(frame)


def test_a_table_shows_every_value_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    show(ROWS, Format.TABLE, title="a title")
    printed = capsys.readouterr().out
    for text in ("a title", "0.1235", "x, y", "[c]", "yes", "no"):
        assert text in printed


def test_a_terminal_gets_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(output.sys, "stdout", Terminal())
    assert output.default_format() == Format.TABLE


@pytest.mark.parametrize("form", list(Format))
def test_no_rows(form: Format) -> None:
    show([], form)


FRAME = pl.DataFrame({"user_id": [1, 1], "item_id": ["a", "b"], "score": [0.5, 0.25]})


@pytest.mark.parametrize(
    ("suffix", "read"),
    [
        ("csv", pl.read_csv),
        ("tsv", lambda path: pl.read_csv(path, separator="\t")),
        ("json", pl.read_json),
        ("parquet", pl.read_parquet),
    ],
)
def test_a_file_is_written_whole_and_alone(tmp_path: Path, suffix: str, read: object) -> None:
    path = tmp_path / f"out.{suffix}"
    show_frame(FRAME, None, path)
    assert read(path).equals(FRAME)  # type: ignore[operator]
    assert list(tmp_path.iterdir()) == [path]


def test_the_format_wins_over_the_name(tmp_path: Path) -> None:
    show_frame(FRAME, FileFormat.CSV, tmp_path / "out.txt")
    assert pl.read_csv(tmp_path / "out.txt").equals(FRAME)


@pytest.mark.parametrize(
    ("form", "name", "message"),
    [(None, "out.xlsx", r"out\.xlsx: end its name in"), (FileFormat.TABLE, "out.csv", "table is for people")],
)
def test_what_cannot_be_written(tmp_path: Path, form: FileFormat | None, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        show_frame(FRAME, form, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def _open_missing() -> OSError:
    try:
        Path("/nowhere/at/all").read_text()
    except FileNotFoundError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError("dropout = 2"), USER_MISTAKE, "dropout = 2"),
        (ValueError("k = 0"), USER_MISTAKE, "k = 0"),
        (_open_missing(), USER_MISTAKE, "/nowhere/at/all: No such file or directory"),
        (FileNotFoundError("no run here"), USER_MISTAKE, "no run here"),
        (Failure("the loss is NaN"), FAILURE, "the loss is NaN"),
        (
            PermissionError(13, "Permission denied", "/etc/x"),
            FAILURE,
            "/etc/x: Permission denied; give yourself the right to it or give another place, then give the same "
            "command again: what was finished is kept",
        ),
        (
            MemoryError(),
            FAILURE,
            "memory is short: there is none left; free some, or take less of it (batch_size, --workers), then give the "
            "same command again",
        ),
        (KeyboardInterrupt("saved in runs/a"), INTERRUPTED, "saved in runs/a"),
        (KeyboardInterrupt(), INTERRUPTED, "interrupted; what was finished is kept, and the same command goes on"),
    ],
)
def test_errors(error: BaseException, code: int, message: str) -> None:
    assert describe(error) == (code, message)


def test_the_unforeseen_is_named_by_its_type() -> None:
    code, message = describe(KeyError("x"))
    assert code == FAILURE
    assert message.startswith("unexpected KeyError: 'x'\n")
    assert "--debug" in message


def test_a_frame_without_rows_has_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    empty = pl.DataFrame(schema={"user": pl.Int64, "item": pl.String})
    for form, text in ((FileFormat.CSV, "user,item\n"), (FileFormat.TSV, "user\titem\n"), (FileFormat.JSON, "[]\n")):
        show_frame(empty, form, None)
        assert capsys.readouterr().out == text
    show_frame(empty, FileFormat.TABLE, None)
    assert capsys.readouterr().out.split()[:2] == ["user", "item"]
    show([], Format.CSV)
    assert capsys.readouterr().out == ""
