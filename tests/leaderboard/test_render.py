"""What made-up records are rendered as."""

from __future__ import annotations

import csv
import io
import re
import subprocess
from pathlib import Path

import pytest
from made_up import jobs, store_of
from snapshots import EXPECTED, rendered

import recgraph as rg
from recgraph.config import setting_text
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
