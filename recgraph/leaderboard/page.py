"""``render``: a board as a page, one self-contained HTML file, or as tables; it depends on the
records alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import polars as pl

from recgraph.config import checked
from recgraph.evaluate.metrics import higher_is_better
from recgraph.files import write_text
from recgraph.leaderboard.board import Board, load_board
from recgraph.leaderboard.compare import MARKS
from recgraph.leaderboard.sheet import NEAR, Number, Sheet, open_sheet, text_of, update_comparisons
from recgraph.leaderboard.tables import cost_text, markdown, metric_name, short_hash
from recgraph.pages import charts, environment
from recgraph.pages.charts import Chart, Figure, Line, Scale

__all__ = ["page", "render"]

#: what a screen reader says for the sign of a mark
_SPOKEN = {
    "best": "significantly best",
    "tied": "not significantly worse than the best",
    "untested": "not tested",
}
#: number of protocols whose columns are visible at first; the reader can show the others
_VISIBLE = 3
#: number of entries whose curves have a colour of their own (``c1``, ... of the style sheet)
_N_COLOURS = 6
#: costs of the main table
_COSTS = {
    "training_seconds": "Training, s",
    "inference_seconds": "Inference, s",
    "n_parameters": "Parameters",
    "peak_memory_mb": "Memory, MiB",
}
#: kind of groups of users -> heading
_GROUPS = {
    "history": "Interactions known of a user",
    "popularity": "Popularity of what is looked for",
}
#: an axis is logarithmic where its largest value is more than this many times its smallest
_LOG_RATIO = 8.0


@checked
def render(
    board: str | Path | Board, out: str | Path, *, results: str | Path | None = None
) -> Path:
    """Write the records of a board into one file and return its path.

    No model is trained and no data is read. Entries are compared again where their records have
    changed.

    Args:
        board: a name, a folder, a TOML file, or a board.
        out: ends in ``.html`` (one file that needs no network), ``.md`` or ``.csv`` (a line for
            each seed of a number).
        results: the folder of records; by default ``results`` beside the board's folder.

    Raises:
        ValueError: the board does not exist, or ``out`` has another suffix.
    """
    path = Path(out)
    if path.suffix not in (".html", ".md", ".csv"):
        raise ValueError(f"out = {str(out)!r} must end in .html, .md or .csv")
    found = board if isinstance(board, Board) else load_board(board)
    sheets = [update_comparisons(open_sheet(found, sheet, results)) for sheet in found.sheets]
    if path.suffix == ".csv":
        text = pl.concat([sheet.frame for sheet in sheets], how="vertical_relaxed").write_csv()
    else:
        text = page(sheets, found) if path.suffix == ".html" else markdown(sheets, found.name)
    write_text(text, path)
    return path


def page(sheets: Sequence[Sheet], board: Board) -> str:
    """The page of a board's sheets as text."""
    entries = [entry for sheet in sheets for entry in sheet.entries]
    times = [record["at"] for entry in entries for record in entry.records.values()]
    anchors = [(sheet, re.sub(r"[^\w-]+", "-", sheet.spec.name)) for sheet in sheets]
    templates = environment("leaderboard")
    templates.filters |= {
        "metric_name": metric_name,
        "cost": cost_text,
        "pretty": partial(json.dumps, indent=1),
    }
    return templates.get_template("page.html.j2").render(
        board=board,
        sections=[
            (
                sheet,
                anchor,
                {
                    entry.name: f"{anchor}--card-{place}"
                    for place, entry in enumerate(sheet.entries)
                },
            )
            for sheet, anchor in anchors
        ],
        newest=max(times, default="")[:10],
        machines=list(
            dict.fromkeys(each for entry in entries for each in entry.provenance["machine"])
        ),
        conventions=any(table.n_users is not None for sheet in sheets for table in sheet.tables),
        most_seeds=max((len(entry.jobs) for entry in entries), default=1),
        marks=MARKS,
        spoken=_SPOKEN,
        near=NEAR,
        cost_figures=cost_figures,
        curve_figures=curve_figures,
        group_tables=group_tables,
        is_best=is_best,
        score_groups=score_groups,
        short_hash=short_hash,
        text_of=text_of,
    )


# -- tables


class PageColumn(NamedTuple):
    """A column of scores or costs, by the names of entries; a click on its heading first sorts it
    in ``order``.
    """

    label: str
    numbers: Mapping[str, Number]
    form: Callable[[Number], str] = lambda number: f"{number.mean:.4f}"
    order: str = "descending"


class ColumnGroup(NamedTuple):
    """Columns under one heading, with a note; scores are written with their deviation over
    seeds.
    """

    title: str
    note: str
    columns: list[PageColumn]
    is_visible: bool = True
    is_of_scores: bool = True


def is_best(column: PageColumn, entry: str) -> bool:
    """Whether no other of several entries has a better mean, as it is written."""
    means = {
        name: round(number.mean, 4)
        for name, number in column.numbers.items()
        if not math.isnan(number.mean)
    }
    best = max if column.order == "descending" else min
    return len({*means.values()}) > 1 and means.get(entry) == best(means.values())


def _of_metric(metric: str, label: str, numbers: Mapping[str, Number | None]) -> PageColumn:
    order = "descending" if higher_is_better(metric) else "ascending"
    return PageColumn(
        label, {name: number for name, number in numbers.items() if number}, order=order
    )


