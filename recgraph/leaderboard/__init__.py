"""Leaderboards: models by data sets, seeds and protocols; boards are run, compared and rendered."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recgraph.leaderboard.board import Board, load_board
    from recgraph.leaderboard.rendering import render
    from recgraph.leaderboard.runner import Summary, run
    from recgraph.leaderboard.sheet import Sheet, open_sheet

_WHERE = {
    "Board": "board",
    "Sheet": "sheet",
    "Summary": "runner",
    "load_board": "board",
    "open_sheet": "sheet",
    "render": "rendering",
    "run": "runner",
}

__all__ = ["Board", "Sheet", "Summary", "load_board", "open_sheet", "render", "run"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"recgraph.leaderboard.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'recgraph.leaderboard' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
