"""``python tests/leaderboard/snapshots.py`` writes anew what made-up records are rendered as: look at the changes."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from made_up import fail, fill, write_board

from recgraph.leaderboard.board import Board
from recgraph.leaderboard.plan import jobs_of
from recgraph.leaderboard.rendering import render

EXPECTED = {suffix: Path(__file__).with_name(f"expected.{suffix}") for suffix in ("md", "csv")}


def made(folder: Path) -> Board:
    """Two entries that tie, one worse, one of which a seed failed and two were not run."""
    board = write_board(folder)
    fill(board)
    fail(board, "BPRMF", 1)
    return board


def rendered(board: Board, suffix: str) -> str:
    """The file, with names in place of addresses, which change with every default, and without the last digits."""
    text = render(board, board.folder / f"out.{suffix}").read_text(encoding="utf-8")
    for entry in board.sheets[0].models:
        text = text.replace(jobs_of(board.sheets[0], entry)[0].entry, re.sub(r"\W+", "-", entry.name))
    return re.sub(r"\d+\.\d{7,}(e-\d+)?", lambda found: f"{float(found[0]):.6g}", text)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        for suffix, path in EXPECTED.items():
            path.write_text(rendered(made(Path(name)), suffix), encoding="utf-8")
