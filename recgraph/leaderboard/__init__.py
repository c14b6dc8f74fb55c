"""Leaderboards: models by data sets, seeds and protocols; boards are run, compared and rendered."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recgraph.leaderboard.board import Board, load_board
    from recgraph.leaderboard.page import render
    from recgraph.leaderboard.runner import Summary, run
    from recgraph.leaderboard.sheet import Sheet, open_sheet

_MODULES = {"Summary": "runner", "run": "runner", "Sheet": "sheet", "open_sheet": "sheet", "render": "page"}

__all__ = ["Board", "Sheet", "Summary", "load_board", "open_sheet", "render", "run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'recgraph.leaderboard' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"recgraph.leaderboard.{_MODULES.get(name, 'board')}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
