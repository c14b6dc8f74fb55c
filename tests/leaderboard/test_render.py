"""What made-up records are rendered as."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from made_up import jobs, store_of
from snapshots import EXPECTED, rendered

import recgraph as rg
from recgraph.leaderboard.board import Board
from recgraph.leaderboard.rendering import COLUMNS


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