def score_groups(sheet: Sheet) -> list[ColumnGroup]:
    """The main table: a group of columns for each protocol, then the cost of a seed."""
    names, groups = [entry.name for entry in sheet.entries], []
    for place, (title, metrics, *_, n_users, _) in enumerate(sheet.tables):
        columns = [
            _of_metric(
                each, metric_name(each), {name: sheet.score(name, title, each) for name in names}
            )
            for each in metrics
        ]
        groups.append(
            ColumnGroup(
                title, "" if n_users is None else f"{n_users:,} users", columns, place < _VISIBLE
            )
        )
    spent = []
    for cost, label in _COSTS.items():
        numbers = {name: own for name in names if (own := sheet.cost(name, cost))}
        spent.append(PageColumn(label, numbers, partial(cost_text, name=cost), "ascending"))
    return [*groups, ColumnGroup("cost of a seed", "mean", spent, is_of_scores=False)]


def group_tables(sheet: Sheet) -> dict[str, list[ColumnGroup]]:
    """Kind of groups of users -> the first metric by group, a group of columns for each
    protocol.
    """
    metric, sizes = sheet.spec.metrics[0], dict[tuple[str, str, str], float]()
    numbers: dict[tuple[str, str], dict[str, dict[str, Number | None]]] = {}
    for (entry, title, kind, group, name), number in sheet.numbers.items():
        if kind and name == "n_users":
            sizes.setdefault((kind, title, group), number.mean)
        elif kind and name == metric:  # of lists together, as gini, groups have no values
            numbers.setdefault((kind, title), {}).setdefault(group, {})[entry] = number
    found: dict[str, list[ColumnGroup]] = {}
    for kind, heading in _GROUPS.items():
        for title in (table.title for table in sheet.tables if (kind, table.title) in numbers):
            columns = [
                _of_metric(metric, f"{group} ({sizes[kind, title, group]:,.0f})", own)
                for group, own in numbers[kind, title].items()
            ]
            found.setdefault(heading, []).append(ColumnGroup(title, metric_name(metric), columns))
    return found


# -- figures


def cost_figures(sheet: Sheet) -> list[Figure]:
    """The first protocol's first metric against training time, and against inference time.

    An entry is on the Pareto front where no other dominates it. The front comes first, so that its
    names are placed first.
    """
    return [_cost_figure(sheet, name) for name in ("training", "inference") if sheet.tables]


def _cost_figure(sheet: Sheet, name: str) -> Figure:
    table = sheet.tables[0]
    metric, sign = metric_name(table.metrics[0]), 1 if higher_is_better(table.metrics[0]) else -1
    found = {
        entry.name: (sheet.numbers[entry.name, "", "", "", f"{name}_seconds"].mean, score)
        for entry in sheet.entries
        if (score := sheet.score(entry.name, table.title, table.metrics[0]))
        and math.isfinite(score.mean)
    }
    places = [(x, sign * score.mean) for x, score in found.values()]
    marks, front = [], []
    for own, (x, score) in found.items():
        y, sd = sign * score.mean, score.sd or 0.0
        is_dominated = any(a <= x and b >= y and (a, b) != (x, y) for a, b in places)
        kind = "complete" if is_dominated else "front"
        front += [] if is_dominated else [(x, score.mean)]
        text = f"{own}: {score.mean:.4f} ± {sd:.4f}, {x:,.1f} s"
        marks.append(charts.Mark(x, score.mean, kind, text, name=own, spread=sd))
    marks.sort(key=lambda mark: (mark.kind != "front", -mark.y))
    front.sort()
    steps = front[:1]
    for cost, quality in front[1:]:
        steps += [(cost, steps[-1][1]), (cost, quality)]
    chart = Chart(
        f"{metric} against seconds of {name}",
        _scale([x for x, _ in places]),
        Scale.of([mark.y + sign * mark.spread for mark in marks for sign in (-1, 1)]),
        f"seconds of {name}, a seed",
        f"{metric}, {table.title}",
        marks,
        [Line("so-far", steps)],
    )
    note = "Large and blue: the Pareto front; no other entry is better and as fast, or faster and as good."
    whiskers = " Whiskers: ± sd over seeds." if any(mark.spread for mark in marks) else ""
    return Figure(f"Quality against time of {name}", str(chart), note + whiskers)


def curve_figures(sheet: Sheet) -> list[Figure]:
    """The learning curves of all entries and seeds, one figure for each metric that selected
    weights by epoch.
    """
    found: dict[str, list[tuple[str, int, list[tuple[int, float]]]]] = {}
    for entry in sheet.entries:
        for seed, metric, points in entry.curves:
            found.setdefault(metric, []).append((entry.name, seed, points))
    figures = []
    for metric, curves in found.items():
        names = list(dict.fromkeys(name for name, _, _ in curves))
        kinds = {name: f"c{i + 1}" if i < _N_COLOURS else "other" for i, name in enumerate(names)}
        # the best entries are drawn last, on top
        lines = [
            Line(f"curve {kinds[name]}", points, f"{name}, seed {seed}")
            for name, seed, points in curves[::-1]
        ]
        key = {kind: name if kind != "other" else "others" for name, kind in kinds.items()}
        axis = "loss" if metric == "loss" else f"{metric_name(metric)} on the valid part"
        first, last = ([points[place][0] for _, _, points in curves] for place in (0, -1))
        epochs = _scale(last, first, whole=True)
        values = Scale.of([value for line in lines for _, value in line.points])
        chart = Chart(f"{axis} by epoch, a line a seed", epochs, values, "epoch", axis, [], lines)
        figures.append(Figure("Course of training", str(chart), "", tuple(key.items())))
    return figures


def _scale(values: Sequence[float], more: Sequence[float] = (), whole: bool = False) -> Scale:
    """An axis, logarithmic where ``values`` are far apart."""
    log = bool(values) and min(values) > 0 and max(values) / min(values) > _LOG_RATIO
    return Scale.of([*more, *values], log=log, whole=whole)
