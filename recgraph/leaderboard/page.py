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
from recgraph.leaderboard.plan import SEEN
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
#: colours of the style sheet for the curves of the first entries
_COLOURS = ("c1", "c2", "c3", "c4", "c5", "c6")
#: epoch and value
_Points = list[tuple[int, float]]
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
    board = load_board(board)
    sheets = [update_comparisons(open_sheet(board, sheet, results)) for sheet in board.sheets]
    if path.suffix == ".html":
        text = page(sheets, board)
    elif path.suffix == ".md":
        text = markdown(sheets, board.name)
    else:
        text = pl.concat([sheet.frame for sheet in sheets], how="vertical_relaxed").write_csv()
    write_text(text, path)
    return path


def page(sheets: Sequence[Sheet], board: Board) -> str:
    """The page of a board's sheets as text."""
    sections = []
    times = [""]
    machines: list[str] = []
    titles: set[str] = set()
    most_seeds = 1
    for sheet in sheets:
        anchor = re.sub(r"[^\w-]+", "-", sheet.spec.name)
        cards = {}
        for place, entry in enumerate(sheet.entries):
            cards[entry.name] = f"{anchor}--card-{place}"
            machines += entry.provenance["machine"]
            most_seeds = max(most_seeds, len(entry.jobs))
        sections.append((sheet, anchor, cards))
        times += [record["at"] for record in sheet.records]
        titles |= {table.title for table in sheet.tables}
    templates = environment("leaderboard")
    templates.filters |= {
        "metric_name": metric_name,
        "cost": cost_text,
        "pretty": partial(json.dumps, indent=1),
    }
    return templates.get_template("page.html.j2").render(
        board=board,
        sections=sections,
        newest=max(times)[:10],
        machines=list(dict.fromkeys(machines)),
        conventions=not titles.isdisjoint(SEEN),
        most_seeds=most_seeds,
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


def _of_metric(metric: str, label: str, numbers: Mapping[str, Number]) -> PageColumn:
    order = "descending" if higher_is_better(metric) else "ascending"
    return PageColumn(label, numbers, order=order)


def score_groups(sheet: Sheet) -> list[ColumnGroup]:
    """The main table: a group of columns for each protocol, then the cost of a seed."""
    groups = []
    for place, table in enumerate(sheet.tables):
        columns = [
            _of_metric(metric, metric_name(metric), sheet.column(table.title, metric))
            for metric in table.metrics
        ]
        note = "" if table.n_users is None else f"{table.n_users:,} users"
        groups.append(ColumnGroup(table.title, note, columns, is_visible=place < _VISIBLE))
    costs = [
        PageColumn(label, sheet.column("", name), partial(cost_text, name=name), "ascending")
        for name, label in _COSTS.items()
    ]
    return [*groups, ColumnGroup("cost of a seed", "mean", costs, is_of_scores=False)]


def group_tables(sheet: Sheet) -> dict[str, list[ColumnGroup]]:
    """Kind of groups of users -> the first metric by group, a group of columns for each
    protocol.
    """
    metric = sheet.spec.metrics[0]
    sizes: dict[tuple[str, str, str], float] = {}
    # kind and table -> group -> entry -> number; of lists together, as gini, groups have no values
    numbers: dict[tuple[str, str], dict[str, dict[str, Number]]] = {}
    for (entry, title, kind, group, name), number in sheet.numbers.items():
        if name == "n_users":
            sizes.setdefault((kind, title, group), number.mean)
        elif kind and name == metric:
            numbers.setdefault((kind, title), {}).setdefault(group, {})[entry] = number
    found: dict[str, list[ColumnGroup]] = {}
    for kind, heading in _GROUPS.items():
        for table in sheet.tables:
            columns = [
                _of_metric(metric, f"{group} ({sizes[kind, table.title, group]:,.0f})", column)
                for group, column in numbers.get((kind, table.title), {}).items()
            ]
            if columns:
                group_of_table = ColumnGroup(table.title, metric_name(metric), columns)
                found.setdefault(heading, []).append(group_of_table)
    return found


# -- figures


def cost_figures(sheet: Sheet) -> list[Figure]:
    """The first protocol's first metric against training time, and against inference time.

    An entry is on the Pareto front where no other dominates it. The front comes first, so that its
    names are placed first.
    """
    if not sheet.tables:
        return []
    return [_cost_figure(sheet, "training"), _cost_figure(sheet, "inference")]


def _cost_figure(sheet: Sheet, name: str) -> Figure:
    table = sheet.tables[0]
    metric = metric_name(table.metrics[0])
    costs = sheet.column("", f"{name}_seconds")
    points = [
        _Point(entry, costs[entry].mean, score.mean, score.sd or 0.0)
        for entry, score in sheet.column(table.title, table.metrics[0]).items()
        if math.isfinite(score.mean)
    ]
    front = _front(points, 1 if higher_is_better(table.metrics[0]) else -1)
    marks = []
    for point in points:
        text = f"{point.entry}: {point.score:.4f} ± {point.sd:.4f}, {point.seconds:,.1f} s"
        kind = "front" if point in front else "complete"
        marks.append(
            charts.Mark(point.seconds, point.score, kind, text, name=point.entry, spread=point.sd)
        )
    marks.sort(key=lambda mark: (mark.kind != "front", -mark.y))
    steps: list[tuple[float, float]] = []
    for point in front:
        steps += [(point.seconds, y) for _, y in steps[-1:]]
        steps.append((point.seconds, point.score))
    low = [point.score - point.sd for point in points]
    high = [point.score + point.sd for point in points]
    chart = Chart(
        f"{metric} against seconds of {name}",
        x=_scale([point.seconds for point in points]),
        y=Scale.of([*low, *high]),
        x_name=f"seconds of {name}, a seed",
        y_name=f"{metric}, {table.title}",
        marks=marks,
        lines=[Line("so-far", steps)],
    )
    note = "Large and blue: the Pareto front; no other entry is better and as fast, or faster and as good."
    if low != high:
        note += " Whiskers: ± sd over seeds."
    return Figure(f"Quality against time of {name}", str(chart), note)


class _Point(NamedTuple):
    """An entry in a figure of costs: means over seeds, and the deviation of the score."""

    entry: str
    seconds: float
    score: float
    sd: float


def _front(points: Sequence[_Point], sign: int) -> list[_Point]:
    """The Pareto front, the fastest first: the points that no other one dominates; ``sign`` times a
    score is better when it is higher.
    """
    front: list[_Point] = []
    for point in sorted(points, key=lambda point: (point.seconds, -sign * point.score)):
        is_better = not front or sign * point.score > sign * front[-1].score
        if is_better or (point.seconds, point.score) == (front[-1].seconds, front[-1].score):
            front.append(point)
    return front


def curve_figures(sheet: Sheet) -> list[Figure]:
    """The learning curves of all entries and seeds, one figure for each metric that selected
    weights by epoch.
    """
    curves: dict[str, list[tuple[str, int, _Points]]] = {}
    for entry in sheet.entries:
        for seed, metric, points in entry.curves:
            curves.setdefault(metric, []).append((entry.name, seed, points))
    return [_curve_figure(metric, of_metric) for metric, of_metric in curves.items()]


def _curve_figure(metric: str, curves: Sequence[tuple[str, int, _Points]]) -> Figure:
    """A figure of curves of a metric: entry, seed and points of each, the best entry first."""
    names = dict.fromkeys(name for name, _, _ in curves)
    kinds = dict(zip(names, _COLOURS, strict=False))
    lines = [
        Line(f"curve {kinds.get(name, 'other')}", points, f"{name}, seed {seed}")
        for name, seed, points in curves
    ]
    key = [(kind, name) for name, kind in kinds.items()]
    if len(names) > len(kinds):
        key.append(("other", "others"))
    axis = "loss"
    if metric != "loss":
        axis = f"{metric_name(metric)} on the valid part"
    first = [line.points[0][0] for line in lines]
    last = [line.points[-1][0] for line in lines]
    chart = Chart(
        f"{axis} by epoch, a line a seed",
        x=_scale(last, first, whole=True),
        y=Scale.of([value for line in lines for _, value in line.points]),
        x_name="epoch",
        y_name=axis,
        lines=lines[::-1],  # the best entries are drawn last, on top
    )
    return Figure("Course of training", str(chart), key=tuple(key))


def _scale(values: Sequence[float], more: Sequence[float] = (), whole: bool = False) -> Scale:
    """An axis, logarithmic where ``values`` are far apart."""
    log = 0 < min(values, default=0.0) * _LOG_RATIO < max(values, default=0.0)
    return Scale.of([*more, *values], log=log, whole=whole)
