"""Side information of users and items, keyed by the user's own ids."""

from __future__ import annotations

from typing import Any

import polars as pl

from recgraph.data.errors import DataError, MissingColumnError, MixedIdError
from recgraph.data.ids import IdMap, family
from recgraph.data.native import from_native

__all__ = ["attach", "relation"]


def attach(frame: Any, key: str, ids: IdMap) -> pl.DataFrame:
    """A frame of features whose key has the type of the log's ids.

    Args:
        frame: any kind; one row an id. Texts are read as integers where the log's ids are integers; what is
            no integer cannot be in the log and is left out.
        key: the column of ids.
        ids: the log's.

    Raises:
        DataError: the column is missing, of another type, or not unique.
    """
    table = from_native(frame)
    if key not in table.columns:
        there = ", ".join(map(repr, table.columns))
        raise MissingColumnError(f"the features have no column {key!r} (the key); their columns are {there}")
    have, want = family(table[key].dtype), family(ids.values.dtype)
    if have != want and not (have == "texts" and want == "integers"):
        raise MixedIdError(f"column {key!r} of the features holds {have}, the log's ids are {want}")
    table = table.with_columns(pl.col(key).cast(ids.values.dtype, strict=False)).filter(pl.col(key).is_not_null())
    repeated = table[key].is_duplicated()
    if repeated.any():
        raise DataError(f"id {table[key].filter(repeated)[0]!r} occurs several times in column {key!r} of the features")
    return table


def relation(features: pl.DataFrame | None, key: str, column: str, separator: str, role: str) -> pl.DataFrame:
    """A column as pairs ``(id, value)``; null and empty values give no pair.

    Raises:
        MissingColumnError: there are no features, or not this column.
    """
    if features is None:
        raise MissingColumnError(f"the log has no {role} features; give {role}_features when reading")
    if column not in features.columns or column == key:
        there = ", ".join(repr(name) for name in features.columns if name != key)
        raise MissingColumnError(f"the {role} features have no column {column!r}; they have {there}")
    pairs = features.select(key, column)
    if pairs[column].dtype == pl.String:
        pairs = pairs.with_columns(pl.col(column).str.split(separator))
    if isinstance(pairs[column].dtype, pl.List):
        pairs = pairs.explode(column)
    pairs = pairs.filter(pl.col(column).is_not_null())
    return pairs.filter(pl.col(column) != "") if pairs[column].dtype == pl.String else pairs
