"""Leaderboards: models by data sets, seeds and protocols; boards are run, compared and rendered."""

from recgraph.leaderboard.board import Board, load_board
from recgraph.leaderboard.page import render
from recgraph.leaderboard.runner import Summary, run
from recgraph.leaderboard.sheet import Sheet, open_sheet

__all__ = ["Board", "Sheet", "Summary", "load_board", "open_sheet", "render", "run"]
