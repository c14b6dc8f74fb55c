"""Write docs/leaderboard.md from the committed records: ``python docs/write_leaderboard.py`` (a test says when to)."""

from __future__ import annotations

import re
from pathlib import Path

from recgraph.leaderboard.board import Board, load_board
from recgraph.leaderboard.rendering import markdown
from recgraph.leaderboard.sheet import Sheet, open_sheet, update_comparisons

PAGE = Path(__file__).with_name("leaderboard.md")
EXPERIMENTS = PAGE.parents[1] / "experiments"
HEAD = """\
# Results

What the boards of this project gave, as far as they were run: each number with its protocol, seeds, test and cost,
its record under `experiments/results/BOARD/DATA SET/`, and the command that makes it again, to the last digit on a CPU
of the same kind. [How boards are written, run and rendered](leaderboards.md); `recgraph leaderboard render BOARD`
gives the same as a page with plots.

(This page is written by `python docs/write_leaderboard.py` from the records.)
"""
NONE = "No records are kept yet.\n"


def boards(experiments: Path = EXPERIMENTS) -> list[Board]:
    """The boards that have records."""
    names = sorted(path.name for path in (experiments / "results").glob("*") if path.is_dir())
    return [load_board(experiments / name) for name in names]


def sheets(board: Board) -> list[Sheet]:
    """The data sets of a board of which something was run."""
    found = [open_sheet(board, sheet) for sheet in board.sheets]
    return [sheet for sheet in found if sheet.tables or sheet.failures]


def pictures(found: dict[str, list[Sheet]]) -> str:
    """The pictures of all data sets, each a link to its tables; ``docs/make_pictures.py`` draws them."""
    lines = ["## In pictures", ""]
    for name, own in found.items():
        for sheet in own:
            anchor = re.sub(r"[^\w\- ]", "", sheet.title.lower()).replace(" ", "-")
            title = f"{name}: {sheet.title}"
            lines += [f"[{title}](#{anchor})", "", f"![{title}](pictures/board-{name}-{sheet.dataset}.png)", ""]
    return "\n".join(lines)


def page(experiments: Path = EXPERIMENTS) -> str:
    """The whole page, from what is in git alone."""
    found = {board.name: own for board in boards(experiments) if (own := sheets(board))}
    parts = [markdown(own, name, level=2) for name, own in found.items()]
    return "\n".join([HEAD, *([pictures(found), *parts] if parts else [NONE])])


if __name__ == "__main__":
    for each in boards():
        for sheet in sheets(each):
            update_comparisons(sheet)
    PAGE.write_text(page(), encoding="utf-8")
