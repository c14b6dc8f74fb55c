"""The figures of the page: quality against cost with the Pareto front, and the learning curves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import polars as pl

from recgraph.evaluate.metrics.names import higher_is_better
from recgraph.leaderboard.entry import Entry
from recgraph.leaderboard.repeats import Repeat, named, repeat_of
from recgraph.leaderboard.sheet import Sheet
from recgraph.leaderboard.tables import duration, metric_name
from recgraph.pages.charts import Chart, Figure, Line, Mark, Scale

__all__ = ["N_COLOURS", "cost_figures", "cost_marks", "curve_figure", "curve_figures"]


#: number of entries whose curves have a colour of their own (``c1``, ... of the style sheet)
N_COLOURS = 6
#: an axis is logarithmic where its largest value is more than this many times its smallest
_LOG_RATIO = 8.0
#: maximum number of points of a drawn curve
_POINTS = 100
_COSTS = {"training_seconds": "training", "inference_seconds": "inference"}
#: name of an entry, seed, and the metric that selected its weights by epoch
_Curve = tuple[str, Repeat, list[tuple[int, float]]]


def cost_figures(sheet: Sheet) -> list[Figure]:
    """The first protocol's first metric against training time, and against inference time."""
    if not any(entry.done for entry in sheet.entries):
        return []
    return [_cost_figure(sheet, cost, name) for cost, name in _COSTS.items()]


def cost_marks(sheet: Sheet, cost: str) -> list[Mark]:
    """One mark for each entry: its cost, and the first protocol's first metric.

    An entry is on the Pareto front (kind ``front``) where no other entry dominates it. The front comes first, so that
    its names are placed first.

    Args:
        cost: one of :data:`recgraph.leaderboard.costs.COSTS`.
    """
    if not sheet.tables:
        return []
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
        kind = "complete" if any(_dominates(other, at[name]) for other in at.values()) else "front"
        sd = score.sd or 0.0
        text = f"{name}: {score.mean:.4f} ± {sd:.4f}, {duration(spent)}"
        marks.append(Mark(spent, score.mean, kind, text, name=name, spread=sd))
    return sorted(marks, key=lambda mark: (mark.kind != "front", -mark.y))


def _dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] <= b[0] and a[1] >= b[1] and a != b


def _cost_figure(sheet: Sheet, cost: str, name: str) -> Figure:
    marks = cost_marks(sheet, cost)
    metric = metric_name(sheet.tables[0].metrics[0])
    costs = {mark.name: own.mean for mark in marks if (own := sheet.cost(mark.name, cost))}
    chart = Chart(
        f"{metric} against seconds of {name}",
        Scale.of([*costs.values()], log=_needs_log([*costs.values()])),
        Scale.of([mark.y + sign * mark.spread for mark in marks for sign in (-1, 1)]),
        f"seconds of {name}, a seed",
        f"{metric}, {sheet.tables[0].title}",
        marks,
        [Line("so-far", _steps((costs[mark.name], mark.y) for mark in marks if mark.kind == "front"))],
    )
    note = "Large and blue: the Pareto front; no other entry is better and as fast, or faster and as good."
    whiskers = f" Whiskers: ± sd over {sheet.repeats}." if any(mark.spread for mark in marks) else ""
    return Figure(f"Quality against time of {name}", str(chart), note + whiskers)


def _steps(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points of the front joined by steps: the best quality for each cost."""
    front = sorted(points)
    line = front[:1]
    for cost, quality in front[1:]:
        line += [(cost, line[-1][1]), (cost, quality)]
    return line


def curve_figures(sheet: Sheet) -> list[Figure]:
    """The learning curves of all entries, one figure for each metric."""
    return [_curve_figure(metric, curves) for metric, curves in _curves(sheet).items()]


def curve_figure(sheet: Sheet, entry: Entry) -> Figure | None:
    """The learning curves of one entry; None where it has no epochs."""
    name, curves = next(iter(_curves(sheet, entry).items()), ("", []))
    if not curves:
        return None
    metric = _axis_name(name)
    lines = [Line("curve c1", _thinned(points), named(repeat)) for _, repeat, points in curves]
    marks = [
        Mark(epoch, value, "kept", f"{named(repeat)}: epoch {epoch}, {value:.4f}")
        for _, repeat, points in curves
        for epoch, value in points
        if epoch == entry.best_epochs[repeat] and math.isfinite(value)
    ]
    title = f"{metric[0].upper()}{metric[1:]} of {entry.name} by epoch, a line a seed"
    note = "A dot marks the epoch whose weights were kept." if marks else ""
    return Figure("Course of training", _chart(title, curves, metric, marks, lines), note)


def _curves(sheet: Sheet, entry: Entry | None = None) -> dict[str, list[_Curve]]:
    """Metric -> its curves, one for each entry and seed, or those of one entry."""
    found: dict[str, list[_Curve]] = {}
    kept = pl.col("kind") == "epoch" if entry is None else (pl.col("kind") == "epoch") & (pl.col("entry") == entry.name)
    rows = sheet.frame.filter(kept).group_by("metric", "entry", "fold", "seed", maintain_order=True)
    for metric, name, fold, seed, epochs, values in rows.agg("epoch", "value").iter_rows():
        found.setdefault(metric, []).append((name, repeat_of(fold, seed), list(zip(epochs, values, strict=True))))
    return found


def _curve_figure(metric: str, curves: Sequence[_Curve]) -> Figure:
    names = list(dict.fromkeys(name for name, _, _ in curves))
    kinds = {name: f"c{i + 1}" if i < N_COLOURS else "other" for i, name in enumerate(names)}
    lines = [
        Line(f"curve {kinds[name]}", _thinned(points), f"{name}, {named(repeat)}") for name, repeat, points in curves
    ]
    key = [(kind, name) for name, kind in kinds.items() if kind != "other"]
    if len(names) > N_COLOURS:
        key.append(("other", "others"))
    axis = _axis_name(metric)
    title = "Course of training" if metric != "loss" else "Loss of training"
    # the best entries are drawn last, on top
    return Figure(title, _chart(f"{axis} by epoch, a line a seed", curves, axis, [], lines[::-1]), "", tuple(key))


def _chart(title: str, curves: Sequence[_Curve], metric: str, marks: Sequence[Mark], lines: Sequence[Line]) -> str:
    """The SVG of curves by epoch."""
    first, last = ([points[i][0] for _, _, points in curves] for i in (0, -1))
    x = Scale.of([*first, *last], log=_needs_log(last), whole=True)
    y = Scale.of([value for line in lines for _, value in line.points])
    return str(Chart(title, x, y, "epoch", metric, marks, lines))


def _axis_name(metric: str) -> str:
    return "loss" if metric == "loss" else f"{metric_name(metric)} on the valid part"


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """The finite points, at most about ``_POINTS`` of them, the last one included."""
    step = max(1, math.ceil(len(points) / _POINTS))
    finite = [(float(epoch), value) for epoch, value in points if math.isfinite(value)]
    return [point for i, point in enumerate(finite) if i % step == 0 or i == len(finite) - 1]


def _needs_log(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) / min(values) > _LOG_RATIO
