"""Logs as they come: times of any name and several formats, rows that cannot be used, texts of
several words.
"""

from __future__ import annotations

import datetime as dt
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from refusing import refused
from typer.testing import CliRunner

import recgraph as rg
from recgraph.cli.app import app
from recgraph.data.columns import is_dated, proposed_formats
from recgraph.files import DataError
from recgraph.graph.hetero import HeteroGraph

NOON = 1_714_566_600_000_000  # 2024-05-01T12:30 UTC
FORMATS = ("%d.%m.%Y %H:%M", "%m/%d/%Y %I:%M %p")
#: three formats, ISO with a zone and without, a blank, a word; ids that are missing; two blank
#: lines, one of separators
DIRTY = """\
customer,product,purchased_on,city
ann,tea,2024-05-01 12:30:00,New York
ann,jam,01.05.2024 12:30,New York
bob,tea,05/01/2024 12:30 PM,Berlin
 bob,jam,2024-05-01T14:30:00+02:00,Berlin
bob,cup,,Berlin
bob,pot,yesterday,Berlin
,cup,2024-05-01 12:30:00,Berlin
ann,null,2024-05-01 12:30:00,Berlin
,,,

cat,cup,2024-05-01T12:30:00Z,Rio de Janeiro
"""
DROP: dict[str, Any] = {"missing_ids": "drop", "bad_times": "drop", "time_format": FORMATS}


@pytest.mark.parametrize("name", ["bought", "purchased_on", "t", "when was it"])
@pytest.mark.parametrize(
    "times",
    [
        [dt.datetime(2024, 5, 1, 12, 30), dt.datetime(2024, 5, 2)],
        [dt.date(2024, 5, 1), dt.date(2024, 5, 2)],
        ["2024-05-01T12:30:00+02:00", "2024-05-02T00:00:00Z"],
        ["2024-05-01", None, "2024-05-02"],
    ],
)
def test_a_column_of_dates_is_that_of_the_times_whatever_its_name(
    name: str, times: list[Any], tmp_path: Path
) -> None:
    n = len(times)
    frame = pl.DataFrame(
        {"user_id": [1] * n, "item_id": list(range(n)), "city": ["New York"] * n, name: times}
    )
    frame.write_csv(tmp_path / "a.csv")
    for given in (frame, frame.lazy(), frame.to_pandas(), frame.to_arrow(), tmp_path / "a.csv"):
        data = rg.load_data(given, bad_times="drop")
        assert (data.columns.timestamp, data.time_unit) == (name, "us")
    assert rg.load_data(frame, timestamp="none").time_unit == "none"
    if name != "t":  # which is a usual name
        with refused("returned", name, by=DataError):
            rg.load_data(frame.with_columns(returned=pl.col(name)))


@pytest.mark.parametrize(
    ("texts", "is_date"),
    [
        (["01.05.2024", "31.05.2024"], True),
        (["5/1/2024 9:05", "12/31/2024 23:05"], True),
        (["1 May 2024", ""], True),
        (["01.05.24 10:00"], True),
        (["10.4.12", "10.4.13"], False),
        (["85711", "20240501"], False),
        (["New York", "2024-05-01", "Paris"], False),
        (["1/2", "12.5", None], False),
    ],
)
def test_what_is_a_column_of_dates(texts: list[str | None], is_date: bool) -> None:
    assert is_dated(pl.Series(texts, dtype=pl.String)) == is_date


def test_without_times_the_order_is_said(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": [1, 1, 1], "item_id": [1, 2, 3], "note": ["a", "b", "c"]})
    data = rg.load_data(frame)
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "'note'" in warning.getMessage()
    assert "order of the rows" in repr(data)
    assert "order of the rows" in data._repr_html_()
    caplog.clear()
    assert "order" not in repr(rg.load_data(frame.with_columns(time=1)))
    rg.load_data(frame, timestamp="none")
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]
    frame.write_csv(tmp_path / "a.csv")
    done = CliRunner().invoke(app, ["check", "--data", str(tmp_path / "a.csv"), "--format", "csv"])
    assert "time leakage,warn" in done.stdout
    assert "'note'" in done.stderr


def test_a_script_and_a_board_say_that_there_are_no_times(tmp_path: Path) -> None:
    rows = [(user, item, "New York") for user in range(9) for item in range(5)]
    pl.DataFrame(rows, schema=["user_id", "item_id", "city"], orient="row").write_csv(
        tmp_path / "a.csv"
    )
    script = f"import recgraph as rg; rg.load_data({str(tmp_path / 'a.csv')!r})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "'city'" in done.stderr
    board = tmp_path / "board.toml"
    board.write_text(
        'data = { file = "a.csv" }\nseeds = [0, 1]\n[[models]]\nmodel = "popularity"\n'
    )
    done = CliRunner().invoke(app, ["board", "run", str(board)])
    assert done.stderr.count("'city'") == 1, "of each job alike"
    assert (
        CliRunner()
        .invoke(app, ["board", "render", str(board), "--out", str(tmp_path / "a.md")])
        .exit_code
        == 0
    )
    assert "times none" in (tmp_path / "a.md").read_text()


