"""The figures of the page: quality against cost with the Pareto front, and the curves of training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from recgraph.leaderboard.entry import Entry
from recgraph.leaderboard.grid import duration, metric_name
from recgraph.leaderboard.sheet import Point, Sheet
from recgraph.pages.charts import Chart, Figure, Line, Mark, Scale

__all__ = ["N_COLOURS", "cost_figures", "curve_figure", "curve_figures"]


#: entries whose curves have a colour of their own (``c1``, ... of the style sheet)
N_COLOURS = 6
#: an axis is logarithmic where its longest is so many times its shortest
_WIDE = 8.0
#: the most points of a drawn curve
_POINTS = 100
_COSTS = {"training_seconds": "training", "inference_seconds": "inference"}


def cost_figures(sheet: Sheet) -> list[Figure]:
    """The first protocol's first metric against the time of training, and against that of inference."""
    if not any(entry.done for entry in sheet.entries):
        return []
    return [_against(sheet, cost, name) for cost, name in _COSTS.items()]


@dataclass(frozen=True)
class _Curve:
    """The course of one training: the metric that selected its weights, by epoch."""

    entry: str
    seed: int
    metric: str
    epochs: tuple[int, ...]
    values: tuple[float, ...]
    best_epoch: int | None


def _curves_of(sheet: Sheet) -> list[_Curve]:
    rows = sheet.frame.filter(pl.col("kind") == "epoch")
    best = {entry.name: entry.best_epochs for entry in sheet.entries}
    return [
        _Curve(name, seed, metric, tuple(epochs), tuple(values), best[name][seed])
        for name, seed, metric, epochs, values in rows.group_by("entry", "seed", "metric", maintain_order=True)
        .agg("epoch", "value")
        .iter_rows()
    ]


def curve_figures(sheet: Sheet) -> list[Figure]:
    """All curves of training: a figure a metric."""
    curves = _curves_of(sheet)
    metrics = dict.fromkeys(curve.metric for curve in curves)
    return [_curve_figure([curve for curve in curves if curve.metric == metric], metric) for metric in metrics]


def curve_figure(sheet: Sheet, entry: Entry) -> Figure | None:
    """The curves of one entry; None where it has no epochs."""
    curves = [curve for curve in _curves_of(sheet) if curve.entry == entry.name]
    if not curves:
        return None
    metric = _axis_name(curves[0].metric)
    lines = [Line("curve c1", _points(curve), f"seed {curve.seed}") for curve in curves]
    marks = [mark for curve in curves for mark in _best(curve)]
    title = f"{metric[0].upper()}{metric[1:]} of {entry.name} by epoch, a line a seed"
    note = "A dot marks the epoch whose weights were kept." if marks else ""
    return Figure("Course of training", str(_chart(title, curves, metric, marks, lines)), note)


def _against(sheet: Sheet, cost: str, name: str) -> Figure:
    table = sheet.tables[0]
    points = sheet.points(cost)
    # those of the front first: their names are placed first
    points = tuple(sorted(points, key=lambda point: (not point.on_front, -point.quality)))
    metric = metric_name(table.metrics[0])
    marks = []
    for point in points:
        score = sheet.score(point.entry, table.title, table.metrics[0])
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


def _curve_figure(curves: Sequence[_Curve], metric: str) -> Figure:
    names = list(dict.fromkeys(curve.entry for curve in curves))
    kinds = {name: f"c{place + 1}" if place < N_COLOURS else "other" for place, name in enumerate(names)}
    lines = [
        Line(f"curve {kinds[curve.entry]}", _points(curve), f"{curve.entry}, seed {curve.seed}") for curve in curves
    ]
    key = [(kind, name) for name, kind in kinds.items() if kind != "other"]
    if len(names) > N_COLOURS:
        key.append(("other", "others"))
    # the best ones on top
    name = _axis_name(metric)
    chart = _chart(f"{name} by epoch, a line a seed", curves, name, [], lines[::-1])
    title = "Course of training" if metric != "loss" else "Loss of training"
    return Figure(title, str(chart), "", tuple(key))


def _chart(title: str, curves: Sequence[_Curve], metric: str, marks: Sequence[Mark], lines: Sequence[Line]) -> Chart:
    epochs = [epoch for curve in curves for epoch in (curve.epochs[0], curve.epochs[-1])]
    values = [value for line in lines for _, value in line.points]
    longest = [curve.epochs[-1] for curve in curves]
    x = Scale.of(epochs, log=_is_wide(longest), whole=True)
    return Chart(title, x, Scale.of(values), "epoch", metric, marks, lines)


def _axis_name(metric: str) -> str:
    return "loss" if metric == "loss" else f"{metric_name(metric)} on the valid part"


def _points(curve: _Curve) -> list[tuple[float, float]]:
    every = max(1, math.ceil(len(curve.epochs) / _POINTS))
    pairs = [(float(e), v) for e, v in zip(curve.epochs, curve.values, strict=True) if math.isfinite(v)]
    return [pair for place, pair in enumerate(pairs) if place % every == 0 or place == len(pairs) - 1]


def _best(curve: _Curve) -> Iterator[Mark]:
    for epoch, value in zip(curve.epochs, curve.values, strict=True):
        if epoch == curve.best_epoch and math.isfinite(value):
            text = f"seed {curve.seed}: epoch {epoch}, {value:.4f}"
            yield Mark(epoch, value, "kept", text)


def _is_wide(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) / min(values) > _WIDE
