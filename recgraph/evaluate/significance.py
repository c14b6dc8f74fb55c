"""Whether a difference between models is more than chance: over users, over seeds, and in a table of several models."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from recgraph import notebook
from recgraph.arguments import checked
from recgraph.evaluate.metrics.names import best_first
from recgraph.evaluate.results import Result, check_comparable, comparable, load_users
from recgraph.evaluate.statistics import (
    Interval,
    TooFewPairs,
    bootstrap,
    cohen_d,
    holm,
    paired_t,
    randomisation,
    rank_biserial,
    wilcoxon,
)

__all__ = [
    "Cell",
    "Comparison",
    "Interval",
    "Mark",
    "Source",
    "Standing",
    "Table",
    "Test",
    "compare_values",
    "holm",
    "over_seeds",
    "over_users",
    "p_value",
    "results_of",
    "standings",
    "table",
    "user_means",
]

FloatArray = NDArray[np.float64]
Test = Literal["t", "wilcoxon", "randomisation"]
Mark = Literal["best", "tied", ""]
#: a result, or a file that ``save_users`` wrote
Source = Result | str | Path


@dataclass(frozen=True)
class Comparison:
    """A paired comparison, ``b`` minus ``a``.

    Attributes:
        n: pairs.
        difference: of the means.
        interval: of the difference.
        p_values: test -> two-sided p-value.
        cohen_d: the mean difference over the deviation of the differences (Cohen's d for pairs).
        rank_biserial: the matched-pairs rank-biserial correlation, in [-1, 1]: the rank sum in favour of ``b`` less
            that in favour of ``a``, over both.
    """

    n: int
    difference: float
    interval: Interval
    p_values: dict[Test, float]
    cohen_d: float
    rank_biserial: float


def compare_values(
    a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95, n_draws: int = 9999, seed: int = 0
) -> Comparison:
    """Compare paired values, e.g. of the same users, or of the same seeds.

    Args:
        a, b: [N]; pairs in which either is NaN (the user has no value) are left out.

    Raises:
        ValueError: not of the same length, or (``TooFewPairs``) fewer than two pairs.
    """
    own, other = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if own.shape != other.shape or own.ndim != 1:
        raise ValueError(f"a and b must be paired: one list of values each, not {own.shape} and {other.shape}")
    values = (other - own)[~np.isnan(own) & ~np.isnan(other)]
    if values.size < 2:
        raise TooFewPairs(f"there are {values.size} pairs; at least two are needed")
    return Comparison(
        values.size,
        float(values.mean()),
        bootstrap(values, confidence=confidence, n_draws=n_draws, seed=seed),
        {
            "t": paired_t(values),
            "wilcoxon": wilcoxon(values),
            "randomisation": randomisation(values, n_draws=n_draws, seed=seed),
        },
        cohen_d(values),
        rank_biserial(values),
    )


def over_users(
    a: Source | Sequence[Source],
    b: Source | Sequence[Source],
    metric: str,
    *,
    confidence: float = 0.95,
    n_draws: int = 9999,
    seed: int = 0,
) -> Comparison:
    """Compare two models over users: whether the difference is to be expected for other users of the same kind.

    Args:
        a, b: a result, or a file that :func:`~recgraph.evaluate.results.save_users` wrote. With several of a model (its
            seeds) each user counts with the mean over them.

    Raises:
        ProtocolMismatch: the numbers were made in different ways.
        ValueError: the users are not the same, or the metric has values of none or (``TooFewPairs``) one of them.
    """
    means = user_means(results_of(a), results_of(b), metric)
    return compare_values(*means, confidence=confidence, n_draws=n_draws, seed=seed)


def p_value(
    a: Source | Sequence[Source],
    b: Source | Sequence[Source],
    metric: str,
    *,
    test: Test = "randomisation",
    n_draws: int = 9999,
    seed: int = 0,
) -> float:
    """The p-value of one test over users, without the rest of :func:`over_users`; 1 where no two users have values."""
    own, other = user_means(results_of(a), results_of(b), metric)
    values = (other - own)[~np.isnan(own) & ~np.isnan(other)]
    if values.size < 2:
        return 1.0
    if test == "randomisation":
        return randomisation(values, n_draws=n_draws, seed=seed)
    return paired_t(values) if test == "t" else wilcoxon(values)


def over_seeds(
    a: Sequence[Result],
    b: Sequence[Result],
    metric: str,
    *,
    confidence: float = 0.95,
    n_draws: int = 9999,
    seed: int = 0,
) -> Comparison:
    """Compare two models over seeds: whether the difference is to be expected with other seeds.

    The i-th results of both must be of the same seed (else the pairing is arbitrary, and the test too cautious at
    worst). With n seeds no randomisation test can give a p-value below 2 / 2^n.

    Raises:
        ProtocolMismatch: the numbers were made in different ways.
        ValueError: not as many results of each.
    """
    if len(a) != len(b):
        raise ValueError(f"there are {len(a)} results of a and {len(b)} of b; give one of each for every seed")
    check_comparable([*a, *b], metric)
    values = [[result[metric] for result in results] for results in (a, b)]
    return compare_values(*values, confidence=confidence, n_draws=n_draws, seed=seed)


def results_of(given: Source | Sequence[Source]) -> list[Result]:
    """The results of a model; files are read."""
    several = [given] if isinstance(given, Source) else given
    return [one if isinstance(one, Result) else load_users(one) for one in several]


def user_means(a: Sequence[Result], b: Sequence[Result], metric: str) -> tuple[FloatArray, FloatArray]:
    """[U] each: the mean over the results of each user's values."""
    _check_alike([*a, *b], metric)
    own, other = (np.mean([result.per_user[metric] for result in results], axis=0) for results in (a, b))
    return own, other


def _check_alike(results: Sequence[Result], metric: str) -> None:
    check_comparable(results, metric)
    for result in results:
        if metric not in result.per_user:
            raise ValueError(f"metric {metric!r} has no values of users here; there are {', '.join(result.per_user)}")
        ids = [None if one.user_ids is None else one.user_ids.to_list() for one in (result, results[0])]
        if not np.array_equal(result.users, results[0].users) or ids[0] != ids[1]:
            raise ValueError("the results are of different users; evaluate both models on the same cases")


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
        mark: as in :class:`Standing`; empty where nothing was tested.
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
        lines = [list(rows[0]), *(list(row.values()) for row in rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines]
        return "\n".join([*text, self.legend])

    def _repr_html_(self) -> str:
        return notebook.block("Comparison", {}, [notebook.table(self.rows())], self.legend)


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
    if empty := [name for name, own in models.items() if not own]:
        raise ValueError(f"results[{empty[0]!r}] is empty; give its result, or those of its seeds")
    every = [result for own in models.values() for result in own]
    shared = [comparable(every[0], result) for result in every]
    columns = [name for name in shared[0] if all(name in own for own in shared)] if metrics is None else list(metrics)
    for metric in columns:
        check_comparable(every, metric)
    means = {
        (name, metric): float(np.mean([result[metric] for result in own]))
        for name, own in models.items()
        for metric in columns
    }
    best = {metric: best_first({name: means[name, metric] for name in models}, metric)[0] for metric in columns}
    pairs = [
        (name, metric)
        for metric in columns
        for name in models
        if name != best[metric] and metric in models[name][0].per_user and not math.isnan(means[name, metric])
    ]
    raw = [
        p_value(models[name], models[best[metric]], metric, test=test, n_draws=n_draws, seed=seed)
        for name, metric in pairs
    ]
    adjusted = dict(zip(pairs, holm(raw).tolist(), strict=True))
    cells = {
        name: {metric: _cell(name, metric, means, best[metric], adjusted, alpha) for metric in columns}
        for name in models
    }
    return Table(cells, _LEGEND.format(test=test, n=len(pairs), alpha=alpha))


def _cell(
    name: str,
    metric: str,
    means: dict[tuple[str, str], float],
    best: str,
    adjusted: dict[tuple[str, str], float],
    alpha: float,
) -> Cell:
    if name == best:
        return Cell(
            means[name, metric], None, _mark_of_best([p for (_, of), p in adjusted.items() if of == metric], alpha)
        )
    p = adjusted.get((name, metric))
    return Cell(means[name, metric], p, "tied" if p is not None and p >= alpha else "")


def _mark_of_best(others: Collection[float], alpha: float) -> Mark:
    """From the adjusted p-values of all that were tested against it."""
    if not others:
        return ""
    return "tied" if max(others) >= alpha else "best"


@dataclass(frozen=True)
class Standing:
    """A row of a table of models.

    Attributes:
        value: the metric's mean.
        p_value: against the best model, corrected over the table; None for the best itself and where the mean is NaN.
        mark: ``best``: better than every other; ``tied``: not significantly different from the best; else empty. The
            best itself is ``tied`` where another one is, and has no mark where it was tested against none.
    """

    name: str
    value: float
    p_value: float | None
    mark: Mark


def standings(
    results: Mapping[str, Source | Sequence[Source]],
    metric: str,
    *,
    test: Test = "randomisation",
    alpha: float = 0.05,
    n_draws: int = 9999,
    seed: int = 0,
) -> list[Standing]:
    """Which models are significantly best: each against the best mean, over users, with Holm's correction.

    The best mean is the highest, or the lowest of a metric such as gini. A model whose mean is NaN is not tested.

    Args:
        results: model -> its result, or those of its seeds.
        test, alpha, n_draws, seed: as for :func:`table`.

    Returns:
        best first, NaN last.

    Raises:
        ProtocolMismatch, ValueError: as :func:`over_users`, or no models.
    """
    models = {name: results_of(own) for name, own in results.items()}
    if len(models) > 1:
        _check_alike([result for own in models.values() for result in own], metric)
    made = table(models, [metric], test=test, alpha=alpha, n_draws=n_draws, seed=seed)
    cells = {name: row[metric] for name, row in made}
    order = best_first({name: cell.value for name, cell in cells.items()}, metric)
    return [Standing(name, cells[name].value, cells[name].p_value, cells[name].mark) for name in order]
