"""Metrics of what others made: lists of recommendations in frames, and matrices of scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recgraph.arguments import checked
from recgraph.data.batches import Query
from recgraph.data.dataframe import from_native
from recgraph.data.ids import IdMap, family, plain_series
from recgraph.data.part import Cases, Part
from recgraph.evaluate.candidates import check_items
from recgraph.evaluate.evaluator import check_needs, evaluate, metric_values
from recgraph.evaluate.hits import Facts, RankedHits, Truth
from recgraph.evaluate.kept import known_items
from recgraph.evaluate.metrics.base import Metric
from recgraph.evaluate.metrics.conventions import LIBRARIES
from recgraph.evaluate.metrics.names import Asked
from recgraph.evaluate.protocol import MOST_ITEMS, Convention, Protocol, Seen, Ties
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
    convention: Convention = "recgraph",
) -> Result:
    """Metrics of recommended lists, whoever made them.

    Args:
        recommendations: a pandas, polars or pyarrow frame, one row a recommended item. Lists are ordered by ``rank``
            if it is given, else by ``score``, else as the rows come; equal ranks or scores keep the order of the rows.
        truth: a frame, one row a relevant item.
        user, item: the columns of ids in all frames: integers, texts, ...
        score, rank: columns of ``recommendations``. A convention that reads scores, ``"torchmetrics"``, needs ``score``
            also beside ``rank``.
        grade: a column of ``truth`` with positive numbers.
        train: a frame of the interactions that the model was fitted on, for metrics of popularity and novelty.
        features: a frame with a row an item, the column ``item`` and numbers, none missing, in all others, for the
            diversity of lists.
        n_items: the size of the catalogue; by default the different items of all frames given.
        cutoffs, metrics, convention: as for :func:`~recgraph.evaluate.evaluator.evaluate`. Metrics that read the whole
            ranking (``"auc"``) cannot be had from lists.

    Returns:
        One result. Users are those of both frames: one without recommendations counts with an empty list, and one
        without relevant items has no value in metrics that need them (0 where the convention says so).

    Raises:
        ValueError: a column is missing, an id is null, a score, rank or grade is no number, an item is recommended
            twice to a user, ``n_items`` is smaller than the number of different items, or a metric needs ``train`` or
            ``features``, or the convention ``score``, and they are not given; features that are no numbers, or of an
            item twice.
    """
    order = rank or score
    asked = Asked.of(metrics)
    chosen = asked.made(convention)
    read_score = score if (reader := _reads_scores(convention, chosen)) else None
    if reader and score is None:
        raise ValueError(f"{reader} reads the scores of lists; give score, the column that has them")
    recs = _read(recommendations, "recommendations", [user, item], order)
    recs = _read(recs, "recommendations", [], read_score)
    relevant_items = _read(truth, "truth", [user, item], grade)
    known = None if train is None else _read(train, "train", [user, item])
    described = None if features is None else _read_features(features, item)
    if metrics is None:  # lists do not hold the whole ranking
        chosen = tuple(metric for metric in chosen if "relevant_ranks" not in metric.needs)
    if whole := [metric.label for metric in chosen if "relevant_ranks" in metric.needs]:
        raise ValueError(
            f"metric {whole[0]!r} reads the whole ranking, which lists do not hold; leave it out, or give scores of "
            "all items to matrix()"
        )
    check_needs(chosen, known, described, "train")
    if relevant_items.is_empty():
        raise ValueError("truth is empty: no user has a relevant item")
    if order:
        recs = recs.sort(order, descending=rank is None, maintain_order=True)
    if convention == "ranx":  # it drops users without relevant items
        recs = recs.join(relevant_items.select(user).unique(), on=user, how="semi", maintain_order="left")
    logs = [table for table in (recs, relevant_items, known) if table is not None]
    users = IdMap(_ids([table[user] for table in (recs, relevant_items)], user))
    catalogue = [table[item] for table in (*logs, described) if table is not None]
    items = IdMap(_ids(catalogue, item))
    if n_items is not None and n_items < len(items):
        raise ValueError(f"n_items = {n_items} is smaller than the {len(items)} different items of the frames")
    if n_items is not None and n_items > MOST_ITEMS:
        raise ValueError(f"n_items = {n_items} is more than the {MOST_ITEMS:,} items that a catalogue may have")
    size = n_items or len(items)
    lists = _rows(recs, user, item, users, items)
    scores = None if read_score is None else lists.with_values(_numbers(recs, user, read_score, users))
    _check_once(lists, size, users, items)
    relevant = _rows(relevant_items, user, item, users, items)
    grades = None if grade is None else _numbers(relevant_items, user, grade, users)
    no_history = Ragged.from_lengths(torch.empty(0, dtype=torch.int64), torch.zeros(len(users), dtype=torch.int64))
    cases = Cases(torch.arange(len(users)), no_history, relevant, size, grades)
    fitted = None if known is None else _part(known, user, item, users, items, size)
    facts = Facts(size, None if fitted is None else fitted.item_counts())
    if known is not None:
        facts = replace(facts, n_users=known[user].n_unique())
    if described is not None:
        facts = replace(facts, features=_features(described, item, items, size))
    lengths = asked.cutoffs(cutoffs, Protocol().cutoffs)
    protocol = Protocol.of(cutoffs=lengths, convention=convention, history="lists of another's making")
    depth = max(min(max(protocol.cutoffs), size), int(lists.lengths.max()) if len(users) else 0)
    ranked = _ranked(lists, scores, cases, depth, facts, fitted)
    per_user, overall = metric_values(chosen, ranked, protocol.cutoffs, asked)
    return Result(protocol, np.arange(len(users)), per_user, overall, user_ids=users.values)


def _reads_scores(convention: Convention, metrics: Sequence[Metric]) -> str:
    """What reads the scores of lists, in words; empty: nothing does."""
    if LIBRARIES[convention].reads_scores:
        return f"convention = {convention!r}"
    return next((f"metric {metric.label!r}" for metric in metrics if "scores" in metric.needs), "")


def _read(table: Any, name: str, ids: Sequence[str], number: str | None = None) -> pl.DataFrame:
    """A frame, refused where its columns of ids or of numbers lack values."""
    found = from_native(table)
    read = ids if number is None else [*ids, number]
    for column in read:
        if column not in found.columns:
            raise ValueError(f"{name} has no column {column!r}; there are {', '.join(found.columns)}")
    # categories of two frames are compared by what they stand for, and whole decimals are integers
    found = found.with_columns(plain_series(found[column]) for column in ids)
    for column in read:
        _refuse(found[column].is_null(), "a missing value", name, column)
    # what holds no rows has no type of its own
    if number is not None and len(found):
        values = found[number]
        if not values.dtype.is_numeric():
            held = f"{family(values.dtype)} in column {number!r}, e.g. {values[0]!r} in row 0"
            raise ValueError(f"{name} has {held}; turn them into numbers")
        _refuse(values.cast(pl.Float64).is_nan(), "NaN", name, number)
    return found


def _refuse(bad: pl.Series, what: str, name: str, column: str) -> None:
    row = bad.arg_max()
    if row is not None and bad[row]:
        raise ValueError(f"{name} has {what} in column {column!r}, row {row} (from 0); fill it or drop the row")


def _ids(columns: Sequence[pl.Series], name: str) -> pl.Series:
    """The different ids, in ascending order."""
    families = list(dict.fromkeys(family(column.dtype) for column in columns))
    if len(families) > 1:
        raise ValueError(f"column {name!r} holds {' and '.join(families)} in the frames; bring it to one type")
    every = pl.concat([column.alias(name).to_frame() for column in columns], how="vertical_relaxed")
    return every[name].unique().sort()


def _rows(table: pl.DataFrame, user: str, item: str, users: IdMap, items: IdMap) -> Ragged:
    """A row for each user, in the order of the table; other users are left out."""
    owner, what = users.index(table[user]), items.index(table[item])
    order = np.argsort(owner, kind="stable")
    order = order[owner[order] >= 0]
    lengths = torch.from_numpy(np.bincount(owner[order], minlength=len(users)))
    return Ragged.from_lengths(torch.from_numpy(what[order]), lengths)


def _numbers(table: pl.DataFrame, user: str, column: str, users: IdMap) -> Tensor:
    """[T] float64, aligned with the values of :func:`_rows` where the map has all users of the table."""
    by_user = torch.from_numpy(users.index(table[user])).argsort(stable=True)
    return torch.from_numpy(table[column].cast(pl.Float64).to_numpy().copy())[by_user]


def _part(known: pl.DataFrame, user: str, item: str, users: IdMap, items: IdMap, size: int) -> Part:
    """The interactions of the users that are evaluated, then those of all others in one row, for counts of items."""
    own = _rows(known, user, item, users, items)
    rest = torch.from_numpy(items.index(known[item])[users.index(known[user]) < 0])
    return Part(Ragged.cat([own, Ragged.from_lengths(rest, torch.tensor([len(rest)]))]), size)


def _read_features(features: Any, item: str) -> pl.DataFrame:
    """A frame of numbers beside the ids, a row an item."""
    found = _read(features, "features", [item])
    numbers = [column for column in found.columns if column != item]
    if not numbers:
        raise ValueError(f"features has no column beside {item!r}; give numbers that describe the items")
    for column in numbers:
        dtype = found[column].dtype
        if not (dtype.is_numeric() or dtype == pl.Boolean):
            raise ValueError(
                f"features has {dtype} in column {column!r}; turn it into numbers, e.g. one column a value"
            )
        found = _read(found, "features", [], column) if dtype.is_numeric() else found
        _refuse(found[column].is_null(), "a missing value", "features", column)
        _refuse(found[column].cast(pl.Float64).is_infinite(), "an infinite number", "features", column)
    _refuse(~found[item].is_first_distinct(), "an item a second time", "features", item)
    return found


def _features(described: pl.DataFrame, item: str, items: IdMap, size: int) -> Tensor:
    numbers = described.drop(item)
    values = torch.zeros(size, numbers.width, dtype=torch.float64)
    values[torch.from_numpy(items.index(described[item]))] = torch.from_numpy(
        numbers.cast(pl.Float64).to_numpy().copy()
    )
    return values


def _check_once(lists: Ragged, size: int, users: IdMap, items: IdMap) -> None:
    keys = (lists.rows * size + lists.values).sort().values
    twice = (keys[1:] == keys[:-1]).nonzero().flatten()
    if len(twice):
        key = int(keys[twice[0]])
        user, item = users.values[key // size], items.values[key % size]
        raise ValueError(f"recommendations name item {item!r} twice for user {user!r}; give each item once")


def _ranked(
    lists: Ragged, scores: Ragged | None, cases: Cases, depth: int, facts: Facts, fitted: Part | None
) -> RankedHits:
    truth = Truth.of(cases)
    items = lists.to_padded(fill=-1, width=depth)
    positions, hits = truth.find(cases.users, items)
    gains = None if truth.grades is None else truth.grades[positions] * hits
    ranked = replace(truth.before_ranking(depth, facts), hits=hits, gains=gains, lengths=lists.lengths, items=items)
    if scores is not None:
        ranked = replace(ranked, scores=scores.to_padded(fill=-torch.inf, width=depth))
    if fitted is not None:
        known, trained = known_items(cases, items, fitted)
        ranked = replace(ranked, known=known, trained=trained)
    return ranked


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
    convention: Convention = "recgraph",
    ties: Ties = "seeded permutation",
    features: Any = None,
) -> Results:
    """Metrics of a matrix of scores.

    Args:
        scores: [U, n_items], a tensor or an array.
        truth: the relevant items: [U, n_items] as a scipy sparse or dense array that is not 0 there (grades, where it
            is not boolean and not all ones), or U lists of item indices. Users without any are left out.
        seen_items: the same for the interactions that the model was fitted on; also read by metrics of popularity.
        seen: whether seen items stay candidates; by default both where ``seen_items`` are given.
        cutoffs, metrics, convention, ties: as for :func:`~recgraph.evaluate.evaluator.evaluate`.
        features: [n_items, F], a tensor or an array, for the diversity of lists.

    Raises:
        ValueError: a frame in the place of an array, shapes that do not fit, no user with a relevant item, or a metric
            or ``seen`` that needs ``seen_items`` or ``features`` and they are not given.
    """
    if seen_items is None and "exclude" in (seen or ()):
        raise ValueError("seen = 'exclude' leaves out what seen_items names; give seen_items, or take seen=('keep',)")
    table = _tensor(scores, "scores")
    if table.dim() != 2:
        raise ValueError(f"scores must be [U, n_items], not {list(table.shape)}")
    check_needs(Asked.of(metrics).made(convention), seen_items, features, "seen_items")
    relevant, grades = _sparse(truth, "truth", table)
    known = Ragged.from_lists([[]] * len(table))
    if seen_items is not None:
        known, _ = _sparse(seen_items, "seen_items", table)
    with_truth = (relevant.lengths > 0).nonzero().flatten()
    if not len(with_truth):
        raise ValueError("truth is empty: no user has a relevant item")
    graded = None if grades is None else relevant.with_values(grades).take(with_truth).values
    cases = Cases(with_truth, known.take(with_truth), relevant.take(with_truth), table.shape[1], graded)
    return evaluate(
        ScoreMatrix(table),
        cases,
        seen=seen or (("keep", "exclude") if seen_items is not None else ("keep",)),
        cutoffs=cutoffs,
        metrics=metrics,
        convention=convention,
        ties=ties,
        fit_part=None if seen_items is None else Part(known, table.shape[1]),
        features=None if features is None else _tensor(features, "features"),
        history="a matrix of scores",
    )


def _tensor(values: Any, name: str) -> Tensor:
    """An array as a tensor.

    Raises:
        ValueError: it is a frame or sparse.
    """
    if hasattr(values, "tocoo"):
        raise ValueError(f"{name} is sparse ({type(values).__name__}); give an array: {name}.toarray()")
    if hasattr(values, "columns"):
        raise ValueError(f"{name} is a frame; give its numbers as an array, e.g. {name}.to_numpy()")
    return torch.as_tensor(values)


def _sparse(values: Any, name: str, scores: Tensor) -> tuple[Ragged, Tensor | None]:
    """Rows of item indices, and their grades."""
    if isinstance(values, (list, tuple)) and len(values) == len(scores) and not (values and np.isscalar(values[0])):
        for row in map(np.asarray, values):
            if row.size and row.dtype.kind not in "iu":
                raise ValueError(f"{name} holds {row.tolist()}; give indices of items, which are integers")
        rows = Ragged.from_lists(values)
        check_items(name, rows.values, scores.shape[1])
        return rows, None
    if tuple(getattr(values, "shape", ())) != tuple(scores.shape):
        raise ValueError(f"{name} must be {list(scores.shape)} like the scores, or a list of items for each user")
    if hasattr(values, "tocoo"):
        entries = values.tocoo()
        order = np.lexsort((entries.col, entries.row))
        order = order[entries.data[order] != 0]
        row, column, data = entries.row[order], entries.col[order], entries.data[order]
    else:
        dense = _tensor(values, name).numpy(force=True)
        row, column = dense.nonzero()
        data = dense[row, column]
    lengths = torch.from_numpy(np.bincount(row, minlength=len(scores)))
    grades = None if data.dtype == bool or (data == 1).all() else torch.from_numpy(data.astype(np.float64))
    return Ragged.from_lengths(torch.from_numpy(column.astype(np.int64)), lengths), grades
