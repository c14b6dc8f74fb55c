"""Models that rank by given numbers: what the tests of evaluation share."""

from __future__ import annotations

from torch import Tensor

from recgraph.data.batches import Query


class Scores:
    """Gives rows of a score matrix, and counts for how many users it was asked."""

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
