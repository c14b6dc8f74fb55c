"""Charts of a run: its learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recgraph.files import write_text
from recgraph.models.base import Model
from recgraph.pages.charts import Chart, Figure, Line, Mark, Scale
from recgraph.pages.plot import drawing, html_page, notebook_html
from recgraph.train.record import RunRecord

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
        if path.suffix not in (".svg", ".html"):
            raise ValueError(f"path = {str(path)!r} must end in .svg or .html")
        write_text(drawing(self.figures) if path.suffix == ".svg" else html_page(self.title, self.figures), path)
        return path


def curves(record: RunRecord, model: Model) -> Plot:
    """Loss terms and the metric that selects, by epoch."""
    history, metric = record.history, record.training.get("metric", "loss")
    if not history:
        raise ValueError(f"{record.model} is fitted in one step: it has no learning curve")
    of_phases = [term for phase in getattr(model, "phases", ()) for term in phase.terms]
    terms = [name for name in dict.fromkeys(of_phases) if name in history[0]]
    losses = ["loss", *terms] if len(terms) > 1 else ["loss"]
    figures = [_curve("Loss", history, losses, record.best_epoch if metric == "loss" else None)]
    if metric not in _NOT_ON_VALID:
        figures.append(_curve(f"{metric} on valid", history, [metric], record.best_epoch))
    if (chosen := record.selection) is not None:  # the training before this one, which chose its number of epochs
        selects = chosen["training"]["metric"]
        title = f"{selects} on valid, of the fit that chose the epochs"
        figures.append(_curve(title, chosen["history"], [selects], chosen["best_epoch"]))
    columns = ["epoch", *losses, *([metric] if metric not in _NOT_ON_VALID else [])]
    rows = [{column: row[column] for column in columns if column in row} for row in history]
    data = record.data.dataset or record.data.split or "a graph"
    return Plot(f"{record.model} on {data}: learning curves", tuple(figures), tuple(rows))


def _curve(title: str, history: Sequence[Mapping[str, Any]], names: Sequence[str], best: int | None) -> Figure:
    """Lines of some columns of the history, by epoch, with a mark at the best one of the first."""
    series = {name: [(row["epoch"], row[name]) for row in history if name in row] for name in names}
    drawn = [value for points in series.values() for _, value in points]
    far = len(names) > 1 and min(drawn) > 0 and min(drawn) * _FAR < max(drawn)
    # a line of one point cannot be seen
    alone = [(number, points[0]) for number, points in enumerate(series.values(), start=1) if len(points) == 1]
    marks, note = [Mark(*point, kind=f"s{number}", text=f"{point[1]:.4f}") for number, point in alone], ""
    if found := [value for epoch, value in series[names[0]] if epoch == best]:
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
