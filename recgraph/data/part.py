"""The parts of a split as models and evaluators read them: grouped by user, in order, indices only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recgraph.sparse.ragged import Ragged


@dataclass(frozen=True)
class Part:
    """Interactions of all users, one row a user (rows may be empty), oldest first.

    Attributes:
        items: n_users rows of item indices (0-based).
        n_items: the size of the catalogue.
        weights: [T] float, aligned with ``items.values``, or None where every interaction counts the same.
        times: [T] int64, aligned (unix microseconds, or the user's own unit), or None.
    """

    items: Ragged
    n_items: int
    weights: Tensor | None = None
    times: Tensor | None = None

    @property
    def n_users(self) -> int:
        return self.items.n_rows

    @property
    def n_interactions(self) -> int:
        return self.items.values.numel()

    def item_counts(self) -> Tensor:
        """[n_items] int64: interactions of each item."""
        return torch.bincount(self.items.values, minlength=self.n_items)


@dataclass(frozen=True)
class Cases:
    """What an evaluation asks: for each user a history that may be read and the items to be found.

    Attributes:
        users: [U] int64 user indices.
        history: U rows of item indices, oldest first: what is known at test time (and the seen items).
        truth: U rows of item indices: the items to be ranked high; never empty.
        grades: [T] float, aligned with ``truth.values``, or None.
        n_items: the size of the catalogue.
    """

    users: Tensor
    history: Ragged
    truth: Ragged
    n_items: int
    grades: Tensor | None = None

    def __len__(self) -> int:
        return self.users.numel()
