"""Write docs/leaderboard.md, and the table of docs/results.md, from the committed records.

``python docs/write_leaderboard.py``; a test says when to.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from recgraph.leaderboard.board import Board, load_board
from recgraph.leaderboard.sheet import Sheet, open_sheet, update_comparisons
from recgraph.leaderboard.tables import markdown, metric_name

PAGE, SUMMARY = (Path(__file__).with_name(name) for name in ("leaderboard.md", "results.md"))
EXPERIMENTS = PAGE.parents[1] / "experiments"
HEAD = """\
# Results

What the boards of this project gave, as far as they were run: each number with its protocol, seeds, test and cost,
its record under `experiments/results/BOARD/DATA SET/`, and the command that makes it again, to the last digit on a CPU
of the same kind. [How boards are written, run and rendered](leaderboards.md); `recgraph board render BOARD`
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
    return [sheet for sheet in found if sheet.tables]


def pictures(found: dict[str, list[Sheet]]) -> str:
    """The pictures of all data sets, each a link to its tables; ``docs/make_pictures.py`` draws
    them.
    """
    lines = ["## In pictures", ""]
    for name, own in found.items():
        for sheet in own:
            title = f"{name}: {sheet.spec.title}"
            lines += [
                f"[{title}](#{_anchor(sheet)})",
                "",
                f"![{title}](pictures/{picture(sheet)})",
                "",
            ]
    return "\n".join(lines)


def picture(sheet: Sheet) -> str:
    """The name of the picture of a sheet."""
    return f"board-{sheet.board}-{sheet.spec.name}.png"


def _anchor(sheet: Sheet) -> str:
    return re.sub(r"[^\w\- ]", "", sheet.spec.title.lower()).replace(" ", "-")


def summary(experiments: Path = EXPERIMENTS) -> str:
    """Of each data set of each board: its best entry, who is not told from it, and who is nearly as
    good for less.
    """
    lines = [
        "| board | first column | best | mean | training, CPU s | not told from it | cheapest within 1 % |",
        "| --- | --- | --- | --: | --: | --- | --- |",
    ]
    for board in boards(experiments):
        lines += [
            f"| {' | '.join(_summarised(board, sheet))} |"
            for sheet in sheets(board)
            if sheet.cheapest
        ]
    return "\n".join(lines)


def _summarised(board: Board, sheet: Sheet) -> list[str]:
    assert sheet.cheapest is not None
    (best, cheapest), table = sheet.cheapest, sheet.tables[0]
    metric = table.metrics[0]
    scores = {
        each.name: sheet.scores(each.name, table.title)[metric] for each in sheet.ranked(table)
    }
    costs = {
        name: sheet.numbers[name, "", "", "", "training_cpu_seconds"].mean
        for name in (best, cheapest)
    }
    alike = _listed(name for name, score in scores.items() if score.mark == "tied" and name != best)
    untested = any(score.mark == "untested" for name, score in scores.items() if name != best)
    return [
        f"[{board.name}/{sheet.spec.name}](leaderboard.md#{_anchor(sheet)})",
        f"{metric_name(metric)}, {table.title}",
        best,
        scores[best].text(),
        f"{costs[best]:.3g}",
        alike or ("not tested" if untested else "none"),
        "itself"
        if cheapest == best
        else f"{cheapest}: {scores[cheapest].mean:.4f}, {costs[cheapest]:.3g} s",
    ]


def _listed(names: Iterable[str], limit: int = 4) -> str:
    """``A, B and 2 more``."""
    every = list(names)
    shown, left = every[:limit], len(every) - limit
    if left > 0:
        return f"{', '.join(shown)} and {left} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def page(experiments: Path = EXPERIMENTS) -> str:
    """The whole page, from what is in git alone."""
    found = {board.name: own for board in boards(experiments) if (own := sheets(board))}
    parts = [markdown(own, name, level=2) for name, own in found.items()]
    return "\n".join([HEAD, *([pictures(found), *parts] if parts else [NONE])])


def results(experiments: Path = EXPERIMENTS) -> str:
    """``docs/results.md`` with the table that the records give."""
    from experiments.marked import marked

    return marked(SUMMARY.read_text(encoding="utf-8"), "results", summary(experiments))


if __name__ == "__main__":
    sys.path.insert(0, str(EXPERIMENTS.parent))
    for each in boards():
        for sheet in sheets(each):
            update_comparisons(sheet)
    PAGE.write_text(page(), encoding="utf-8")
    SUMMARY.write_text(results(), encoding="utf-8")
