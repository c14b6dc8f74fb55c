"""``page``: a board as one self-contained HTML file, which depends on the records alone."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import NamedTuple

import polars as pl

from recgraph.evaluate.metrics import higher_is_better
from recgraph.leaderboard.board import Board
from recgraph.leaderboard.compare import MARKS, Mark
from recgraph.leaderboard.numbers import COSTS, Number, metric_name, short_hash
from recgraph.leaderboard.plan import Repeat, named, repeat_of
from recgraph.leaderboard.sheet import Entry, ScoreTable, Sheet
from recgraph.pages import charts, environment
from recgraph.pages.charts import Chart, Figure, Line, Scale

__all__ = ["page"]

#: what a screen reader says for the sign of a mark
_SPOKEN = {"best": "significantly best", "tied": "not significantly worse than the best", "untested": "not tested"}
#: number of protocols whose columns are visible at first; the reader can show the others
_VISIBLE = 3
#: number of entries whose curves have a colour of their own (``c1``, ... of the style sheet)
N_COLOURS = 6
#: an axis is logarithmic where its largest value is more than this many times its smallest
_LOG_RATIO = 8.0
#: maximum number of points of a drawn curve
_POINTS = 100
#: name of an entry, seed, and the metric that selected its weights by epoch
_Curve = tuple[str, Repeat, list[tuple[int, float]]]


def page(sheets: Sequence[Sheet], board: Board) -> str:
    """The page of a board's sheets as text."""
    entries = [entry for sheet in sheets for entry in sheet.entries]
    times = [time for entry in entries for time in entry.times.values()]
    anchors = [(sheet, re.sub(r"[^\w-]+", "-", sheet.spec.name)) for sheet in sheets]
    templates = environment("leaderboard")
    pretty = partial(json.dumps, indent=1)
    templates.filters |= {"metric_name": metric_name, "named": named, "spread": spread, "pretty": pretty}
    return templates.get_template("page.html.j2").render(
        board=board,
        sections=[
            (sheet, anchor, {entry.name: f"{anchor}--card-{place}" for place, entry in enumerate(sheet.entries)})
            for sheet, anchor in anchors
        ],
        newest=max(times, default="")[:10],
        commits=list(dict.fromkeys(commit for entry in entries for commit in entry.commits)),
        machines=list(dict.fromkeys(machine for entry in entries for machine in entry.machines)),
        conventions=any(table.n_users is not None for sheet in sheets for table in sheet.tables),
        has_folds=any(sheet.spec.protocol.n_folds is not None for sheet in sheets),
        most_seeds=max((len(entry.seeds) for entry in entries), default=1),
        n_colours=N_COLOURS,
        marks=MARKS,
        spoken=_SPOKEN,
        cost_figures=cost_figures,
        costs=_costs,
        curve_figures=curve_figures,
        group_tables=group_tables,
        marks_of=marks_of,
        score_groups=score_groups,
        short_hash=short_hash,
        shown_scores=_shown_scores,
    )


def spread(number: Number) -> str:
    """The standard deviation as ``±.0012``; empty of one seed."""
    if number.sd is None:
        return ""
    return f"±{number.sd:.4f}".replace("±0.", "±.") if number.sd else "±0"


def duration(seconds: float) -> str:
    """Seconds to three digits in ms, s, min or h."""
    if seconds < 1:
        return f"{_three_digits(1000 * seconds)} ms"
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60)):
        if seconds < limit:
            return f"{_three_digits(seconds / size)} {unit}"
    return f"{_three_digits(seconds / 3600)} h"


