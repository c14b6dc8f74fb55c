"""Several models in a table: which are the best, and which not significantly worse."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from recgraph import pages
from recgraph.config import checked
from recgraph.evaluate.metrics.names import best_first
from recgraph.evaluate.results import aligned, comparable
from recgraph.evaluate.significance import Source, Test, p_value, results_of
from recgraph.evaluate.statistics import holm

Mark = Literal["best", "tied", ""]
_SIGNS: dict[Mark, str] = {"best": "*", "tied": "=", "": ""}
_LEGEND = (
    "* better than every other; = the best, or not significantly different from it ({test} test over users, Holm's "
    "correction over the {n} comparisons of the table, {alpha:g})"
)


@dataclass(frozen=True)
class Cell:
    """A number of the table.

    Attributes:
        value: the metric, the mean over the model's seeds.
        p_value: against the best model of the column, corrected over the table; None for the best itself, for
            metrics without values of users and where the value is NaN.
        mark: ``best``: better than every other; ``tied``: not significantly different from the best, which is
            itself tied then; empty for others and where nothing was tested.
    """

    value: float
    p_value: float | None
    mark: Mark

    def __str__(self) -> str:
        return f"{self.value:.4f}{_SIGNS[self.mark]}"


@dataclass(frozen=True)
class Table:
    """Models by metrics; ``print(table)`` shows it.

    Attributes:
        cells: model -> metric -> cell; models in the order in which they were given.
        legend: what the marks mean.
    """

    cells: dict[str, dict[str, Cell]]
    legend: str

    def rows(self) -> list[dict[str, Any]]:
        """A row a model: ``model``, then a text a metric, the value with its mark."""
        return [{"model": name, **{metric: str(cell) for metric, cell in row.items()}} for name, row in self]

    def to_polars(self) -> pl.DataFrame:
        """One row a model and metric: ``model``, ``metric``, ``value``, ``p_value``, ``mark``."""
        rows = [(name, metric, *vars(cell).values()) for name, row in self for metric, cell in row.items()]
        text, number = pl.String, pl.Float64
        schema = {"model": text, "metric": text, "value": number, "p_value": number, "mark": text}
        return pl.DataFrame(rows, schema=schema, orient="row")

    def __iter__(self) -> Iterator[tuple[str, dict[str, Cell]]]:
        return iter(self.cells.items())

    def __str__(self) -> str:
        rows = self.rows()
        return "\n".join([*aligned([list(rows[0]), *(list(row.values()) for row in rows)]), self.legend])

    def _repr_html_(self) -> str:
        return pages.block("Comparison", {}, [pages.table(self.rows())], self.legend)


@checked
def table(
    results: Mapping[str, Source | Sequence[Source]],
    metrics: Sequence[str] | None = None,
    *,
    test: Test = "randomisation",
    alpha: float = 0.05,
    n_draws: int = 9999,
    seed: int = 0,
) -> Table:
    """Compare models over users, each with the best of its column: the highest mean, or the lowest of e.g. gini.

    Args:
        results: model -> its result (or a file that ``save_users`` wrote), or those of its seeds.
        metrics: the columns, e.g. ``("ndcg@10",)``; by default all that can be compared over every result, see
            :func:`~recgraph.evaluate.results.comparable`.
        test, n_draws, seed: of the comparisons; ``n_draws`` and ``seed`` are for ``"randomisation"``.
        alpha: below it a difference counts, after Holm's correction over all comparisons of the table.

    Raises:
        ProtocolMismatch: the numbers were made in different ways.
        ValueError: no models, or results of different users.
    """
    if not results:
        raise ValueError("results is empty; give at least one model")
    models = {name: results_of(own) for name, own in results.items()}
    every = [result for own in models.values() for result in own]
    shared = [comparable(every[0], result) for result in every]
    columns = [name for name in shared[0] if all(name in own for own in shared)] if metrics is None else list(metrics)
    means = {
        metric: {name: float(np.mean([result[metric] for result in own])) for name, own in models.items()}
        for metric in columns
    }
    best = {metric: best_first(means[metric], metric)[0] for metric in columns}
    pairs = [
        (name, metric)
        for metric in columns
        for name in models
        if name != best[metric] and metric in models[name][0].per_user and not math.isnan(means[metric][name])
    ]
    raw = [
        p_value(models[name], models[best[metric]], metric, test=test, n_draws=n_draws, seed=seed)
        for name, metric in pairs
    ]
    adjusted = dict(zip(pairs, holm(raw).tolist(), strict=True))

    def cell(name: str, metric: str) -> Cell:
        p = adjusted.get((name, metric))
        if name != best[metric]:
            return Cell(means[metric][name], p, "tied" if p is not None and p >= alpha else "")
        others = [each for (_, of), each in adjusted.items() if of == metric]
        return Cell(means[metric][name], None, "tied" if max(others, default=0) >= alpha else "best" if others else "")

    cells = {name: {metric: cell(name, metric) for metric in columns} for name in models}
    return Table(cells, _LEGEND.format(test=test, n=len(pairs), alpha=alpha))
