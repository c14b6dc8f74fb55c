"""The k-core of a log: the users and items that keep enough interactions with one another."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

__all__ = ["k_core"]

Indices = npt.NDArray[np.integer]
Mask = npt.NDArray[np.bool_]

#: a pass over all rows that removes a smaller share of them is the last one
_SHARE = 1 / 16
#: rows that a pass takes at a time
_BLOCK = 2**18


def k_core(user: Indices, item: Indices, users: int, items: int) -> Mask:
    """The rows in which every user has at least ``users`` and every item at least ``items`` interactions.

    Dropping items shortens users and the other way round, so both are dropped until nothing changes. The fixed point is
    unique (the largest such set of rows), whatever the order. Time is linear in T, up to sorting what a round removes,
    and does not depend on the number of rounds: each looks only at the rows of users and items that have just become
    too short.

    Args:
        user, item: [T] indices.
        users, items: the smallest counts, each at least 0.

    Returns:
        [T] True for the rows that stay.
    """
    alive = np.ones(len(user), dtype=bool)
    sides = (_Side(user, users), _Side(item, items))
    # the first rounds remove the most: there it is faster to go over all rows in their order
    removed = len(alive)
    while removed and removed >= _SHARE * len(alive):
        gone = _remove_short(sides, alive)
        removed = len(gone)
        for side in sides:
            side.lose(gone)
    short = [side.short(np.arange(len(side.counts))) for side in sides]
    while any(map(len, short)):
        rounds = []
        for side, codes in zip(sides, short, strict=True):
            rows = side.rows_of(codes, alive)
            rounds.append(rows[alive[rows]])
            alive[rounds[-1]] = False
        gone = np.concatenate(rounds)
        short = [side.short(side.lose(gone)) for side in sides]
    return alive


def _remove_short(sides: tuple[_Side, _Side], alive: Mask) -> Indices:
    """The rows that are alive and whose user or item has not enough; they are no longer alive."""
    # a byte an index, so that both tables are in a near cache
    enough = [side.counts >= side.least for side in sides]
    gone = []
    for here in _blocks(len(alive)):
        keep = alive[here].copy()
        for side, table in zip(sides, enough, strict=True):
            keep &= table[side.codes[here]]
        gone.append(here.start + np.flatnonzero(alive[here] > keep))
        alive[here] = keep
    return np.concatenate(gone)


def _blocks(rows: int) -> Iterator[slice]:
    """Rows block by block: what is computed of a block stays in the cache."""
    return (slice(start, start + _BLOCK) for start in range(0, rows, _BLOCK))


class _Side:
    """The users of a log, or its items.

    Args:
        codes: [T] the index of each row.
        least: the smallest count.
    """

    def __init__(self, codes: Indices, least: int) -> None:
        self.codes, self.least = codes, least
        # narrow, for the caches; np.bincount would first copy the codes to int64
        dtype = np.dtype(np.int32 if len(codes) < 2**31 else np.int64)
        self.counts: Indices = np.zeros(int(codes.max(initial=-1)) + 1, dtype=dtype)
        self._one = dtype.type(1)
        np.add.at(self.counts, codes, self._one)
        self._indexed = np.zeros(len(self.counts), dtype=bool)
        self._rows: Indices = np.empty(0, dtype=np.int64)
        self._offsets = self._lengths = self._rows
        self._place = np.empty(len(self.counts), dtype=np.int64)

    def lose(self, rows: Indices) -> Indices:
        """Count without some rows; their indices."""
        touched: Indices = self.codes[rows]
        np.subtract.at(self.counts, touched, self._one)
        return touched

    def short(self, codes: Indices) -> Indices:
        """Those of some indices, each once, that have rows but not enough."""
        left = self.counts[codes]
        found: Indices = codes[(left > 0) & (left < self.least)]
        places = np.arange(len(found))
        self._place[found] = places
        found = found[self._place[found] == places]
        return found

    def rows_of(self, codes: Indices, alive: Mask) -> Indices:
        """The rows of some indices, among them all that are alive."""
        if not self._indexed[codes].all():
            self._index(alive)
        begin, length = self._offsets[codes], self._lengths[codes]
        within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        rows: Indices = self._rows[np.repeat(begin, length) + within]
        return rows

    def _index(self, alive: Mask) -> None:
        """Sort rows by their index: first those of indices that have not many more than enough, then all.

        Most logs need the first alone, a part of the rows.
        """
        near = self.counts < 2 * self.least
        self._indexed = np.ones_like(near) if self._indexed.any() else near
        # an index and its row as one number: sorting numbers reads memory in order, counting into places does not
        row_bits = np.uint64(len(alive).bit_length())
        found = []
        for here in _blocks(len(alive)):
            codes = self.codes[here]
            places = np.flatnonzero(self._indexed[codes] & alive[here])
            found.append(codes[places].astype(np.uint64) << row_bits | (places + here.start).astype(np.uint64))
        packed = np.concatenate(found)
        packed.sort()
        self._rows = (packed & np.uint64((1 << int(row_bits)) - 1)).view(np.int64)
        # not the counts: what this round has removed of the other side is still in them
        self._lengths = np.bincount((packed >> row_bits).view(np.int64), minlength=len(self.counts))
        self._offsets = np.cumsum(self._lengths) - self._lengths
