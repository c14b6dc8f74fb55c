"""The user's own ids as JSON writes them: numbers, booleans and texts as they are, dates and others as texts."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

import polars as pl

from recgraph.data.ids import IdMap, family

#: maps up to this size are held as Python objects, too, some 100 bytes an id: a look at few ids is then much faster
_IN_PYTHON = 2_000_000


class JsonIds:
    """Reads and writes the ids of one map; an id is read in the form in which it is written.

    Attributes:
        family: what the ids are, in words.
    """

    def __init__(self, ids: IdMap) -> None:
        self.ids = ids
        self.family = family(ids.values.dtype)
        dtype = ids.values.dtype
        self._types: tuple[type, ...] = (bool,) if dtype == pl.Boolean else (str,)
        if dtype.is_numeric():
            self._types = int, float
        self._places: dict[Any, int] | None = None
        if len(ids) <= _IN_PYTHON:
            self._written = plain(ids.values)
            self._places = {each: index for index, each in enumerate(self._written)}

    def read(self, values: list[Any], field: str) -> list[int]:
        """The index of each id, -1 where it is not known.

        Raises:
            ValueError: one is of another type than the map's.
        """
        for place, value in enumerate(values):
            if type(value) not in self._types:
                like = f"they are {self.family}, such as {self.example()!r}"
                raise ValueError(f"{field}[{place}] = {str(value)[:80]!r} is of another type than the ids: {like}")
        if self._places is not None:
            return [self._places.get(each, -1) for each in values]
        given = pl.Series(values, dtype=self.ids.values.dtype, strict=False)  # what does not fit is null
        found: list[int] = self.ids.index(given).tolist()
        return found

    def write(self, indices: list[int]) -> list[Any]:
        """The ids of indices, as JSON can hold them."""
        if self._places is None:
            return plain(self.ids.ids(indices))
        return [self._written[index] for index in indices]

    def example(self) -> Any:
        """One of the ids."""
        return self.write([0])[0] if len(self.ids) else None


def plain(values: pl.Series) -> list[Any]:
    """The values of a column as JSON can hold them; what it has no form for becomes a text, NaN becomes null."""
    dtype = values.dtype
    if dtype.is_integer() or dtype in (pl.String, pl.Boolean):
        return values.to_list()
    return [_plain(value) for value in values.to_list()]


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple | pl.Series):
        return [_plain(entry) for entry in value]
    return str(value)
