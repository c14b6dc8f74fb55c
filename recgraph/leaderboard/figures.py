"""The figures of the page: quality against cost with the Pareto front, and the curves of training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from recgraph.leaderboard.entry import CostName, Curve, Entry
from recgraph.leaderboard.grid import duration, metric_name
from recgraph.leaderboard.sheet import Point, Sheet
from recgraph.pages.charts import Chart, Line, Mark, Scale

__all__ = ["N_COLOURS", "Figure", "cost_figures", "curve_figure", "curve_figures"]


#: entries whose curves have a colour of their own (``c1``, ... of the style sheet)
N_COLOURS = 6
#: an axis is logarithmic where its longest is so many times its shortest
_WIDE = 8.0
#: the most points of a drawn curve
_POINTS = 100
_COSTS: dict[CostName, str] = {"training_seconds": "training", "inference_seconds": "inference"}


@dataclass(frozen=True)
class Figure:
    """A chart with its heading.

    Attributes:
        note: says what cannot be seen.
        key: class of the style sheet -> the entry that is drawn so.
    """

    title: str
    svg: str
    note: str
    key: tuple[tuple[str, str], ...] = ()


def cost_figures(sheet: Sheet) -> list[Figure]:
    """The first protocol's first metric against the time of training, and against that of inference."""
    if not any(entry.done for entry in sheet.entries):
        return []
    return [_against(sheet, cost, name) for cost, name in _COSTS.items()]


def curve_figures(sheet: Sheet) -> list[Figure]:
    """All curves of training: a figure a metric."""
    metrics = dict.fromkeys(curve.metric for entry in sheet.entries for curve in entry.curves)
    return [_curves(sheet.entries, metric) for metric in metrics]


def curve_figure(entry: Entry) -> Figure | None:
    """The curves of one entry; None where it has no epochs."""
    curves = [curve for curve in entry.curves if curve.epochs]
    if not curves:
        return None
    metric = _named(curves[0].metric)
    lines = [Line("curve c1", _points(curve), f"seed {curve.seed}") for curve in curves]
    marks = [mark for curve in curves for mark in _best(curve)]
    title = f"{metric[0].upper()}{metric[1:]} of {entry.name} by epoch, a line a seed"
    note = "A dot marks the epoch whose weights were kept." if marks else ""
    return Figure("Course of training", str(_chart(title, curves, metric, marks, lines)), note)


def _against(sheet: Sheet, cost: CostName, name: str) -> Figure:
    table = sheet.tables[0]
    points = sheet.points(cost)
    spreads = {entry.name: entry.score(table.title, table.metrics[0]) for entry in sheet.entries}
    # those of the front first: they choose the places of their names
    points = tuple(sorted(points, key=lambda point: (not point.on_front, -point.quality)))
    metric = metric_name(table.metrics[0])
    marks = []
    for point in points:
        score = spreads[point.entry]
        sd = (score.sd if score is not None else None) or 0.0
        text = f"{point.entry}: {point.quality:.4f} ± {sd:.4f}, {duration(point.cost)}"
        kind = "front" if point.on_front else "complete"
        marks.append(Mark(point.cost, point.quality, kind, text, name=point.entry, spread=sd))
    costs = [point.cost for point in points]
    reach = [mark.y + sign * mark.spread for mark in marks for sign in (-1, 1)]
    chart = Chart(
        f"{metric} against seconds of {name}",
        Scale.of(costs, log=_is_wide(costs)),
        Scale.of(reach),
        f"seconds of {name}, a seed",
        f"{metric}, {table.title}",
        marks,
        [Line("so-far", _steps(points))],
    )
    note = "Large and blue: the Pareto front; no other entry is better and as fast, or faster and as good."
    whiskers = " Whiskers: ± sd over seeds." if any(mark.spread for mark in marks) else ""
    return Figure(f"Quality against time of {name}", str(chart), note + whiskers)


def _steps(points: Sequence[Point]) -> list[tuple[float, float]]:
    """The best that can be had for a cost."""
    front = sorted((point.cost, point.quality) for point in points if point.on_front)
    line = front[:1]
    for cost, quality in front[1:]:
        line += [(cost, line[-1][1]), (cost, quality)]
    return line


def _curves(entries: Sequence[Entry], metric: str) -> Figure:
    shown = [(entry, [curve for curve in entry.curves if curve.metric == metric and curve.epochs]) for entry in entries]
    shown = [(entry, curves) for entry, curves in shown if curves]
    lines, key = [], []
    for place, (entry, curves) in enumerate(shown):
        kind = f"c{place + 1}" if place < N_COLOURS else "other"
        lines += [Line(f"curve {kind}", _points(curve), f"{entry.name}, seed {curve.seed}") for curve in curves]
        key += [(kind, entry.name)] if place < N_COLOURS else []
    if len(shown) > N_COLOURS:
        key.append(("other", "others"))
    every = [curve for _, curves in shown for curve in curves]
    # the best ones on top
    chart = _chart(f"{_named(metric)} by epoch, a line a seed", every, _named(metric), [], lines[::-1])
    title = "Course of training" if metric != "loss" else "Loss of training"
    return Figure(title, str(chart), "", tuple(key))


def _chart(title: str, curves: Sequence[Curve], metric: str, marks: Sequence[Mark], lines: Sequence[Line]) -> Chart:
    epochs = [epoch for curve in curves for epoch in (curve.epochs[0], curve.epochs[-1])]
    values = [value for line in lines for _, value in line.points]
    longest = [curve.epochs[-1] for curve in curves]
    x = Scale.of(epochs, log=_is_wide(longest), whole=True)
    return Chart(title, x, Scale.of(values), "epoch", metric, marks, lines)


def _named(metric: str) -> str:
    return "loss" if metric == "loss" else f"{metric_name(metric)} on the valid part"


def _points(curve: Curve) -> list[tuple[float, float]]:
    every = max(1, math.ceil(len(curve.epochs) / _POINTS))
    pairs = [(float(e), v) for e, v in zip(curve.epochs, curve.values, strict=True) if math.isfinite(v)]
    return [pair for place, pair in enumerate(pairs) if place % every == 0 or place == len(pairs) - 1]


def _best(curve: Curve) -> Iterator[Mark]:
    for epoch, value in zip(curve.epochs, curve.values, strict=True):
        if epoch == curve.best_epoch and math.isfinite(value):
            text = f"seed {curve.seed}: epoch {epoch}, {value:.4f}"
            yield Mark(epoch, value, "kept", text)


def _is_wide(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) / min(values) > _WIDE