def count(number: float) -> str:
    """``1.87 M`` of 1,871,496."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{_three_digits(number / size)}{unit}"
    return f"{number:.0f}"


def _three_digits(number: float) -> str:
    """Three digits, or all before the point where there are more: ``:.3g`` writes 999.9 as ``1e+03``."""
    return f"{number:.3g}" if abs(number) < 999.5 else f"{number:.0f}"


def memory(mib: float) -> str:
    """``624 MiB``, ``1.2 GiB``."""
    return f"{mib:.0f} MiB" if mib < 1000 else f"{mib / 1024:.3g} GiB"


def _costs(sheet: Sheet, entry: Entry) -> dict[str, str]:
    texts = {"training_wh": "{:.3g} Wh".format, "peak_memory_mb": memory, "n_parameters": "{:,.0f}".format}
    found = {}
    for name in COSTS:
        if (number := sheet.cost(entry.name, name)) is not None:
            text = texts.get(name, "{:.0f}".format if name == "epochs" else duration)
            spent = f"{text(number.mean)} ± {text(number.sd)}" if number.sd else text(number.mean)
            found[name.removeprefix("n_").removesuffix("_mb").replace("_", " ")] = spent
    return found


@dataclass(frozen=True)
class PageColumn:
    """A column of scores or costs, by the names of entries; a click on its heading first sorts it in ``order``."""

    label: str
    numbers: Mapping[str, Number]
    format: Callable[[float], str] = "{:.4f}".format
    order: str = "descending"

    def hint(self, entry: str) -> str:
        """The tooltip of a cell: the value of each seed."""
        return "; ".join(f"{named(repeat)}: {value:.6g}" for repeat, value in self.numbers[entry].by_seed.items())

    @cached_property
    def _best(self) -> float:
        displayed = {round(number.mean, 4) for number in self.numbers.values() if not math.isnan(number.mean)}
        best = max if self.order == "descending" else min
        return best(displayed) if len(displayed) > 1 else math.inf

    def is_best(self, entry: str) -> bool:
        """Whether no other entry has a better mean."""
        return entry in self.numbers and round(self.numbers[entry].mean, 4) == self._best


class ColumnGroup(NamedTuple):
    """Columns under one heading, with a note; scores are written with their deviation over seeds."""

    title: str
    note: str
    columns: list[PageColumn]
    is_visible: bool = True
    is_of_scores: bool = True


def marks_of(sheet: Sheet) -> list[Mark]:
    """The marks in the tables of the page; empty where nothing was tested."""
    found = {number.mark for number in sheet.numbers.values()}
    return [mark for mark in MARKS if mark in found] if found - {"untested", ""} else []


def _shown_scores(sheet: Sheet, entry: str, table: ScoreTable) -> dict[str, Number]:
    """The scores of an entry, compared metrics first; without marks where nothing was tested."""
    scores = sheet.scores(entry, table.title)
    names = dict.fromkeys([*(metric for metric in table.metrics if metric in scores), *scores])
    are_marked = bool(marks_of(sheet))
    return {name: scores[name] if are_marked else replace(scores[name], mark="") for name in names}


def score_groups(sheet: Sheet) -> list[ColumnGroup]:
    """The main table: a group of columns for each protocol, then the cost of a seed."""
    groups = []
    for place, table in enumerate(sheet.tables):
        scores = {entry.name: _shown_scores(sheet, entry.name, table) for entry in sheet.entries}
        columns = [_of_metric(metric, metric_name(metric), metric, scores) for metric in table.metrics]
        note = "" if table.n_users is None else f"{table.n_users:,} users{table.in_folds}"
        groups.append(ColumnGroup(table.title, note, columns, is_visible=place < _VISIBLE))
    costs = [
        PageColumn(
            label,
            {one.name: spent for one in sheet.entries if (spent := sheet.cost(one.name, name))},
            text,
            "ascending",
        )
        for label, name, text in (
            ("Training", "training_seconds", duration),
            ("Inference", "inference_seconds", duration),
            ("Parameters", "n_parameters", count),
            ("Memory", "peak_memory_mb", memory),
        )
    ]
    return [*groups, ColumnGroup("cost of a seed", "mean", costs, is_of_scores=False)]


def _of_metric(metric: str, label: str, key: str, rows: Mapping[str, Mapping[str, Number]]) -> PageColumn:
    numbers = {name: own[key] for name, own in rows.items() if key in own}
    return PageColumn(label, numbers, order="descending" if higher_is_better(metric) else "ascending")


def group_tables(sheet: Sheet) -> dict[str, list[ColumnGroup]]:
    """Kind of groups of users -> the scores by group, a group of columns for each protocol."""
    found: dict[str, list[ColumnGroup]] = {}
    for table in sheet.groups:
        columns = [
            _of_metric(table.metric, f"{group} ({size:,})", group, table.rows) for group, size in table.sizes.items()
        ]
        found.setdefault(table.label, []).append(ColumnGroup(table.table, metric_name(table.metric), columns))
    return found


def cost_figures(sheet: Sheet) -> list[Figure]:
    """The first protocol's first metric against training time, and against inference time."""
    if not sheet.tables:
        return []
    return [_cost_figure(sheet, f"{name}_seconds", name) for name in ("training", "inference")]


