"""``render``: a board's records as a page, as Markdown or as CSV."""

from __future__ import annotations

from pathlib import Path

from recgraph.data.files import replace_text
from recgraph.leaderboard.board import Board, load_board
from recgraph.leaderboard.compare import update_comparisons
from recgraph.leaderboard.markdown import markdown
from recgraph.leaderboard.rows import to_csv
from recgraph.leaderboard.sheet import Sheet, open_sheet

__all__ = ["render", "sheets_of"]


def render(board: str | Path | Board, out: str | Path, *, results: str | Path | None = None) -> Path:
    """Write what the records of a board say into one file, whole or not at all; the path is returned.

    Nothing is trained and no data is read. Where records have changed since their entries were compared, that is done
    again (see :func:`recgraph.leaderboard.compare.update_comparisons`).

    Args:
        board: a name, a folder, a TOML file, or a board.
        out: ends in ``.html`` (one file that needs no network), ``.md`` or ``.csv`` (all numbers, a line each).
        results: where records are kept; by default ``results`` beside the board's folder.

    Raises:
        ValueError: there is no such board, or ``out`` ends in something else.
    """
    path = Path(out)
    if path.suffix not in (".html", ".md", ".csv"):
        raise ValueError(f"out = {str(out)!r} must end in .html, .md or .csv")
    found = board if isinstance(board, Board) else load_board(board)
    sheets = sheets_of(found, results)
    if path.suffix == ".html":
        from recgraph.leaderboard.page import page

        text = page(sheets, found)
    else:
        text = markdown(sheets, found.name) if path.suffix == ".md" else to_csv(sheets)
    replace_text(text, path)
    return path


def sheets_of(board: Board, results: str | Path | None = None) -> list[Sheet]:
    """The sheets of a board with their marks."""
    return [update_comparisons(open_sheet(board, sheet, results)) for sheet in board.sheets]
