"""What made-up records are rendered as."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from made_up import jobs, store_of
from markdown_it import MarkdownIt
from snapshots import EXPECTED, rendered

import recgraph as rg
from recgraph.data.imprint import load_json, replace_json
from recgraph.leaderboard.board import Board
from recgraph.leaderboard.rendering import COLUMNS
from recgraph.setting_texts import setting_text


@pytest.mark.parametrize("suffix", EXPECTED)
def test_it_is_what_it_was(board: Board, suffix: str) -> None:
    expected = EXPECTED[suffix].read_text(encoding="utf-8")
    assert rendered(board, suffix) == expected, "look at it, then: python tests/leaderboard/snapshots.py"


def test_csv_holds_every_number_of_the_records(board: Board) -> None:
    text = rg.leaderboard.render(board, board.folder / "out.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert set(rows[0]) == set(COLUMNS)
    found = {(row["entry"], row["table"], row["name"]): row["values"] for row in rows if row["kind"] == "score"}
    for name, own in jobs(board).items():
        for job in own:
            record = store_of(board).record(job)
            for title, scores in (record or {"scores": {}})["scores"].items():
                for metric, value in scores.items():
                    assert f"{job.seed}:{value!r}" in found[name, title, metric].split(" ")
    assert {row["message"] for row in rows if row["kind"] == "failure"} == {"ValueError: a | bad\nnumber"}


def test_csv_tells_sheets_of_one_data_set_apart(board: Board) -> None:
    (sheet,) = board.sheets
    other = sheet.file.with_name("other.toml")
    other.write_text("dataset = 'synthetic'\n" + sheet.file.read_text(encoding="utf-8"), encoding="utf-8")
    two = rg.leaderboard.load_board(board.folder)
    text = rg.leaderboard.render(two, board.folder / "out.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {row["sheet"] for row in rows} == {"synthetic", "other"}
    assert {row["dataset"] for row in rows} == {"synthetic"}


@pytest.mark.parametrize("field", ["data_hash", "curve", "training.selected_by", "provenance.cuda", "protocols"])
def test_a_record_that_lacks_a_field(board: Board, field: str) -> None:
    path = next(store_of(board).folder.glob("lightgcn-*-seed0.json"))
    values = load_json(path)
    *outer, name = field.split(".")
    del (values[outer[0]] if outer else values)[name]
    replace_json(values, path)
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} lacks the field '{field}', .*delete it"):
        rg.leaderboard.render(board, board.folder / "out.md")


def test_what_a_record_lacks_is_said_of_protocols_and_failures(board: Board) -> None:
    path = next(store_of(board).folder.glob("lightgcn-*-seed0.json"))
    values = load_json(path)
    del values["protocols"]["seen kept"]["protocol_hash"]
    replace_json(values, path)
    with pytest.raises(ValueError, match=r"lacks the field 'protocols\.seen kept\.protocol_hash'"):
        rg.leaderboard.render(board, board.folder / "out.md")
    path.unlink()
    failed = next(store_of(board).folder.glob("*.failed.json"))
    replace_json({name: value for name, value in load_json(failed).items() if name != "error"}, failed)
    with pytest.raises(ValueError, match=rf"{re.escape(str(failed))} lacks the field 'error'"):
        rg.leaderboard.render(board, board.folder / "out.md")


def test_a_page(board: Board) -> None:
    path = rg.leaderboard.render(board, board.folder / "out.html")
    assert "LightGCN, three layers" in path.read_text(encoding="utf-8")


def test_elsewhere(board: Board, tmp_path: Path) -> None:
    """Records of another folder; there are none there."""
    text = rg.leaderboard.render(board, tmp_path / "out.md", results=tmp_path / "none").read_text(encoding="utf-8")
    assert "0 of 10 trainings are done" in text


def test_a_form_that_does_not_exist(board: Board) -> None:
    with pytest.raises(ValueError, match=r"out = 'out\.pdf' must end in \.html, \.md or \.csv"):
        rg.leaderboard.render(board, "out.pdf")


def test_commands_can_be_pasted(board: Board, tmp_path: Path) -> None:
    """A shell that runs the text of a card calls recgraph with the arguments that are shown, and writes no file."""
    text = rg.leaderboard.render(board, board.folder / "out.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == len(board.sheets[0].models)
    assert "```console" not in text
    place = tmp_path / "place"
    place.mkdir()
    shell = 'recgraph() { printf "%s\\n" CALL "$@"; }\n'
    by_folder = {f"runs/{own[0].stem}": own[0] for own in jobs(board).values()}
    for block in blocks:
        done = subprocess.run(["bash", "-euc", shell + block], capture_output=True, text=True, cwd=place, check=True)
        trained, evaluated = (part.split("\n") for part in done.stdout.rstrip("\n").split("CALL\n")[1:])
        job = by_folder.pop(trained[trained.index("--out") + 1])
        assert trained[:2] == ["train", job.model]
        for name, value in job.settings.items():
            assert setting_text(name, value) in trained
        assert evaluated[:2] == ["evaluate", trained[trained.index("--out") + 1]]
        assert trained[trained.index("--seed") + 1] == f"{job.seed}"
        assert list(place.iterdir()) == []


NASTY = "<img src=x onerror=alert(1)> [a](http://x.y) `c` $x$ &lt; \x1b[31m \u202e | _b_ ~~s~~"


def _made_nasty(value: Any) -> Any:
    """A record whose texts are all hostile, but for those that it is found by."""
    if isinstance(value, dict):
        found_by = ("model", "dataset", "identity", "settings", "protocols", "scores", "training", "data_hash", "at")
        return {name: held if name in found_by else _made_nasty(held) for name, held in value.items()}
    if isinstance(value, list):
        return [_made_nasty(held) for held in value]
    return f"={value} {NASTY}" if isinstance(value, str) else value


@pytest.mark.parametrize("suffix", ["md", "csv", "html"])
def test_texts_of_records_do_nothing(board: Board, suffix: str) -> None:
    results = [path for path in store_of(board).folder.rglob("*.json") if path.name != "comparisons.json"]
    for path in results:
        record = json.loads(path.read_text())
        record.pop("imprint", None)  # of a record that is given, not of one that was damaged
        path.write_text(json.dumps(_made_nasty(record)))
    text = rg.leaderboard.render(board, board.folder / f"out.{suffix}").read_text(encoding="utf-8")
    assert "onerror" in text
    assert not {"\x1b", "\u202e"} & {*text} or suffix == "csv"
    if suffix == "csv":
        rows = csv.reader(io.StringIO(text, newline=""))
        assert not [cell for row in rows for cell in row if cell.startswith(("=", "@"))]
        return
    if suffix == "md":
        text = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text)
    assert not re.search(r"<(img|a href=.http|s>|del>)", text)
    assert "&lt;img src=x" in text
