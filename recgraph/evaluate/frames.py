"""Metrics of lists of recommendations from anywhere, in frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recgraph.data.dataframe import from_native
from recgraph.data.ids import IdMap, family
from recgraph.data.part import Cases, Part
from recgraph.evaluate.collect import known_items
from recgraph.evaluate.evaluator import check_needs, metric_values
from recgraph.evaluate.hits import Facts, RankedHits, Truth
from recgraph.evaluate.metrics.base import Metric
from recgraph.evaluate.metrics.names import make_metrics
from recgraph.evaluate.protocol import Convention, Protocol
from recgraph.evaluate.results import Result
from recgraph.sparse.ragged import Ragged


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
    cutoffs: Sequence[int] = (5, 10, 20),
    metrics: Sequence[str | Metric] | None = None,
    convention: Convention = "recgraph",
) -> Result:
    """Metrics of recommended lists, whoever made them.

    Args:
        recommendations: a pandas, polars or pyarrow frame, one row a recommended item. Lists are ordered by ``rank``
            if it is given, else by ``score``, else as the rows come; equal ranks or scores keep the order of the rows.
        truth: a frame, one row a relevant item.
        user, item: the columns of ids in all frames: integers, texts, ...
        score, rank: columns of ``recommendations``.
        grade: a column of ``truth`` with positive numbers.
        train: a frame of the interactions that the model was fitted on, for metrics of popularity and novelty.
        features: a frame with the column ``item`` and numbers in all others, for the diversity of lists.
        n_items: the size of the catalogue; by default the different items of all frames given.
        cutoffs, metrics, convention: as for :func:`~recgraph.evaluate.evaluator.evaluate`. Metrics that read the whole
            ranking (``"auc"``) cannot be had from lists.

    Returns:
        One result. Users are those of both frames: one without recommendations counts with an empty list, and one
        without relevant items has no value in metrics that need them (0 where the convention says so).

    Raises:
        ValueError: a column is missing, an id is null, a score, rank or grade is no number, an item is recommended
            twice to a user, ``n_items`` is smaller than the number of different items, or a metric needs ``train`` or
            ``features`` and they are not given.
    """
    order = rank or score
    recs = _read(recommendations, "recommendations", [user, item], order)
    asked = _read(truth, "truth", [user, item], grade)
    known = None if train is None else _read(train, "train", [user, item])
    described = None if features is None else _read(features, "features", [item])
    chosen = make_metrics(metrics, convention)
    check_needs(chosen, known, described, "train")
    if asked.is_empty():
        raise ValueError("truth is empty: no user has a relevant item")
    if order:
        recs = recs.sort(order, descending=rank is None, maintain_order=True)
    if convention == "ranx":  # which drops users whom the truth does not name
        recs = recs.join(asked.select(user).unique(), on=user, how="semi", maintain_order="left")
    logs = [table for table in (recs, asked, known) if table is not None]
    users = IdMap(_ids([table[user] for table in (recs, asked)], user))
    catalogue = [table[item] for table in (*logs, described) if table is not None]
    items = IdMap(_ids(catalogue, item))
    if n_items is not None and n_items < len(items):
        raise ValueError(f"n_items = {n_items} is smaller than the {len(items)} different items of the frames")
    size = n_items or len(items)
    lists = _rows(recs, user, item, users, items)
    _check_once(lists, size, users, items)
    relevant, grades = _rows(asked, user, item, users, items), None
    if grade is not None:
        by_user = torch.from_numpy(users.index(asked[user])).argsort(stable=True)
        grades = torch.from_numpy(asked[grade].cast(pl.Float64).to_numpy().copy())[by_user]
    nobody = Ragged.from_lengths(torch.empty(0, dtype=torch.int64), torch.zeros(len(users), dtype=torch.int64))
    cases = Cases(torch.arange(len(users)), nobody, relevant, size, grades)
    fitted = None if known is None else _part(known, user, item, users, items, size)
    facts = Facts(size, None if fitted is None else fitted.item_counts())
    if known is not None:
        facts = replace(facts, n_users=known[user].n_unique())
    if described is not None:
        facts = replace(facts, features=_features(described, item, items, size))
    depth = max(max(cutoffs), int(lists.lengths.max()) if len(users) else 0)
    protocol = Protocol.of(cutoffs=tuple(cutoffs), convention=convention, history="lists of another's making")
    ranked = _ranked(lists, cases, depth, facts, fitted)
    per_user, overall = metric_values(chosen, ranked, protocol.cutoffs)
    return Result(protocol, np.arange(len(users)), per_user, overall, user_ids=users.values)


def _read(table: Any, name: str, ids: Sequence[str], number: str | None = None) -> pl.DataFrame:
    """A frame in whose columns of ids, and in that of numbers, nothing is missing."""
    found = from_native(table)
    for column in [*ids, *([number] if number else [])]:
        if column not in found.columns:
            raise ValueError(f"{name} has no column {column!r}; there are {', '.join(found.columns)}")
        _refuse(found[column].is_null(), "a missing value", name, column)
    # what holds no rows has no type of its own
    if number and len(found):
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


def _part(known: pl.DataFrame, user: str, item: str, users: IdMap, items: IdMap, size: int) -> Part:
    """The interactions of the users that are evaluated, then all others in one more row, which nobody reads alone."""
    own = _rows(known, user, item, users, items)
    rest = items.index(known[item])[users.index(known[user]) < 0]
    return Part(Ragged.cat([own, Ragged.from_lists([rest.tolist()])]), size)


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


def _ranked(lists: Ragged, cases: Cases, depth: int, facts: Facts, fitted: Part | None) -> RankedHits:
    truth = Truth.of(cases)
    items = lists.to_padded(fill=-1, width=depth)
    places, hits = truth.find(cases.users, items)
    relevant = Ragged.from_lengths(truth.keys % cases.n_items, truth.n_relevant)
    ranked = RankedHits(hits, truth.n_relevant, lengths=lists.lengths, items=items, relevant=relevant, facts=facts)
    if truth.grades is not None:
        total = torch.zeros(len(cases), dtype=torch.float64).index_add_(0, relevant.rows, truth.grades)
        gains = truth.grades[places] * hits
        ranked = replace(ranked, gains=gains, ideal_gains=truth.ideal_gains(depth), total_gain=total)
    if fitted is not None:
        known, trained = known_items(cases, items, fitted)
        ranked = replace(ranked, known=known, trained=trained)
    return ranked
