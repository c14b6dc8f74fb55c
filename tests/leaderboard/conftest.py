"""A board with made-up records."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up import fail, fill, write_board

from recgraph.leaderboard.board import Board


@pytest.fixture
def board(tmp_path: Path) -> Board:
    """Two entries that tie, one worse, one of which a seed failed and two were not run."""
    made = write_board(tmp_path)
    fill(made)
    fail(made, "BPRMF", 1)
    return made
