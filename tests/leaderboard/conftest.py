"""A board with made-up records."""

from __future__ import annotations

from pathlib import Path

import pytest
from snapshots import made

from recgraph.leaderboard.board import Board


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return made(tmp_path)
