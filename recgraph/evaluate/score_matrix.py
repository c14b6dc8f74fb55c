"""Metrics of a matrix of scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recgraph.data.batch import Query
from recgraph.data.part import Cases, Part
from recgraph.evaluate.conventions import Convention
from recgraph.evaluate.evaluator import check_needs, evaluate, metrics_of
from recgraph.evaluate.metrics.base import Metric
from recgraph.evaluate.protocol import Seen, Ties
from recgraph.evaluate.results import Results
from recgraph.sparse.ragged import Ragged


class ScoreMatrix:
    """Scores of all users for all items, as something that :func:`~recgraph.evaluate.evaluator.evaluate` ranks with."""

    has_vectors = False

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores

    def score(self, query: Query) -> Tensor:
        return self.scores[query.users]

    def encode_users(self, query: Query) -> Tensor:
        raise TypeError("a matrix of scores has no vectors")

    def encode_items(self) -> Tensor:
        raise TypeError("a matrix of scores has no vectors")


def matrix(
    scores: Any,
    truth: Any,
    *,
    seen_items: Any = None,
    seen: Sequence[Seen] | None = None,
    cutoffs: Sequence[int] = (5, 10, 20),
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
        ValueError: shapes that do not fit, no user with a relevant item, or a metric that needs ``seen_items`` or
            ``features`` and they are not given.
    """
    table = torch.as_tensor(scores)
    if table.dim() != 2:
        raise ValueError(f"scores must be [U, n_items], not {list(table.shape)}")
    check_needs(metrics_of(metrics, convention), seen_items, features, "seen_items")
    relevant, grades = _sparse(truth, "truth", table)
    known = Ragged.from_lists([[]] * len(table))
    if seen_items is not None:
        known, _ = _sparse(seen_items, "seen_items", table)
    asked = (relevant.lengths > 0).nonzero().flatten()
    if not len(asked):
        raise ValueError("truth is empty: no user has a relevant item")
    graded = None if grades is None else relevant.with_values(grades).take(asked).values
    cases = Cases(asked, known.take(asked), relevant.take(asked), table.shape[1], graded)
    return evaluate(
        ScoreMatrix(table),
        cases,
        seen=seen or (("keep", "exclude") if seen_items is not None else ("keep",)),
        cutoffs=cutoffs,
        metrics=metrics,
        convention=convention,
        ties=ties,
        fit_part=None if seen_items is None else Part(known, table.shape[1]),
        features=None if features is None else torch.as_tensor(features),
        history="a matrix of scores",
    )


def _sparse(values: Any, name: str, scores: Tensor) -> tuple[Ragged, Tensor | None]:
    """Rows of item indices, and their grades."""
    if isinstance(values, (list, tuple)) and len(values) == len(scores) and not np.isscalar(values[0]):
        rows = Ragged.from_lists(values)
        if bool(((rows.values < 0) | (rows.values >= scores.shape[1])).any()):
            raise ValueError(f"{name} holds an item outside 0 to {scores.shape[1] - 1}")
        return rows, None
    if tuple(getattr(values, "shape", ())) != tuple(scores.shape):
        raise ValueError(f"{name} must be {list(scores.shape)} like the scores, or a list of items for each user")
    if hasattr(values, "tocoo"):
        entries = values.tocoo()
        order = np.lexsort((entries.col, entries.row))
        order = order[entries.data[order] != 0]
        row, column, data = entries.row[order], entries.col[order], entries.data[order]
    else:
        dense = torch.as_tensor(values).numpy(force=True)
        row, column = dense.nonzero()
        data = dense[row, column]
    lengths = torch.from_numpy(np.bincount(row, minlength=len(scores)))
    grades = None if data.dtype == bool or (data == 1).all() else torch.from_numpy(data.astype(np.float64))
    return Ragged.from_lengths(torch.from_numpy(column.astype(np.int64)), lengths), grades
