"""Stable sorts by columns of integers, of numbers and of frames.

A key and the place of its row share a word of 64 bits, so that numpy sorts numbers, with the vector units and in the
order of the memory, instead of places by numbers. What does not fit beside a place is sorted digit by digit, the
lowest first. A column that ascends already costs one pass: logs mostly come in the order of their rows and times.

Taking the rows of a large frame in a new order reads each of its columns at random, which costs ten times what sorting
does. So the rows of a frame are first brought, block by block, into parts that fit into the caches.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

__all__ = ["in_order", "offsets_of", "packed_order", "stable_order"]

Integers = npt.NDArray[np.integer]

#: rows of a part, about, and rows that are brought into parts at a time
_PART, _BLOCK = 2**19, 2**18


def in_order(frame: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """A frame's rows, sorted by its columns ``keys``; equal rows in their order.

    Args:
        frame: columns of numbers without nulls; the first key's numbers are indices: from 0, and not many more than
            there are rows.
        keys: columns of integers.
    """
    if frame.height > _PART:
        columns = [frame[key].to_numpy() for key in keys]
        return frame if _ascends(*columns) else _in_parts(frame, keys)
    places = stable_order(*(frame[key].to_numpy() for key in keys))
    return frame if places is None else frame.select(pl.all().gather(pl.Series(places)))


def _in_parts(frame: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    if _ascends(*(frame[key].to_numpy() for key in keys[1:])):
        # within a value of the first key the rows are in order, and stay so
        keys = keys[:1]
    first = frame[keys[0]].to_numpy()
    starts = np.append(0, np.cumsum(np.bincount(first)))
    # the least value of each part but the first; a value that has more rows than a part makes one of its own
    cuts = np.unique(np.searchsorted(starts, np.arange(_PART, frame.height, _PART), side="right") - 1)
    edges = np.concatenate(([0], starts[cuts], [frame.height]))
    columns = {name: frame[name].to_numpy() for name in frame.columns}
    made = {name: np.empty_like(values) for name, values in columns.items()}
    filled = edges[:-1].copy()
    for start in range(0, frame.height, _BLOCK):
        here = slice(start, start + _BLOCK)
        order = _sorted_places(first[here])
        bounds = np.searchsorted(first[here][order], cuts)
        spans = list(zip(np.append(0, bounds).tolist(), np.append(bounds, len(order)).tolist(), strict=True))
        for name, values in columns.items():
            own, into = values[here][order], made[name]
            for (begin, end), to in zip(spans, filled.tolist(), strict=True):
                into[to : to + end - begin] = own[begin:end]
        filled += [end - begin for begin, end in spans]
    for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        places = stable_order(*(made[key][begin:end] for key in keys))
        if places is not None:
            for values in made.values():
                values[begin:end] = values[begin:end][places]
    return pl.DataFrame({name: pl.Series(name, made[name], dtype=frame.schema[name]) for name in frame.columns})


def stable_order(*keys: Integers) -> npt.NDArray[np.int64] | None:
    """The places of rows, sorted by the first key, then by the second and so on; equal rows in their order.

    Args:
        keys: each [T], of one length; 64 bits or fewer.

    Returns:
        [T] int64, or None where the rows are in order already.
    """
    order: npt.NDArray[np.int64] | None = None
    for key in reversed(keys):
        own = key if order is None else key[order]
        if not _ascends(own):
            places = _sorted_places(own)
            order = places if order is None else order[places]
    return order


def offsets_of(values: Integers, low: int) -> npt.NDArray[np.uint64]:
    """Values less the lowest, whatever their type."""
    # wraps where a value or the lowest does not fit, and back
    return values.astype(np.uint64) - np.uint64(low % 2**64)


def _ascends(*keys: Integers) -> bool:
    """Whether rows are in the order of the first key, then of the second and so on."""
    if not keys:
        return True
    later = keys[-1][1:] >= keys[-1][:-1]
    for key in reversed(keys[:-1]):
        later &= key[1:] == key[:-1]
        later |= key[1:] > key[:-1]
    return bool(later.all())


def _sorted_places(key: Integers) -> npt.NDArray[np.int64]:
    low, high = int(key.min()), int(key.max())
    offsets = offsets_of(key, low)
    place_bits = (len(key) - 1).bit_length()
    width, bits = 64 - place_bits, (high - low).bit_length()
    if bits > width:
        # times in microseconds are often whole seconds
        unit = np.gcd.reduce(offsets)
        offsets //= unit
        bits = ((high - low) // int(unit)).bit_length()
    order = packed_order(offsets, place_bits)
    for shift in range(width, bits, width):
        order = order[packed_order((offsets >> np.uint64(shift))[order], place_bits)]
    return order


def packed_order(digits: npt.NDArray[np.uint64], place_bits: int) -> npt.NDArray[np.int64]:
    """The places of digits in their stable order, by as many low bits as a word has beside a place."""
    packed = digits << np.uint64(place_bits)
    packed |= np.arange(len(digits), dtype=np.uint64)
    packed.sort()
    packed &= np.uint64((1 << place_bits) - 1)
    return packed.view(np.int64)
