"""Columns whose files have different types: integers and floats, Int64 and UInt64, or categories and texts.

polars would join numbers as Float64, which merges integers above 2^53, or as Int128, which ids cannot have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from recgraph.data.diagnose import collect
from recgraph.data.errors import MixedIdError
from recgraph.data.source import Raw

__all__ = ["ids_of_one_kind", "plain_categories", "times_of_one_kind"]


def plain_categories(raw: Raw, names: Sequence[str]) -> Raw:
    """The columns ``names`` of ids as texts, where they are categories: each file has categories of its own."""
    schema = raw.lazy.collect_schema()
    found = [name for name in names if isinstance(schema.get(name), pl.Categorical | pl.Enum)]
    return replace(raw, lazy=raw.lazy.with_columns(pl.col(found).cast(pl.String))) if found else raw


def ids_of_one_kind(raws: Sequence[Raw], name: str) -> list[Raw]:
    """The column ``name`` of ids as Int64, where the files have different types of numbers.

    Raises:
        MixedIdError: an id does not fit Int64; names the file.
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
    """The column ``name`` of times as Int64, where some files have integers and all others whole floats."""
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
    """Whether an id does not fit Int64, or is a float so large that it may stand for several integers."""
    value = pl.col(name)
    if dtype.is_float():
        value = value.fill_nan(None)
        return (value.round() != value) | (value.abs() >= 2**53)
    return value.cast(pl.Int64, strict=False).is_null() & value.is_not_null()


def _as_integers(raw: Raw, name: str) -> Raw:
    return replace(raw, lazy=raw.lazy.with_columns(pl.col(name).cast(pl.Int64, strict=False)))
