"""Forms of output, and errors as messages and exit codes."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recgraph.cli import output
from recgraph.cli.app import FAILURE, INTERRUPTED, USER_MISTAKE, describe
from recgraph.cli.output import Failure, show, show_frame
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


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": float("-inf")}}], "json")
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
        text = io.StringIO(path.read_text(encoding="utf-8"), newline="")
        rows = list(csv.DictReader(text, delimiter="," if form == "csv" else "\t"))
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
    show(ROWS, "table", title="a title")
    printed = capsys.readouterr().out
    for text in ("a title", "0.1235", "x, y", "[c]", "yes", "no"):
        assert text in printed


def test_a_terminal_gets_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(output.sys, "stdout", Terminal())
    assert output.default_format() == "table"


FRAME = pl.DataFrame({"user_id": [1, 1], "item_id": ["a", "b"], "score": [0.5, 0.25]})


@pytest.mark.parametrize(
    ("form", "name", "message"),
    [(None, "out.xlsx", r"out\.xlsx: end its name in"), ("table", "out.csv", "table is for people")],
)
def test_what_cannot_be_written(tmp_path: Path, form: Any, name: str, message: str) -> None:
    with pytest.raises(ValueError):
        show_frame(FRAME, form, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def _open_missing() -> OSError:
    try:
        Path("/nowhere/at/all").read_text()
    except FileNotFoundError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "code", "name"),
    [
        (ConfigError("dropout = 2"), USER_MISTAKE, "dropout"),
        (_open_missing(), USER_MISTAKE, "/nowhere/at/all"),
        (Failure("the loss is NaN"), FAILURE, "the loss is NaN"),
        (PermissionError(13, "Permission denied", "/etc/x"), FAILURE, "/etc/x"),
        (MemoryError(), FAILURE, "memory"),
        (IndexError("7"), FAILURE, "IndexError"),
        (KeyboardInterrupt("saved in runs/a"), INTERRUPTED, "saved in runs/a"),
    ],
)
def test_errors(error: BaseException, code: int, name: str) -> None:
    found, message = describe(error)
    assert (found, name in message) == (code, True)