def cost_marks(sheet: Sheet, cost: str) -> list[charts.Mark]:
    """One mark for each entry: its cost, and the first protocol's first metric.

    An entry is on the Pareto front (kind ``front``) where no other entry dominates it. The front comes first, so that
    its names are placed first.
    """
    title, metric = sheet.tables[0].title, sheet.tables[0].metrics[0]
    sign = 1 if higher_is_better(metric) else -1
    found = {
        entry.name: (own.mean, score)
        for entry in sheet.entries
        if (score := sheet.score(entry.name, title, metric))
        and math.isfinite(score.mean)
        and (own := sheet.cost(entry.name, cost))
    }
    at = {name: (spent, sign * score.mean) for name, (spent, score) in found.items()}
    marks = []
    for name, (spent, score) in found.items():
        x, y = at[name]
        is_dominated = any(a <= x and b >= y and (a, b) != (x, y) for a, b in at.values())
        kind = "complete" if is_dominated else "front"
        sd = score.sd or 0.0
        text = f"{name}: {score.mean:.4f} ± {sd:.4f}, {duration(spent)}"
        marks.append(charts.Mark(spent, score.mean, kind, text, name=name, spread=sd))
    return sorted(marks, key=lambda mark: (mark.kind != "front", -mark.y))


def _cost_figure(sheet: Sheet, cost: str, name: str) -> Figure:
    marks = cost_marks(sheet, cost)
    metric = metric_name(sheet.tables[0].metrics[0])
    spent = {mark.name: own.mean for mark in marks if (own := sheet.cost(mark.name, cost))}
    costs = [*spent.values()]
    chart = Chart(
        f"{metric} against seconds of {name}",
        Scale.of(costs, log=_needs_log(costs)),
        Scale.of([mark.y + sign * mark.spread for mark in marks for sign in (-1, 1)]),
        f"seconds of {name}, a seed",
        f"{metric}, {sheet.tables[0].title}",
        marks,
        [Line("so-far", _steps((spent[mark.name], mark.y) for mark in marks if mark.kind == "front"))],
    )
    note = "Large and blue: the Pareto front; no other entry is better and as fast, or faster and as good."
    whiskers = f" Whiskers: ± sd over {sheet.repeats}." if any(mark.spread for mark in marks) else ""
    return Figure(f"Quality against time of {name}", str(chart), note + whiskers)


def _steps(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    front = sorted(points)
    line = front[:1]
    for cost, quality in front[1:]:
        line += [(cost, line[-1][1]), (cost, quality)]
    return line


def curve_figures(sheet: Sheet) -> list[Figure]:
    """The learning curves of all entries and seeds, one figure for each metric."""
    found: dict[str, list[_Curve]] = {}
    rows = sheet.frame.filter(pl.col("kind") == "epoch").group_by(
        "metric", "entry", "fold", "seed", maintain_order=True
    )
    for metric, name, fold, seed, epochs, values in rows.agg("epoch", "value").iter_rows():
        found.setdefault(metric, []).append((name, repeat_of(fold, seed), list(zip(epochs, values, strict=True))))
    return [_curve_figure(metric, curves) for metric, curves in found.items()]


def _curve_figure(metric: str, curves: Sequence[_Curve]) -> Figure:
    names = list(dict.fromkeys(name for name, _, _ in curves))
    kinds = {name: f"c{i + 1}" if i < N_COLOURS else "other" for i, name in enumerate(names)}
    lines = [
        Line(f"curve {kinds[name]}", _thinned(points), f"{name}, {named(repeat)}") for name, repeat, points in curves
    ]
    key = [(kind, name) for name, kind in kinds.items() if kind != "other"]
    if len(names) > N_COLOURS:
        key.append(("other", "others"))
    axis = "loss" if metric == "loss" else f"{metric_name(metric)} on the valid part"
    first, last = ([points[place][0] for _, _, points in curves] for place in (0, -1))
    x = Scale.of([*first, *last], log=_needs_log(last), whole=True)
    y = Scale.of([value for line in lines for _, value in line.points])
    # the best entries are drawn last, on top
    chart = Chart(f"{axis} by epoch, a line a seed", x, y, "epoch", axis, [], lines[::-1])
    return Figure("Course of training" if metric != "loss" else "Loss of training", str(chart), "", tuple(key))


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    step = max(1, math.ceil(len(points) / _POINTS))
    finite = [(float(epoch), value) for epoch, value in points if math.isfinite(value)]
    return [point for i, point in enumerate(finite) if i % step == 0 or i == len(finite) - 1]


def _needs_log(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) / min(values) > _LOG_RATIO
