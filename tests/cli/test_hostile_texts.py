"""Ids, titles and columns of a stranger's log do nothing on a terminal, in a page or in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
import sys
import unicodedata
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
from command_line import call, works

import recgraph as rg
from recgraph.cli import output
from recgraph.cli.output import FileFormat, Format, show, show_frame
from recgraph.cli.watching import Watch
from recgraph.notebook import block, table

#: each does something somewhere: terminals, rich's markup, HTML, scripts, Markdown, CSV, formulas
HOSTILE = (
    *("\x1b[31mred", "\x1b]0;title\x07", "\x9b2J", "a\rb", "\u202egnp.exe", "[/]", "[red]x[/red]", "line\nbreak", "\0"),
    *("<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", "'\"><b>", "&lt;b&gt;", "{{ 7 * 7 }}"),
    *("[a](http://x.y)", "`code`", "| a |", "# h", "=1+1", "+1;2", "@SUM(A1)", "-2+3", "\t=1", 'say "x", y', " pad "),
)


def _is_clean(text: str) -> bool:
    """Whether a terminal shows the text and does nothing else (rich's own colours are not on here)."""
    return not {unicodedata.category(each) for each in text if each not in "\n\t"} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a log whose ids, titles and names of columns are hostile."""
    n = len(HOSTILE)
    log = pl.DataFrame(
        {
            "user [/]": [HOSTILE[i % n] for i in range(8 * n)],
            "item \x1b[31m": [HOSTILE[(i * 7 + i // n) % n] for i in range(8 * n)],
        }
    )
    features = pl.DataFrame({"item \x1b[31m": HOSTILE, "title [/]": HOSTILE})
    data = rg.Interactions.from_frame(log, user="user [/]", item="item \x1b[31m", item_features=features)
    folder = tmp_path_factory.mktemp("runs") / "run"
    rg.fit(rg.models.LightGCN(hidden_dim=4), data.split("ratio", seed=0), seed=0, max_epochs=1, out=folder)
    return folder


USERS = [part for text in HOSTILE for part in ("--user", text)]


@pytest.mark.parametrize("form", ["table", "json", "jsonl"])
def test_recommendations_are_clean(run: Path, form: str) -> None:
    done = works(f"recommend {run} -k 3 --format {form}", "--with", "title [/]", *USERS)
    assert _is_clean(done.output)
    if form == "json":  # written out, and the same
        assert {row["user [/]"] for row in json.loads(done.stdout)} == {*HOSTILE}
    if form == "table":
        assert "[red]x[/red]" in done.output
        assert r"\u001b[31mred" in done.output


@pytest.mark.parametrize("form", ["csv", "tsv"])
def test_a_pipe_gets_every_id_as_it_is_and_a_terminal_no_sequence(
    run: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = works(f"recommend {run} -k 3 --format {form}", *USERS)
    rows = csv.DictReader(io.StringIO(done.stdout, newline=""), delimiter="," if form == "csv" else "\t")
    assert {row["user [/]"] for row in rows} == {*HOSTILE}
    monkeypatch.setattr(sys, "stdout", terminal := _Terminal())
    show([{"user": text} for text in HOSTILE], Format(form))
    assert _is_clean(terminal.getvalue())


@pytest.mark.parametrize("form", ["table", "json"])
def test_reasons_and_their_page_are_clean(run: Path, tmp_path: Path, form: str) -> None:
    for number, user in enumerate(HOSTILE[:3]):
        page = tmp_path / f"{number}.html"
        done = works(f"inspect {run} -k 3 --format {form} --out {page}", "--user", user)
        assert _is_clean(done.output)
        _check_page(page.read_text(encoding="utf-8"))


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def _check_page(text: str) -> None:
    parser = _Tags()
    parser.feed(text)
    assert {tag for tag, _ in parser.tags} & {"html", "div", "svg"}
    assert not {tag for tag, _ in parser.tags} & {"img", "iframe", "object"}
    assert not [name for _, attributes in parser.tags for name in attributes if name.startswith("on")]
    assert "<script>alert" not in text
    assert _is_clean(text)


def test_a_notebook_shows_texts_alone() -> None:
    shown = block("title", dict.fromkeys(HOSTILE, HOSTILE), [table([dict.fromkeys(HOSTILE, text) for text in HOSTILE])])
    _check_page(shown)
    assert "<b>&lt;" not in shown


def test_errors_and_notes_are_clean(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in HOSTILE:
        done = call(f"recommend {run}", "--user", f"nobody{text}")
        assert done.exit_code in (1, 2)
        assert _is_clean(done.output), text
        output.note(text)
    done = call("train lightgcn", "--data", "/nowhere/\x1b[31m[/].csv")
    assert done.exit_code == 2
    assert _is_clean(done.output)


def test_notes_records_and_log_files_are_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch()
    watch.ask(log_file=tmp_path / "log")
    try:
        for text in HOSTILE:
            output.note(f"of {text}")
            logging.getLogger("recgraph.x").warning("of %s", f"{text}\n2026-01-01 00:00:00,000 INFO forged: record")
            watch.tell_files(logging.ERROR, text, ValueError(text))
    finally:
        watch.close()
    assert _is_clean(capsys.readouterr().err)
    kept = (tmp_path / "log").read_text(encoding="utf-8")
    assert _is_clean(kept)
    assert "forged: record" in kept
    assert not re.search(r"^2026-01-01 00:00:00,000", kept, re.MULTILINE)


def test_tables_have_any_names_of_columns(capsys: pytest.CaptureFixture[str]) -> None:
    show([dict.fromkeys(HOSTILE, 1)], Format.TABLE, title="[/] \x1b[31m")
    assert _is_clean(capsys.readouterr().out)


@pytest.fixture
def notes() -> Iterator[None]:
    watch = Watch()
    yield
    watch.close()


FRAME = pl.DataFrame({"user": ["a", "=1+1", "-3", "@x", "a\rb"], "score": [1.0, -2.0, 3.0, 4.0, 5.0]})


@pytest.mark.usefixtures("notes")
@pytest.mark.parametrize("form", ["csv", "tsv"])
def test_files_keep_ids_and_say_what_a_spreadsheet_would_do(
    tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"x.{form}"
    mark = "," if form == "csv" else "\t"
    show_frame(FRAME, None, path)
    assert pl.read_csv(path, separator=mark).equals(FRAME)
    assert re.search(r"may take '=1\+1' \(column 'user'\) for a formula; --for-spreadsheets", capsys.readouterr().err)
    show_frame(FRAME, None, path, for_spreadsheets=True)
    read = pl.read_csv(path, separator=mark)
    assert read["user"].to_list() == ["a", "'=1+1", "-3", "'@x", "a\rb"]
    assert read["score"].to_list() == FRAME["score"].to_list()
    assert "formula" not in capsys.readouterr().err
    with pytest.raises(ValueError, match="--for-spreadsheets is for csv and tsv"):
        show_frame(FRAME, None, tmp_path / "x.parquet", for_spreadsheets=True)


@pytest.mark.parametrize("form", [FileFormat.CSV, FileFormat.TSV, None])
def test_a_pipe_gets_texts_for_spreadsheets_too(form: FileFormat | None, capsys: pytest.CaptureFixture[str]) -> None:
    show_frame(FRAME, form, None, for_spreadsheets=True)
    assert "'=1+1" in capsys.readouterr().out
    show_frame(FRAME, form, None)
    assert "'" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="--for-spreadsheets is for csv and tsv; the output is json"):
        show_frame(FRAME, FileFormat.JSON, None, for_spreadsheets=True)


@pytest.mark.parametrize("where", ["file", "pipe"])
def test_texts_of_lists_are_protected_too(where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pl.DataFrame({"tags": [["=1+1", "a"], ["b"], None], "raw": [b"@x", b"c", None]})
    path = tmp_path / "x.csv"
    show_frame(frame, FileFormat.CSV, path if where == "file" else None, for_spreadsheets=True)
    text = path.read_text(encoding="utf-8") if where == "file" else capsys.readouterr().out
    assert list(csv.reader(text.splitlines())) == [["tags", "raw"], ["'=1+1,a", "'@x"], ["b", "c"], ["", ""]]


def test_the_command_writes_for_spreadsheets(run: Path, tmp_path: Path) -> None:
    works(f"recommend {run} --all -k 2 --out {tmp_path / 'x.csv'} --for-spreadsheets")
    with (tmp_path / "x.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert "'=1+1" in cells
    assert not [cell for cell in cells if cell[:1] in ("=", "@", "\t", "\r")]
