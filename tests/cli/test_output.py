"""Forms of output, errors as messages and exit codes, and what commands show of their work: -v, -q,
--log-file.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import forked
import polars as pl
import pytest
from typer.testing import CliRunner, Result

from recgraph.cli.app import FAILURE, INTERRUPTED, USER_MISTAKE, app, describe
from recgraph.cli.output import Failure, show, show_frame
from recgraph.config import ConfigError

ROWS = [
    {"name": "a,b", "value": 0.123456789, "many": ["x", "y"], "none": None, "is": True},
    {"name": "[c]", "value": 2, "many": [], "none": None, "is": False},
]


def test_tsv_is_the_default_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    show(ROWS)
    assert capsys.readouterr().out == (
        "name\tvalue\tmany\tnone\tis\na,b\t0.123457\tx,y\t\tTrue\n[c]\t2\t\t\tFalse\n"
    )


def test_a_pipe_has_six_significant_digits(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"a": 1234567.891, "b": 0.00001234567, "c": 12345678901, "d": float("nan")}], "csv")
    assert capsys.readouterr().out.splitlines()[1] == "1234568,1.23457e-05,12345678901,nan"


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": float("-inf")}}], "json")
    assert json.loads(capsys.readouterr().out, parse_constant=str) == [
        {"a": None, "b": [1.5, None], "c": {"d": None}}
    ]


@pytest.mark.parametrize("form", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_columns_of_every_type_are_written(form: str, tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "genres": [["a", "b"], [], None],
            "vector": pl.Series(
                [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=pl.Array(pl.Float64, 2)
            ),
            "parts": [{"x": 1, "y": "é"}, {"x": 2, "y": None}, None],
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
        assert rows[0]["span"] == "1 day, 0:00:00"
    elif form in ("json", "jsonl"):
        text = path.read_text(encoding="utf-8")
        rows = (
            json.loads(text) if form == "json" else [json.loads(line) for line in text.splitlines()]
        )
        assert [row["genres"] for row in rows] == [["a", "b"], [], None]
    else:
        assert pl.read_parquet(path).equals(frame)


def test_a_table_shows_every_value_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    show(ROWS, "table")
    printed = capsys.readouterr().out
    for text in ("0.1235", "x, y", "[c]", "yes", "no"):
        assert text in printed


FRAME = pl.DataFrame({"user_id": [1, 1], "item_id": ["a", "b"], "score": [0.5, 0.25]})


@pytest.mark.parametrize(
    ("form", "name", "message"),
    [
        (None, "out.xlsx", r"out\.xlsx: end its name in"),
        ("table", "out.csv", "table is for people"),
    ],
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


SMALL = (
    "-s",
    "hidden_dim=8",
    "-s",
    "encoder.n_heads=1",
    "-s",
    "batch_size=256",
    "-s",
    "patience=none",
)
TRAIN = ("train", "sasrec", "--dataset", "synthetic", *SMALL)
EPOCH = (
    r"epoch \d+/\d+: loss \d\.\d{4}, ndcg@10 0\.\d{4}, best 0\.\d{4} \(epoch \d+\), [\d.]+ (s|min)"
)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _use_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(home))


def test_a_piped_training_prints_plain_lines(home: Path, tmp_path: Path) -> None:
    with forked.module("recgraph", *TRAIN, "-s", "max_epochs=3", "--out", tmp_path / "r") as done:
        assert done.wait() == 0, done.error
        output, error = done.output, done.error
    assert output == ""
    lines = error.splitlines()
    told = [line for line in lines if line.startswith("epoch")]
    assert told
    assert all(re.fullmatch(rf"{EPOCH}(, about [\d.]+ s left)?", line) for line in told), told
    assert told[0].startswith("epoch 1/3")
    assert told[-1].startswith("epoch 3/3")
    assert lines[-1] == f"saved in {tmp_path / 'r'}; try next: recgraph evaluate {tmp_path / 'r'}"
    assert "\r" not in error
    assert "\x1b" not in error


@pytest.mark.parametrize("where", ["before", "after"])
def test_verbose_shows_the_records_instead_of_the_lines(where: str, tmp_path: Path) -> None:
    command = (*TRAIN, "-s", "max_epochs=2", "--out", tmp_path / "r")
    done = call("-v", *command) if where == "before" else call(*command, "-v")
    assert done.exit_code == 0, done.output
    lines = done.stderr.splitlines()
    sizes = r"\[\d\d:\d\d:\d\d\] fit sasrec, seed 0, to train of synthetic: 600 users, 300 items, [\d,]+ interactions; "
    assert any(re.match(sizes, line) for line in lines), lines
    told = [line for line in lines if "epoch 2/2: " in line]
    assert len(told) == 1
    assert re.search(EPOCH, told[0])
    assert any("all 2 epochs are made; the weights are those of epoch" in line for line in lines)
    assert any(f"run saved in {tmp_path / 'r'}" in line for line in lines)
    assert not any("checkpoint" in line for line in lines)


def test_quiet_shows_errors_alone(tmp_path: Path) -> None:
    command = (*TRAIN, "-s", "max_epochs=1", "--out", tmp_path / "r")
    done = call(*command, "-q")
    assert (done.exit_code, done.output) == (0, "")
    done = call("evaluate", tmp_path / "r", "--quiet")
    assert done.stderr == "", "no note, and no warning that the test part is read"
    assert done.stdout.startswith("metric")
    done = call("-q", *command)
    assert done.exit_code == 2
    assert "holds a run already" in done.stderr


def test_a_log_file_has_it_all_with_times(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    done = call(*TRAIN, "-s", "max_epochs=2", "--out", tmp_path / "r", "-q", "--log-file", log)
    assert (done.exit_code, done.output) == (0, "")
    lines = log.read_text().splitlines()
    assert all(
        re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING) recgraph\.", line)
        for line in lines
    )
    told = "\n".join(lines)
    for part in (
        "INFO recgraph.train: epoch 2/2",
        "DEBUG recgraph.train.trainer: checkpoint",
        "try next: recgraph",
    ):
        assert part in told
    # an error is there with its traceback, and the file goes on
    call("--log-file", log, *TRAIN, "--out", tmp_path / "r")
    text = log.read_text()
    assert text.startswith(told)
    assert "ERROR recgraph.cli: " in text
    assert "Traceback (most recent call last)" in text


def test_a_password_stays_out_of_the_log_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["recgraph", "tune", "--storage", "postgresql://me:secret@host/db"]
    )
    call("models", "--log-file", tmp_path / "log.txt")
    text = (tmp_path / "log.txt").read_text()
    assert "postgresql://me:***@host/db" in text
    assert "secret" not in text
