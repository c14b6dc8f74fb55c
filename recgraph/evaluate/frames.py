"""Metrics of what others made: lists of recommendations in frames, and matrices of scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import torch
from torch import Tensor

from recgraph.config import checked
from recgraph.data.batches import Query
from recgraph.data.part import Cases, Part
from recgraph.evaluate.evaluator import evaluate, known_items, metric_values
from recgraph.evaluate.metrics import (
    Metric,
    MetricList,
    RankedHits,
    Truth,
    check_items,
    check_needs,
)
from recgraph.evaluate.protocol import Protocol, Seen, Ties
from recgraph.evaluate.ranking import Scorer
from recgraph.evaluate.results import Result, Results
from recgraph.sparse.ragged import Ragged

#: what metrics read that is made of the data the model was fitted on
_OF_TRAINING = ("counts", "n_users", "known")


@checked
def frame(
    recommendations: Any,
    truth: Any,
    *,
    user: str = "user_id",
    item: str = "item_id",
    score: str | None = None,
    rank: str | None = None,
    grade: str | None = None,
    train: Any = None,
    features: Any = None,
    n_items: int | None = None,
    cutoffs: Sequence[int] | None = None,
    metrics: Sequence[str | Metric] | None = None,
) -> Result:
    """Metrics of recommended lists, whoever made them.

    Args:
        recommendations: a pandas, polars or pyarrow frame, one row a recommended item. Lists are
            ordered by the column ``rank`` if it is given, else ``score``, else as the rows come, as
            equal ones are.
        truth: a frame, one row a relevant item; ``grade`` is a column with positive numbers.
        user, item: the columns of ids in all frames: integers, texts, ...
        train: a frame of the interactions that the model was fitted on, for metrics of popularity
            and novelty.
        features: a frame with a row an item, and numbers in all columns but ``item``, for the
            diversity of lists.
        n_items: the size of the catalogue; by default the different items of all frames given.
        cutoffs, metrics: as for :func:`~recgraph.evaluate.evaluator.evaluate`, but for ``"auc"``.

    Returns:
        One result. Users are those of both frames: one without recommendations counts with an empty
            list, and one without relevant items has no value in metrics that need them.
    """
    wanted = MetricList.of(metrics)
    recs = _read(
        recommendations, "recommendations", [user, item], [name for name in (score, rank) if name]
    )
    relevant_items = _read(truth, "truth", [user, item], [grade] if grade else [])
    known = None if train is None else _read(train, "train", [user, item])
    described = None if features is None else _read(features, "features", [item], None)
    missing = {"relevant_ranks": "a matrix of scores", "scores": "score", "features": "features"}
    missing |= dict.fromkeys(_OF_TRAINING, "train")
    given = {"scores": score, "features": described, **dict.fromkeys(_OF_TRAINING, known)}
    check_needs(
        wanted.metrics, {need: what for need, what in missing.items() if given.get(need) is None}
    )
    if relevant_items.is_empty():
        raise ValueError("truth is empty: no user has a relevant item")
    if order := rank or score:
        recs = recs.sort(order, descending=rank is None, maintain_order=True)
    users = _ids([recs[user], relevant_items[user]])
    items = _ids(
        [table[item] for table in (recs, relevant_items, known, described) if table is not None]
    )
    size = n_items or len(items)
    if size < len(items):
        raise ValueError(f"n_items = {n_items}, but there are {len(items)} different items")

    def rows(table: pl.DataFrame, number: str | None = None) -> tuple[Ragged, Tensor | None]:
        """A row of items for each user, in the order of the table, and numbers beside them."""
        owner = _index(table[user], users)
        order = np.argsort(owner, kind="stable")
        order = order[owner[order] >= 0]
        lengths = torch.from_numpy(np.bincount(owner[order], minlength=len(users)))
        found = Ragged.from_lengths(torch.from_numpy(_index(table[item], items)[order]), lengths)
        numbers = (
            None
            if number is None
            else torch.from_numpy(table[number].cast(pl.Float64).to_numpy()[order])
        )
        return found, numbers

    lists, scores = rows(recs, score)
    keys = (lists.rows * size + lists.values).sort().values
    twice = keys[1:][keys[1:] == keys[:-1]]
    if len(twice):
        who, what = users[int(twice[0]) // size], items[int(twice[0]) % size]
        raise ValueError(
            f"recommendations name item {what!r} twice for user {who!r}; give each item once"
        )
    relevant, grades = rows(relevant_items, grade)
    cases = Cases(
        torch.arange(len(users)), Ragged.from_lists([[]] * len(users)), relevant, size, grades
    )
    protocol = Protocol.of(
        cutoffs=wanted.cutoffs(cutoffs, Protocol().cutoffs), history="lists of another's making"
    )
    depth = max(min(max(protocol.cutoffs), size), int(lists.lengths.max()))
    of_truth, listed = Truth.of(cases), lists.to_padded(fill=-1, width=depth)
    hits, gains = of_truth.find(cases.users, listed)
    ranked = RankedHits(
        hits, of_truth.n_relevant, gains, of_truth.ideal_gains(depth), listed, n_items=size
    )
    if scores is not None:
        ranked = replace(
            ranked, scores=lists.with_values(scores).to_padded(fill=-torch.inf, width=depth)
        )
    if known is not None:
        counts = torch.from_numpy(np.bincount(_index(known[item], items), minlength=size))
        has_mask = known_items(cases, listed, Part(rows(known)[0], size))
        ranked = replace(ranked, known=has_mask, counts=counts, n_users=known[user].n_unique())
    if described is not None:
        values = torch.zeros(size, described.width - 1, dtype=torch.float64)
        numbers = described.drop(item).cast(pl.Float64).to_numpy()
        values[torch.from_numpy(_index(described[item], items))] = torch.from_numpy(numbers.copy())
        ranked = replace(ranked, features=values)
    per_user, overall = metric_values(wanted, ranked, protocol.cutoffs)
    return Result(protocol, np.arange(len(users)), per_user, overall, user_ids=users)


def _read(
    table: Any, name: str, ids: Sequence[str], numbers: Sequence[str] | None = ()
) -> pl.DataFrame:
    found = (
        table.collect()
        if isinstance(table, pl.LazyFrame)
        else nw.from_native(table, eager_only=True).to_polars()
    )
    numbers = (
        [column for column in found.columns if column not in ids] if numbers is None else numbers
    )
    for column in (*ids, *numbers):
        if column not in found.columns:
            raise ValueError(
                f"{name} has no column {column!r}; there are {', '.join(found.columns)}"
            )
        if column in numbers and not found[column].dtype.is_numeric():
            found = found.with_columns(pl.col(column).cast(pl.Float64))
        values = found[column]
        missing = (
            values.is_null() | values.is_nan() if values.dtype.is_float() else values.is_null()
        )
        if missing.any():
            raise ValueError(
                f"{name} has a missing value in column {column!r}, row {missing.arg_max()}"
            )
    # categories of two frames are compared by what they stand for
    texts = [
        pl.col(column).cast(pl.String)
        for column in ids
        if found[column].dtype in (pl.Categorical, pl.Enum)
    ]
    return found.with_columns(texts).select([*ids, *numbers])


def _ids(columns: Sequence[pl.Series]) -> pl.Series:
    name = columns[0].name
    return (
        pl.concat([column.to_frame() for column in columns], how="vertical_relaxed")[name]
        .unique()
        .sort()
    )


def _index(values: pl.Series, ids: pl.Series) -> np.ndarray:
    """[T] int64: the place of each value among the ids, -1 for none."""
    places = pl.int_range(len(ids), eager=True)
    return (
        values.cast(ids.dtype)
        .replace_strict(ids, places, default=-1, return_dtype=pl.Int64)
        .to_numpy(writable=True)
    )


class ScoreMatrix(Scorer):
    """The scores of all users for all items, [U, n_items]."""

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores

    def score(self, query: Query) -> Tensor:
        return self.scores[query.users]


@checked
def matrix(
    scores: Any,
    truth: Any,
    *,
    seen_items: Any = None,
    seen: Sequence[Seen] | None = None,
    cutoffs: Sequence[int] | None = None,
    metrics: Sequence[str | Metric] | None = None,
    ties: Ties = "seeded permutation",
    features: Any = None,
) -> Results:
    """Metrics of a matrix of scores.

    Args:
        scores: [U, n_items], a tensor or an array.
        truth: the relevant items: [U, n_items] as a scipy sparse or dense array that is not 0 there
            (grades, where it is not boolean and not all ones), or U lists of item indices. Users
            without any are left out.
        seen_items: the same for the interactions that the model was fitted on; also read by metrics
            of popularity.
        seen, cutoffs, metrics, ties, features: as for
            :func:`~recgraph.evaluate.evaluator.evaluate`.
    """
    table = torch.as_tensor(scores)
    if table.dim() != 2:
        raise ValueError(f"scores must be [U, n_items], not {list(table.shape)}")
    if seen_items is None:
        check_needs(MetricList.of(metrics).metrics, dict.fromkeys(_OF_TRAINING, "seen_items"))
    relevant, grades = _sparse(truth, "truth", table)
    known = (
        Ragged.from_lists([[]] * len(table))
        if seen_items is None
        else _sparse(seen_items, "seen_items", table)[0]
    )
    with_truth = (relevant.lengths > 0).nonzero().flatten()
    graded = None if grades is None else relevant.with_values(grades).take(with_truth).values
    cases = Cases(
        with_truth, known.take(with_truth), relevant.take(with_truth), table.shape[1], graded
    )
    return evaluate(
        ScoreMatrix(table),
        cases,
        seen=seen or (("keep", "exclude") if seen_items is not None else ("keep",)),
        cutoffs=cutoffs,
        metrics=metrics,
        ties=ties,
        fit_part=None if seen_items is None else Part(known, table.shape[1]),
        features=None if features is None else torch.as_tensor(features),
        history="a matrix of scores",
    )


def _sparse(values: Any, name: str, scores: Tensor) -> tuple[Ragged, Tensor | None]:
    if (
        isinstance(values, (list, tuple))
        and len(values) == len(scores)
        and not (values and np.isscalar(values[0]))
    ):
        rows = Ragged.from_lists(values)
        check_items(name, rows.values, scores.shape[1])
        return rows, None
    if tuple(getattr(values, "shape", ())) != tuple(scores.shape):
        raise ValueError(
            f"{name} must be {list(scores.shape)} like the scores, or a list of items for each user"
        )
    dense = np.asarray(values.toarray() if hasattr(values, "toarray") else values)
    row, column = dense.nonzero()
    data = dense[row, column]
    lengths = torch.from_numpy(np.bincount(row, minlength=len(scores)))
    grades = (
        None
        if data.dtype == bool or (data == 1).all()
        else torch.from_numpy(data.astype(np.float64))
    )
    return Ragged.from_lengths(torch.from_numpy(column.astype(np.int64)), lengths), grades
