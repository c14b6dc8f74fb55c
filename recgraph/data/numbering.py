"""Numbers for values in the order of their first appearance, without a table that outgrows the caches.

A hash table of millions of ids is read at random: each row waits for the memory, and the wait grows with the table
until it is all outside the caches. Here rows are sorted instead: first by the high bits of their keys, into parts of
half a million rows, then within each part. A sort reads and writes in order, so that a row costs nearly the same at
every size (radix partitioning; Manegold, Boncz and Kersten, "Optimizing main-memory join on modern hardware", 2002).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recgraph.data.ordering import offsets_of, packed_order

__all__ = ["Numbers", "number_integers", "number_keys", "renumbered"]

Keys = npt.NDArray[np.uint64]
Checks = npt.NDArray[np.uint32]
Rows = npt.NDArray[np.integer]

#: rows of a part, about, and at most so many parts
_PART, _PARTS = 2**19, 2**10
#: rows that a pass over all takes at a time
_BLOCK = 2**18
#: the same where integers are looked up in a table of their range, which shares the caches with a block
_BLOCK_NEAR = 2**16
#: odd, so that multiplying 64-bit integers by it loses nothing; the golden ratio spreads them over the high bits
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Numbers:
    """The number of each row's value.

    Attributes:
        codes: [T] int32, from 0 in the order of first appearance.
        first: [U] the row in which each number appears first; increasing.
    """

    codes: npt.NDArray[np.int32]
    first: npt.NDArray[np.int64]


def number_integers(values: npt.NDArray[np.integer]) -> Numbers:
    """Number integers of up to 64 bits."""
    if not len(values):
        return number_keys(np.empty(0, np.uint64))
    low, high = int(values.min()), int(values.max())
    if high - low < 2 * len(values):
        return _number_near(values, low, high)
    return number_keys(values.astype(np.int64 if low < 0 else np.uint64).view(np.uint64) * _SPREAD)


def number_keys(keys: Keys, checks: Checks | None = None) -> Numbers:
    """Number keys whose high bits are as good as random, hashes above all.

    Args:
        keys: [T].
        checks: [T], further bits of the keys: two rows have one number where both are equal. None: no further bits.
    """
    parts = _parts(keys, checks)
    # a part's rows, sorted by key, stay for the second pass; where its numbers begin in them, too
    sorted_rows, starts, first = [], [], []
    while parts:
        rows, own, further = parts.pop(0)
        order, begin = _groups(own, further)
        sorted_rows.append(rows[order])
        starts.append(begin)
        first.append(sorted_rows[-1][begin])
        del rows, own, further
    appeared = np.concatenate(first).astype(np.int64)
    by_row = appeared.argsort()
    number = np.empty(len(appeared), dtype=np.int32)
    number[by_row] = np.arange(len(appeared), dtype=np.int32)
    codes = np.empty(len(keys), dtype=np.int32)
    at = 0
    for rows, begin in zip(sorted_rows, starts, strict=True):
        lengths = np.diff(begin, append=len(rows))
        codes[rows] = np.repeat(number[at : at + len(begin)], lengths)
        at += len(begin)
    return Numbers(codes, appeared[by_row])


def renumbered(codes: npt.NDArray[np.int32], size: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Numbers anew, by first appearance, where some of ``size`` have no row any more.

    Returns:
        the new number of each row; the old number of each new one.
    """
    first = np.full(size, len(codes), dtype=np.int64)
    # assigned from the back, so that the first appearance is what stays; block by block, in the cache
    for stop in range(len(codes), 0, -_BLOCK):
        block = codes[max(stop - _BLOCK, 0) : stop]
        first[block[::-1]] = np.arange(stop - 1, stop - 1 - len(block), -1)
    kept = codes[np.sort(first[first < len(codes)])]
    new = np.empty(size, dtype=np.int32)
    new[kept] = np.arange(len(kept), dtype=np.int32)
    return new[codes], kept


