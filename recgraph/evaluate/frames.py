"""Metrics of what others made: lists of recommendations in frames, and matrices of scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    OF_TRAINING,
    Metric,
    MetricList,
    RankedHits,
    Truth,
    check_items,
    check_needs,
    item_keys,
)
from recgraph.evaluate.protocol import Protocol, Seen, Ties
from recgraph.evaluate.ranking import Scorer
from recgraph.evaluate.results import Result, Results
from recgraph.sparse.ragged import Ragged


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
    recs = _read(recommendations, "recommendations", [user, item], numbers=[score, rank])
    relevant_items = _read(truth, "truth", [user, item], numbers=[grade])
    of_items = [recs[[item]], relevant_items[[item]]]
    missing = {"relevant_ranks": "a matrix of scores"}
    if score is None:
        missing["scores"] = "score"
    if train is None:
        missing |= dict.fromkeys(OF_TRAINING, "train")
    else:
        train = _read(train, "train", [user, item])
        of_items.append(train[[item]])
    if features is None:
        missing["features"] = "features"
    else:
        features = _read(features, "features", [item], numbers=None)
        of_items.append(features[[item]])
    check_needs(wanted.metrics, missing)
    if relevant_items.is_empty():
        raise ValueError("truth is empty: no user has a relevant item")
    if rank:
        recs = recs.sort(rank, maintain_order=True)
    elif score:
        recs = recs.sort(score, descending=True, maintain_order=True)
    users = _distinct([recs[[user]], relevant_items[[user]]])
    items = _distinct(of_items)
    ids = _Ids(users, items, n_items or len(items))
    if ids.n_items < len(items):
        raise ValueError(f"n_items = {n_items}, but there are {len(items)} different items")
    lists, scores = ids.rows(recs, score)
    ids.refuse_repeats(lists)
    relevant, grades = ids.rows(relevant_items, grade)
    history = Ragged.from_lists([[]] * len(users))
    cases = Cases(torch.arange(len(users)), history, relevant, ids.n_items, grades)
    protocol = Protocol.of(
        cutoffs=wanted.cutoffs(cutoffs, Protocol().cutoffs), history="lists of another's making"
    )
    depth = max(min(max(protocol.cutoffs), ids.n_items), int(lists.lengths.max()))
    of_truth = Truth.of(cases)
    listed = lists.to_padded(fill=-1, width=depth)
    hits, gains = of_truth.find(cases.users, listed)
    ranked = RankedHits(
        hits,
        of_truth.n_relevant,
        gains=gains,
        ideal_gains=of_truth.ideal_gains(depth),
        items=listed,
        n_items=ids.n_items,
    )
    if scores is not None:
        padded = lists.with_values(scores).to_padded(fill=-torch.inf, width=depth)
        ranked = replace(ranked, scores=padded)
    if train is not None:
        known, _ = ids.rows(train)
        ranked = replace(
            ranked,
            known=known_items(cases, listed, Part(known, ids.n_items)),
            counts=torch.from_numpy(np.bincount(_index(train[item], items), minlength=ids.n_items)),
            n_users=train[user].n_unique(),
        )
    if features is not None:
        numbers = features.drop(item).cast(pl.Float64).to_numpy(writable=True)
        values = torch.zeros(ids.n_items, numbers.shape[1], dtype=torch.float64)
        values[torch.from_numpy(_index(features[item], items))] = torch.from_numpy(numbers)
        ranked = replace(ranked, features=values)
    per_user, overall = metric_values(wanted, ranked, protocol.cutoffs)
    return Result(protocol, np.arange(len(users)), per_user, overall, user_ids=users)


@dataclass(frozen=True)
class _Ids:
    """The ids of users and items, ascending; the catalogue may be larger than they are."""

    users: pl.Series
    items: pl.Series
    n_items: int

    def rows(self, table: pl.DataFrame, number: str | None = None) -> tuple[Ragged, Tensor | None]:
        """A row of items for each user, in the order of the table, and numbers beside them."""
        user_idx = _index(table[self.users.name], self.users)
        order = np.argsort(user_idx, kind="stable")
        order = order[user_idx[order] >= 0]
        lengths = torch.from_numpy(np.bincount(user_idx[order], minlength=len(self.users)))
        item_idx = torch.from_numpy(_index(table[self.items.name], self.items)[order])
        rows = Ragged.from_lengths(item_idx, lengths)
        if number is None:
            return rows, None
        return rows, torch.from_numpy(table[number].cast(pl.Float64).to_numpy()[order])

    def refuse_repeats(self, lists: Ragged) -> None:
        keys = item_keys(lists, self.n_items).sort().values
        repeats = keys[1:][keys[1:] == keys[:-1]].tolist()
        if repeats:
            user, item = divmod(repeats[0], self.n_items)
            raise ValueError(
                f"recommendations name item {self.items[item]!r} twice for user {self.users[user]!r}; give each item "
                "once"
            )


def _read(
    table: Any, name: str, ids: Sequence[str], numbers: Sequence[str | None] | None = ()
) -> pl.DataFrame:
    """The columns of ids and numbers, without missing values; numbers None: all other columns."""
    if isinstance(table, pl.LazyFrame):
        table = table.collect()
    frame: pl.DataFrame = nw.from_native(table, eager_only=True).to_polars()
    if numbers is None:
        numbers = frame.drop(ids, strict=False).columns
    columns = [*ids, *filter(None, numbers)]
    for column in columns:
        if column not in frame.columns:
            raise ValueError(
                f"{name} has no column {column!r}; there are {', '.join(frame.columns)}"
            )
        values = frame[column]
        if values.dtype in (pl.Categorical, pl.Enum):
            # categories of two frames are compared by what they stand for
            values = values.cast(pl.String)
        if column in numbers and not values.dtype.is_numeric():
            values = values.cast(pl.Float64)
        missing = values.is_null()
        if values.dtype.is_float():
            missing |= values.is_nan()
        if missing.any():
            raise ValueError(
                f"{name} has a missing value in column {column!r}, row {missing.arg_max()}"
            )
        frame = frame.with_columns(values)
    return frame.select(columns)


def _distinct(columns: Sequence[pl.DataFrame]) -> pl.Series:
    """The different values of frames of one column, ascending."""
    return pl.concat(columns, how="vertical_relaxed").to_series().unique().sort()


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
    n_users, n_items = table.shape
    if seen_items is None:
        check_needs(MetricList.of(metrics).metrics, dict.fromkeys(OF_TRAINING, "seen_items"))
        known, fit_part = Ragged.from_lists([[]] * n_users), None
        conventions: Sequence[Seen] = ("keep",)
    else:
        known, _ = _sparse(seen_items, "seen_items", table)
        fit_part = Part(known, n_items)
        conventions = ("keep", "exclude")
    if features is not None:
        features = torch.as_tensor(features)
    relevant, grades = _sparse(truth, "truth", table)
    cases = Cases(torch.arange(n_users), known, relevant, n_items, grades)
    return evaluate(
        ScoreMatrix(table),
        cases.take((relevant.lengths > 0).nonzero().flatten()),
        seen=seen or conventions,
        cutoffs=cutoffs,
        metrics=metrics,
        ties=ties,
        fit_part=fit_part,
        features=features,
        history="a matrix of scores",
    )


def _sparse(values: Any, name: str, scores: Tensor) -> tuple[Ragged, Tensor | None]:
    """The items of each user, and their grades where not all are 1."""
    n_users, n_items = scores.shape
    is_lists = isinstance(values, (list, tuple)) and not any(map(np.isscalar, values))
    if is_lists and len(values) == n_users:
        rows = Ragged.from_lists(values)
        check_items(name, rows.values, n_items)
        return rows, None
    if tuple(getattr(values, "shape", ())) != (n_users, n_items):
        raise ValueError(
            f"{name} must be {[n_users, n_items]} like the scores, or a list of items for each user"
        )
    if hasattr(values, "toarray"):
        values = values.toarray()
    dense = np.asarray(values)
    row, column = dense.nonzero()
    lengths = torch.from_numpy(np.bincount(row, minlength=n_users))
    items = Ragged.from_lengths(torch.from_numpy(column.astype(np.int64)), lengths)
    data = dense[row, column]
    if (data == 1).all():
        return items, None
    return items, torch.from_numpy(data.astype(np.float64))
