"""What a second stage knows of a candidate beside its scores: popularity, ages, the history, side information."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from recgraph.data.part import Part
from recgraph.data.samples import Query
from recgraph.encoders.kept import SizedByState

__all__ = ["Features"]


class Features(SizedByState):
    """Columns of pairs of user and item, from the part that is fitted to and the query alone.

    They are ``log(1 + x)`` of: the interactions of the item; the length of the user's history; with ``repeats`` how
    often the item is in it; and, where times are known, the times from the item's last interaction, and from the
    user's, to the newest of the part (NaN where one is not known). Then the side information of item and user.

    Args:
        n_users, n_items: the sizes.
        repeats: see above.

    Attributes:
        counts: [n_items] int64, interactions.
        latest: [n_items] int64, the time of the last one.
        newest: int64 scalar, that of all.
        knows_times: bool scalar.
        of_items, of_users: [n * F], rows of side information, one after another.
    """

    sized_by_state = ("of_items", "of_users")
    counts: Tensor
    latest: Tensor
    newest: Tensor
    knows_times: Tensor
    of_items: Tensor
    of_users: Tensor

    def __init__(self, n_users: int, n_items: int, repeats: bool = False) -> None:
        super().__init__()
        self.n_users, self.n_items, self.repeats = n_users, n_items, repeats
        self.register_buffer("counts", torch.zeros(n_items, dtype=torch.int64))
        self.register_buffer("latest", torch.zeros(n_items, dtype=torch.int64))
        self.register_buffer("newest", torch.zeros((), dtype=torch.int64))
        self.register_buffer("knows_times", torch.zeros((), dtype=torch.bool))
        self.register_buffer("of_items", torch.zeros(0))
        self.register_buffer("of_users", torch.zeros(0))

    def fit(self, train: Part, of_items: Tensor | None = None, of_users: Tensor | None = None) -> Self:
        """Learn from a part.

        Args:
            of_items, of_users: [n, F] side information, finite.
        """
        device, items = self.counts.device, train.items.values
        self.counts.copy_(train.item_counts())
        self.knows_times.fill_(train.times is not None and len(items) > 0)
        if train.times is not None and len(items):
            latest = torch.full((train.n_items,), torch.iinfo(torch.int64).min, device=items.device)
            self.latest.copy_(latest.scatter_reduce(0, items, train.times, "amax"))
            self.newest.copy_(train.times.max())
        nothing = self.of_items.new_zeros(0)
        self.of_items = nothing if of_items is None else of_items.to(device).flatten()
        self.of_users = nothing if of_users is None else of_users.to(device).flatten()
        return self

    @property
    def reads_times(self) -> bool:
        return bool(self.knows_times)

    def forward(self, keys: Tensor, query: Query) -> Tensor:
        """[U, F] float32 for keys ``row * n_items + item`` [U] of the rows of a query."""
        rows, items = keys // self.n_items, keys % self.n_items
        lengths = query.history.lengths
        columns = [self.counts[items].float().log1p(), lengths[rows].float().log1p()]
        if self.repeats:
            had = self.n_items * query.history.rows + query.history.values
            distinct, counts = torch.unique(had, return_counts=True)
            at = torch.searchsorted(distinct, keys).clamp(max=max(len(distinct) - 1, 0))
            there = distinct[at] == keys if len(distinct) else torch.zeros_like(keys, dtype=torch.bool)
            columns.append(torch.where(there, counts[at] if len(distinct) else 0, 0).float().log1p())
        if self.reads_times:
            age = torch.where(self.counts > 0, (self.newest - self.latest).float(), torch.nan)
            columns += [age[items].log1p(), self._ages_of_users(query)[rows].log1p()]
        sides = [(self.of_items, items, self.n_items), (self.of_users, query.users[rows], self.n_users)]
        wide = [_rows_of(table, index, n) for table, index, n in sides if len(table)]
        return torch.cat([torch.stack(columns, 1), *wide], 1)

    def _ages_of_users(self, query: Query) -> Tensor:
        """[B]: the time from the user's last interaction to the newest; 0 after it, NaN where it is not known."""
        ages = torch.full((len(query),), torch.nan, device=self.newest.device)
        if query.times is None:
            return ages
        known = query.times.lengths > 0
        last = query.times.values[query.times.offsets[1:][known] - 1]
        ages[known] = (self.newest - last).clamp(min=0).float()
        return ages


def _rows_of(table: Tensor, index: Tensor, n: int) -> Tensor:
    """[U, F] of a flat table; NaN for an index of -1, of which nothing is known."""
    rows = table.view(n, -1)[index.clamp(min=0)]
    return rows.masked_fill((index < 0)[:, None], torch.nan)