def _number_near(values: npt.NDArray[np.integer], low: int, high: int) -> Numbers:
    """Number integers of a narrow range, by a table of the range."""
    rows, numbered = len(values), 0
    number = np.full(high - low + 1, -1, dtype=np.int32)
    codes = np.empty(rows, dtype=np.int32)
    first = []
    for here in _blocks(rows, _BLOCK_NEAR):
        offsets, own = offsets_of(values[here], low).view(np.int64), codes[here]
        # one look into the table for each row: what no block before had is rare but in the first blocks
        number.take(offsets, out=own, mode="clip")
        new = np.flatnonzero(own < 0)
        if not len(new):
            continue
        found = offsets[new]
        number[found] = len(own)
        np.minimum.at(number, found, new.astype(np.int32))
        appeared = new[number[found] == new]
        number[offsets[appeared]] = np.arange(numbered, numbered + len(appeared), dtype=np.int32)
        own[new] = number[found]
        first.append(appeared + here.start)
        numbered += len(appeared)
    return Numbers(codes, np.concatenate(first))


def _blocks(rows: int, block: int = _BLOCK) -> Iterator[slice]:
    return (slice(start, min(start + block, rows)) for start in range(0, rows, block))


def _parts(keys: Keys, checks: Checks | None) -> list[tuple[Rows, Keys, Checks | None]]:
    """Rows, keys and checks of each part, in the order of rows; the bits that a part's keys share are shifted out."""
    rows = len(keys)
    dtype = np.dtype(np.uint32 if rows < 2**32 else np.int64)
    bits = min((max(rows, 1) - 1) // _PART, _PARTS - 1).bit_length()
    if not bits:
        return [(np.arange(rows, dtype=dtype), keys, checks)]
    above = np.uint64(64 - bits)
    sizes = np.zeros(2**bits, dtype=np.int64)
    for here in _blocks(rows):
        sizes += np.bincount((keys[here] >> above).view(np.int64), minlength=2**bits)
    found: list[tuple[Rows, Keys, Checks | None]] = [
        (np.empty(size, dtype), np.empty(size, np.uint64), None if checks is None else np.empty(size, np.uint32))
        for size in sizes.tolist()
    ]
    filled = np.zeros(2**bits, dtype=np.int64)
    for here in _blocks(rows):
        own = keys[here]
        order = _order(own)
        own = own[order]
        ends = np.searchsorted(own, np.arange(1, 2**bits, dtype=np.uint64) << above)
        begins, ends = np.append(0, ends), np.append(ends, len(own))
        order_rows, own = (order + here.start).astype(dtype), own << np.uint64(bits)
        further = None if checks is None else checks[here][order]
        for part, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
            to = slice(filled[part], filled[part] + end - begin)
            found[part][0][to], found[part][1][to] = order_rows[begin:end], own[begin:end]
            if further is not None:
                found[part][2][to] = further[begin:end]  # type: ignore[index]
        filled += ends - begins
    return found


def _order(keys: Keys) -> npt.NDArray[np.int64]:
    """The places of keys, sorted by as many of their high bits as fit beside a place, equal ones in their order."""
    place_bits = (max(len(keys), 1) - 1).bit_length()
    return packed_order(keys >> np.uint64(place_bits), place_bits)


def _groups(keys: Keys, checks: Checks | None) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The places of keys, equal ones together and in their order, and where in this order a key begins."""
    order = _order(keys)
    if not len(keys):
        return order, order
    own, further = keys[order], None if checks is None else checks[order]
    shared = np.uint64((len(keys) - 1).bit_length())
    begins, alike = _changes(own, further), own[1:] >> shared == own[:-1] >> shared
    if (begins & alike).any():
        # the bits beside a place did not tell two keys apart, which may lie in turn
        order = np.lexsort((keys,) if checks is None else (checks, keys))
        begins = _changes(keys[order], None if checks is None else checks[order])
    return order, np.append(0, np.flatnonzero(begins) + 1)


def _changes(keys: Keys, checks: Checks | None) -> npt.NDArray[np.bool_]:
    """Where a key differs from the one before it."""
    changes: npt.NDArray[np.bool_] = keys[1:] != keys[:-1]
    return changes if checks is None else changes | (checks[1:] != checks[:-1])