def test_a_dirty_log_is_read_as_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "shop.csv"
    path.write_text(DIRTY)
    with refused(
        "'customer'",
        "1 of 9",
        "'purchased_on'",
        "4 of 9",
        "'01.05.2024 12:30'",
        *FORMATS,
        "drop",
        by=DataError,
    ):
        rg.load_data(path)
    data = rg.load_data(path, **DROP)
    assert data.columns.timestamp == "purchased_on"
    assert data.users.values.to_list() == ["ann", "bob", "cat"]
    assert data.log["time"].to_list() == [NOON] * 5
    assert data.to_frame()["product"].to_list() == ["tea", "jam", "tea", "jam", "cup"]
    (summary,) = [each.getMessage() for each in caplog.records if "left out" in each.getMessage()]
    assert all(part in summary for part in ("4 of 9", "'null'", "'yesterday'"))
    caplog.clear()
    rg.load_data(path, **DROP | {"time_format": FORMATS[0]})
    assert FORMATS[1] in caplog.text, "a format that would read what is left out"
    data.save(tmp_path / "log")
    assert rg.Interactions.load(tmp_path / "log").log.equals(data.log)
    assert rg.load_data(pl.read_csv(path), **DROP).log["time"].to_list() == [NOON] * 5


def test_a_dirty_log_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    path.write_text(DIRTY)
    command = [
        "train",
        "popularity",
        "--data",
        str(path),
        "--fit-on",
        "all",
        "--out",
        str(tmp_path / "run"),
    ]
    failed = CliRunner().invoke(app, command)
    assert failed.exit_code == 2
    words = [
        "--drop-missing-ids",
        "--drop-bad-times",
        *(word for form in FORMATS for word in ("--time-format", form)),
    ]
    assert all(word in failed.stderr for word in words)
    done = CliRunner().invoke(app, [*command, *words])
    assert done.exit_code == 0, done.stderr
    assert "4 of 9" in done.stderr
    run = rg.Run.open(tmp_path / "run")
    assert isinstance(run, rg.Run)
    frame = pl.DataFrame(
        {"customer": ["dan"], "product": ["tea"], "purchased_on": ["01.05.2024 12:30"]}
    )
    assert len(run.recommend(histories=frame, k=2)) == 2


def test_proposed_formats() -> None:
    assert proposed_formats(pl.Series(["31/12/2024", "01/02/2024", None, "soon"] * 9)) == [
        "'%d/%m/%Y'"
    ]
    (both,) = proposed_formats(pl.Series(["01/02/2024 10:00"]))
    assert "%d/%m/%Y %H:%M" in both
    assert "%m/%d/%Y %H:%M" in both


def test_ids_that_may_be_none_are_said(caplog: pytest.LogCaptureFixture) -> None:
    rg.load_data(
        pl.DataFrame(
            {"user_id": ["a", " a ", "b c"], "item_id": ["x", "null", "y"], "time": [1, 2, 3]}
        )
    )
    assert "' a '" in caplog.text
    assert "'null'" in caplog.text
    assert "'b c'" not in caplog.text


def test_texts_of_several_words_are_one_value(tmp_path: Path) -> None:
    log = pl.DataFrame({"user_id": [1, 2, 3, 4], "item_id": [1, 2, 1, 2], "time": [1, 2, 3, 4]})
    users = pl.DataFrame(
        {
            "user_id": [1, 2, 3, 4],
            "city": ["New York", "York", "New York", "York"],
            "likes": ["a|b c", "b c", "a", "a"],
        }
    )
    users.write_csv(tmp_path / "users.csv")
    log.write_csv(tmp_path / "log.csv")
    for given in (users, tmp_path / "users.csv"):
        made = HeteroGraph.from_interactions(rg.load_data(log, user_features=given))
        assert made.nodes["city"].ids.values.to_list() == ["New York", "York"]  # type: ignore[union-attr]
        assert made.nodes["likes"].ids.values.to_list() == ["a", "b c"]  # type: ignore[union-attr]
    split = HeteroGraph.from_interactions(rg.load_data(log, user_features=users), separator=" ")
    assert split.nodes["city"].ids.values.to_list() == ["New", "York"]  # type: ignore[union-attr]
    command = [
        "data",
        "init",
        str(tmp_path / "log.csv"),
        "--user-features",
        str(tmp_path / "users.csv"),
    ]
    asked = ["--list", "city= ", "--list", "likes=", "--out", str(tmp_path / "log.toml")]
    assert CliRunner().invoke(app, [*command, *asked]).exit_code == 0
    features = rg.load_dataset(str(tmp_path / "log.toml")).user_features
    assert features is not None
    assert features["city"].to_list()[0] == ["New", "York"]
    assert features["likes"].to_list()[0] == ["a|b c"]


def test_sequences_of_recbole_are_lists_where_their_values_come_again(tmp_path: Path) -> None:
    (tmp_path / "a.inter").write_text(
        "user_id:token\titem_id:token\ttimestamp:float\n1\t1\t1\n1\t2\t2\n"
    )
    (tmp_path / "a.item").write_text(
        "item_id:token\ttitle:token_seq\tclass:token_seq\n1\tToy Story\twar love\n2\tBig Day\twar\n"
    )
    features = rg.load_data(tmp_path / "a.inter").item_features
    assert features is not None
    assert features["title"].to_list() == ["Toy Story", "Big Day"]
    assert features["class"].to_list() == [["war", "love"], ["war"]]
