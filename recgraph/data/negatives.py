"""Negatives of user-item models: items drawn for each user, optionally never one of the user's
own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recgraph.data.part import Part
from recgraph.sparse.blocks import of_groups
from recgraph.sparse.products import distinct
from recgraph.sparse.ragged import Ragged, consecutive

# Popularity is held in whole units, so that sums are exact; the mass of all items in units, at
# most.
_UNITS = 1 << 40
# Keys from which on what is looked up among them is sorted first.
_LARGE = 1 << 20


class NegativeSampler:
    """Draws items with replacement, ``q_j`` proportional to ``count_j ** power``.

    The user's own items are excluded without rejection: a number is drawn below the mass of the
    items that are *not* the user's, and the mass of the own items before it is added back. This
    takes one binary search in the sorted keys (user, mass of foreign items before the own item), is
    exact, and costs the same for every user.

    Args:
        train: whose items count, and are a user's own.
        power: 0 is uniform over the catalogue; else an item that nobody chose is never drawn.
            Masses are rounded to whole units, 2 ** 40 in all (fewer where there are more than 2 **
            22 users).
        exclude_own: whether the user's own items are left out. A user who has every item that can
            be drawn gets negatives from all of them.
    """

    def __init__(self, train: Part, power: float = 0.0, exclude_own: bool = True) -> None:
        self.n_items = train.n_items
        masses = torch.ones(train.n_items, dtype=torch.int64)
        if power:
            counts = train.item_counts().to(torch.float64)
            shares = torch.where(counts > 0, counts**power, 0)
            # keys (user, mass) must fit into 63 bits
            units = min(_UNITS, (1 << 62) // train.n_users)
            rounded = (shares * (units / shares.sum())).round().clamp(min=1)
            masses = torch.where(counts > 0, rounded, 0).long()
        self._mass_up_to = None if power == 0 else masses.cumsum(0)
        self._total = int(masses.sum())
        self._own = _OwnItems(train, masses, self._total) if exclude_own else None

    def draw(
        self, users: Tensor, count: int, generator: torch.Generator, own: slice = slice(None)
    ) -> Tensor:
        """[B, K] int64, 0-based: ``count`` negatives for each of the users in ``own``; draws are
        made for all users.
        """
        part = torch.rand(users.numel(), count, generator=generator, dtype=torch.float64)[own]
        users = users[own]
        if self._own is None:
            return self._items((part * self._total).long())
        free = self._own.free[users][:, None]
        place = torch.minimum((part * free).long(), free - 1)
        return self._items(place + self._own.mass_before(users, place))

    def draw_shared(
        self,
        users: Tensor,
        items: Tensor,
        count: int,
        generator: torch.Generator,
        bounds: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Negatives that all samples of a group share, whatever these are, and which do not count
        for which sample.

        ``users`` and the ``items`` that they chose are [B]; ``bounds`` are those of the groups,
        None: all are one.

        Returns:
            [G, K] int64, 0-based, and [2, E] int64: the sample and the column of each negative that
            is the sample's item, or with ``exclude_own`` any item of its user (but one who has
            every item).
        """
        bounds = [0, len(users)] if bounds is None else bounds
        part = torch.rand(len(bounds) - 1, count, generator=generator, dtype=torch.float64)
        drawn = self._items((part * self._total).long())
        # an item in a group is one number
        first_of = self.n_items * torch.arange(len(drawn))
        keys = drawn + first_of[:, None]
        of_samples = of_groups(first_of, bounds).expand(len(users))
        if self._own is None:
            barred = Ragged(of_samples + items, torch.arange(len(items) + 1))
        else:
            barred = self._own.among(keys, of_samples, users, items)
        ascending, order = keys.flatten().sort()
        first = torch.searchsorted(ascending, barred.values)
        last = torch.searchsorted(ascending, barred.values, right=True)
        places = consecutive(first, last - first)
        return drawn, torch.stack([barred.rows[places.rows], order[places.values] % count])

    def _items(self, place: Tensor) -> Tensor:
        """The item whose mass covers each place on the line of all masses."""
        if self._mass_up_to is None:
            return place
        # right: an item without mass covers nothing
        return torch.searchsorted(self._mass_up_to, place, right=True)


class _OwnItems:
    """Where the own items of each user lie on the line of all masses; ``free`` [n_users] can be
    drawn for each.
    """

    def __init__(self, train: Part, masses: Tensor, total: int) -> None:
        own = distinct(train.items, train.n_items)
        # without the rows of the values, which are as large
        self._rows, self._n_items = Ragged(own.values, own.offsets), train.n_items
        of_own = masses[own.values]
        self._sums = torch.cat([of_own.new_zeros(1), of_own.cumsum(0)])
        self._first = self._sums[own.offsets[:-1]]
        mass = self._sums[own.offsets[1:]] - self._first
        # a user who has every item may draw any
        self._restricted = mass < total
        self.free = torch.where(self._restricted, total - mass, total)
        self._stride = total + 1
        foreign_before = (masses.cumsum(0) - masses)[own.values] - (
            self._sums[:-1] - self._first[own.rows]
        )
        self._keys = own.rows * self._stride + foreign_before

    def mass_before(self, users: Tensor, place: Tensor) -> Tensor:
        """The mass of the own items that lie before a place among the foreign ones."""
        users = users[:, None]
        wanted = users * self._stride + place
        if len(self._keys) < _LARGE:
            passed = torch.searchsorted(self._keys, wanted, right=True)
        else:  # keys outgrow the caches: searches in ascending order read what the one before has read
            ascending, order = wanted.flatten().sort()
            found = torch.searchsorted(self._keys, ascending, right=True)
            passed = torch.empty_like(found).index_copy_(0, order, found).view(wanted.shape)
        return (self._sums[passed] - self._first[users]) * self._restricted[users]

    def among(self, drawn: Tensor, first: Tensor, users: Tensor, items: Tensor) -> Ragged:
        """B rows: what is drawn in each sample's group and does not count for it."""
        is_drawn = torch.zeros(len(drawn) * self._n_items, dtype=torch.bool)
        is_drawn[drawn] = True
        # a user of several samples of a group is asked for once
        n_users = self._rows.n_rows
        asked, of_sample = torch.unique(first * n_users + users, return_inverse=True)
        own = self._rows.take(asked % n_users)
        own = own.with_values(own.values + (asked // n_users)[own.rows])
        found = own.filter(is_drawn[own.values]).take(of_sample)
        return found.filter(
            self._restricted[users][found.rows] | (found.values == (first + items)[found.rows])
        )
