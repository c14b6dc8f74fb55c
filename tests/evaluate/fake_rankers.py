"""Models that rank by given numbers, and random cases: what the tests of evaluation share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recgraph.data.batches import Query
from recgraph.data.part import Cases
from recgraph.sparse.ragged import Ragged


class Scores:
    """Gives rows of a score matrix, and counts for how many users it was called."""

    has_vectors = False

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores
        self.n_scored = 0

    def score(self, query: Query) -> Tensor:
        self.n_scored += len(query)
        return self.scores[query.users]

    def encode_users(self, query: Query) -> Tensor:
        raise AssertionError

    def encode_items(self) -> Tensor:
        raise AssertionError


class Vectors(Scores):
    """Gives inner products."""

    has_vectors = True

    def __init__(self, users: Tensor, items: Tensor) -> None:
        self.users, self.items = users, items

    def encode_users(self, query: Query) -> Tensor:
        return self.users[query.users]

    def encode_items(self) -> Tensor:
        return self.items


def random_cases(
    n_users: int, n_items: int, truths: int = 6, graded: bool = False, seed: int = 0
) -> Cases:
    """Histories with a repeated and with an unreachable item among them."""
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(n_items)[: rng.integers(2, 30)].tolist() for _ in range(n_users)]
    cut = [int(rng.integers(1, min(truths, len(row) - 1) + 1)) for row in drawn]
    history = [row[n:] for row, n in zip(drawn, cut, strict=True)]
    history[0] = history[0] * 2
    history[1] = [drawn[1][0], *history[1]]
    truth = Ragged.from_lists([row[:n] for row, n in zip(drawn, cut, strict=True)])
    grades = (
        torch.from_numpy(rng.integers(1, 6, truth.values.numel()).astype(float)) if graded else None
    )
    return Cases(torch.arange(n_users), Ragged.from_lists(history), truth, n_items, grades)
