"""Charts of a run: its learning curves, and a metric by groups of users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np

from recgraph.data.part import Cases
from recgraph.data.split import FitPart, SealedSplit
from recgraph.evaluate.evaluator import evaluate
from recgraph.evaluate.metrics import full_name, metric_class, split_metric
from recgraph.evaluate.protocol import is_leaked
from recgraph.evaluate.results import Result, by_group, history_groups, popularity_groups
from recgraph.files import write_text
from recgraph.models.base import Model
from recgraph.pages.charts import Chart, Figure, Line, Mark, Scale, bars
from recgraph.pages.plot import drawing, html_page, notebook_html
from recgraph.train.record import RunRecord

PlotKind = Literal["curves", "groups"]
#: a factor between the curves of two terms beyond which their axis is logarithmic
_FAR = 50
#: what selects an epoch without a validation: its loss, or that it is the last
_NOT_ON_VALID = ("loss", "last")


@dataclass(frozen=True)
class Plot:
    """Charts that a notebook shows, and that :meth:`save` writes.

    Attributes:
        title: of the whole.
        figures: the charts.
        rows: the numbers that are drawn.
    """

    title: str
    figures: tuple[Figure, ...]
    rows: tuple[dict[str, Any], ...]

    def __repr__(self) -> str:
        return f"Plot({self.title}: {', '.join(figure.title for figure in self.figures)})"

    def _repr_html_(self) -> str:
        return notebook_html(self.figures)

    def save(self, path: str | Path) -> Path:
        """Write the charts; the ending of the name decides: ``.svg`` or ``.html``.

        Raises:
            ValueError: another ending.
        """
        path = Path(path)
        made = {".svg": lambda: drawing(self.figures), ".html": lambda: html_page(self.title, self.figures)}
        if path.suffix not in made:
            raise ValueError(f"path = {str(path)!r} must end in .svg or .html")
        write_text(made[path.suffix](), path)
        return path


class Plotted(Protocol):
    """What a plot reads of a run."""

    record: RunRecord

    @property
    def history(self) -> list[dict[str, Any]]: ...

    @property
    def model(self) -> Model: ...

    def write_record(self) -> None: ...


def plot(run: Plotted, split: SealedSplit | None, kind: str, part: str, metric: str | None) -> Plot:
    """Draw a run; see :meth:`recgraph.train.run.Run.plot`."""
    name = f"{run.record.model} on {run.record.data.dataset or run.record.data.split or 'a graph'}"
    if kind == "curves":
        return _curves(run, name)
    if split is None:
        raise ValueError(f"kind = {kind!r} ranks the users of a split, and this run has none; kind='curves' needs none")
    selects = run.record.training.get("metric", "loss")
    # results have the full name: hit_rate@10 of hitrate@10, average_popularity@10 of popularity@10
    metric = full_name(metric or (selects if selects not in _NOT_ON_VALID else "ndcg@10"))
    figures, rows = _groups(_rank(run, split, part, metric))
    return Plot(f"{name}: {metric} on {part}, seen items excluded", figures, rows)


def _curves(run: Plotted, name: str) -> Plot:
    history, metric = run.history, run.record.training.get("metric", "loss")
    if not history:
        raise ValueError(f"{run.record.model} is fitted in one step: it has no learning curve")
    of_phases = [term for phase in getattr(run.model, "phases", ()) for term in phase.terms]
    terms = [name for name in dict.fromkeys(of_phases) if name in history[0]]
    losses = ["loss", *terms] if len(terms) > 1 else ["loss"]
    figures = [_curve("Loss", history, losses, run.record.best_epoch if metric == "loss" else None)]
    if metric not in _NOT_ON_VALID:
        figures.append(_curve(f"{metric} on valid", history, [metric], run.record.best_epoch))
    if (chosen := run.record.selection) is not None:  # the training before this one, which chose its number of epochs
        selects = chosen["training"]["metric"]
        title = f"{selects} on valid, of the fit that chose the epochs"
        figures.append(_curve(title, chosen["history"], [selects], chosen["best_epoch"]))
    columns = ["epoch", *losses, *([metric] if metric not in _NOT_ON_VALID else [])]
    rows = [{column: row[column] for column in columns if column in row} for row in history]
    return Plot(f"{name}: learning curves", tuple(figures), tuple(rows))


def _curve(title: str, history: Sequence[Mapping[str, Any]], names: Sequence[str], best: int | None) -> Figure:
    """Lines of some columns of the history, by epoch, with a mark at the best one of the first."""
    series = {name: [(row["epoch"], row[name]) for row in history if name in row] for name in names}
    values = [abs(value) for points in series.values() for _, value in points if value]
    far = len(names) > 1 and min(values) * _FAR < max(values) and all(v > 0 for p in series.values() for _, v in p)
    drawn = [value for points in series.values() for _, value in points]
    marks, note = [], ""
    for number, points in enumerate(series.values(), start=1):
        if len(points) == 1:  # a line of one point cannot be seen
            marks.append(Mark(*points[0], kind=f"s{number}", text=f"{points[0][1]:.4f}"))
    found = [value for epoch, value in series[names[0]] if epoch == best]
    if best is not None and found:
        note = f"best: {found[0]:.4f} at epoch {best}"
        marks.append(Mark(best, found[0], "best", f"epoch {best}: {found[0]:.4f}"))
    chart = Chart(
        title,
        Scale.of([row["epoch"] for row in history], whole=True),
        Scale.of(drawn, log=far),
        "epoch",
        title.split(" on ")[0].lower() if len(names) > 1 else names[0],
        marks,
        [Line(f"s{number}", points, name) for number, (name, points) in enumerate(series.items(), start=1)],
    )
    key = tuple((f"s{number}", name) for number, name in enumerate(names, start=1)) if len(names) > 1 else ()
    return Figure(title, f"{chart}", note, key)


@dataclass(frozen=True)
class _Ranked:
    """The value of each user who has one, with the cases and how often each item occurs in what was fitted."""

    metric: str
    result: Result
    cases: Cases
    counts: Any


def _rank(run: Plotted, split: SealedSplit, part: str, metric: str) -> _Ranked:
    """Rank the users of a part, seen items excluded; the record gets no result, but says that test data was read."""
    fitted_on = run.record.fitted_on
    if is_leaked(part, fitted_on):
        raise ValueError(f"part = {part!r}: the run was fitted on {fitted_on}")
    name, cutoff = split_metric(metric)
    if not metric_class(name).per_user:
        raise ValueError(f"metric = {metric!r} is one value for all users; give one of each user, such as 'ndcg@10'")
    cases, fitted = split.valid, split.train
    if part == "test":
        reason = f"plot {run.record.model} on test"
        whole = split.unseal(reason)
        cases, fitted = whole.test, whole.fit_part(cast(FitPart, fitted_on))
        run.record.unsealed = [*run.record.unsealed, reason]
        run.write_record()
    (result,) = evaluate(
        run.model,
        cases,
        seen=("exclude",),
        cutoffs=(cutoff or 10,),
        metrics=(name,),
        fit_part=fitted,
        split=split,
        part=part,
        fitted_on=fitted_on,
        history="train" if part == "valid" else "train+valid",
    )
    return _Ranked(metric, result, cases, fitted.item_counts())


def _groups(ranked: _Ranked) -> tuple[tuple[Figure, ...], tuple[dict[str, Any], ...]]:
    """Bars of the metric by quartiles of the history's length, and by the popularity of what is looked for."""
    lengths = ranked.cases.history.lengths.numpy(force=True)
    edges = sorted({int(edge) for edge in np.quantile(lengths, (0.25, 0.5, 0.75)) if edge >= 1}) or [1]
    labels = history_groups(ranked.cases, edges)
    order = sorted(set(labels), key=lambda label: int(label.rstrip("+").split("-")[0]))
    kinds: list[tuple[str, list[str], Sequence[str]]] = [
        ("By items known of a user", labels, order),
        ("By popularity of what is looked for", popularity_groups(ranked.cases, ranked.counts), _POPULARITY),
    ]
    figures, rows = [], []
    for title, of_users, groups in kinds:
        table = by_group(ranked.result, of_users)
        found = {row["group"]: row for row in table.iter_rows(named=True)}
        values = {group: found[group] for group in groups if group in found}
        # a group without a value is no group of value 0
        shown = {
            f"{group} ({row['n_users']:,} users)": row[ranked.metric]
            for group, row in values.items()
            if row[ranked.metric] is not None
        }
        figures.append(Figure(title, bars(f"{ranked.metric} {title.lower()}", shown)))
        rows += [
            {"groups": title, "group": group, "users": row["n_users"], ranked.metric: row[ranked.metric]}
            for group, row in values.items()
        ]
    return tuple(figures), tuple(rows)


_POPULARITY = ("head", "mixed", "tail", "cold")
