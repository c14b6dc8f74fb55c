"""Numbers of one column that are integers in one file and floats, or integers of another sign, in another.

The type that polars gives both loses integers (floats hold none beyond 2^53 apart) or is none of an id (Int128).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from recgraph.data.diagnose import collect
from recgraph.data.errors import MixedIdError
from recgraph.data.source import Raw

__all__ = ["ids_of_one_kind", "times_of_one_kind"]


def ids_of_one_kind(raws: Sequence[Raw], name: str) -> list[Raw]:
    """The column ``name`` of ids as 64-bit integers where the files mix kinds of numbers.

    Raises:
        MixedIdError: an id is no such integer; names the file.
    """
    dtypes = [raw.lazy.collect_schema()[name] for raw in raws]
    if not _are_mixed(dtypes):
        return list(raws)
    for raw, dtype in zip(raws, dtypes, strict=True):
        lost = collect(raw.lazy.select(name).filter(_lost(name, dtype)).head(1), raw.source)
        if len(lost):
            message = f"column {name!r} holds {lost.item()!r}, in other files integers; write one type in all files: "
            raise raw.source.error(MixedIdError, message + "integers of 64 bits, or texts")
    return [_as_integers(raw, name) for raw in raws]


def times_of_one_kind(raws: Sequence[Raw], name: str) -> list[Raw]:
    """The column ``name`` of times as integers where some files hold these and all others whole floats."""
    dtypes = [raw.lazy.collect_schema()[name] for raw in raws]
    floats = [raw for raw, dtype in zip(raws, dtypes, strict=True) if dtype.is_float()]
    if not _are_mixed(dtypes):
        return list(raws)
    value = pl.col(name).fill_nan(None)
    fractions = (raw.lazy.select((value.round() != value).any()) for raw in floats)
    if any(collect(lazy, raw.source).item() for lazy, raw in zip(fractions, floats, strict=True)):
        return list(raws)  # seconds, which become microseconds
    return [_as_integers(raw, name) for raw in raws]


def _are_mixed(dtypes: Sequence[pl.DataType]) -> bool:
    integers = [dtype for dtype in dtypes if dtype.is_integer()]
    has_signed = any(dtype.is_signed_integer() for dtype in integers)
    has_floats = any(dtype.is_float() for dtype in dtypes)
    return bool(integers) and (has_floats or (has_signed and pl.UInt64 in integers))


def _lost(name: str, dtype: pl.DataType) -> pl.Expr:
    """Whether an id is no integer of 64 bits, or a float beside which others are rounded to it."""
    value = pl.col(name)
    if dtype.is_float():
        value = value.fill_nan(None)
        return (value.round() != value) | (value.abs() >= 2**53)
    return value.cast(pl.Int64, strict=False).is_null() & value.is_not_null()


def _as_integers(raw: Raw, name: str) -> Raw:
    return replace(raw, lazy=raw.lazy.with_columns(pl.col(name).cast(pl.Int64, strict=False)))
