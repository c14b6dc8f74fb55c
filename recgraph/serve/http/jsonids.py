"""The user's own ids as JSON writes them: numbers and texts as they are, dates, times, UUIDs and bytes as texts."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from recgraph.data.ids import IdMap, family
from recgraph.serve.http.errors import Refused, shown

__all__ = ["JsonIds", "plain"]

#: maps up to this size are held as Python objects, too, some 100 bytes an id: a look at few ids is then much faster
_IN_PYTHON = 2_000_000
_MOST_FLOAT32 = float(np.finfo(np.float32).max)


class JsonIds:
    """Reads and writes the ids of one map.

    Args:
        ids: index <-> id.
        what: what they name, in the plural: ``"users"`` or ``"items"``.
    """

    def __init__(self, ids: IdMap, what: str) -> None:
        self.ids, self.what = ids, what
        self.family = "UUIDs" if ids.as_uuid else family(ids.values.dtype)
        read: dict[str, Callable[[Any, str], Any]] = {
            "UUIDs": self._uuid,
            "integers": self._integer,
            "floats": self._float,
            "texts": self._text,
            "booleans": self._boolean,
            "bytes": self._bytes,
        }
        self._read = read.get(self.family, self._time)
        self._places: dict[Any, int] | None = None
        self._written: list[Any] | None = None
        if len(ids) <= _IN_PYTHON:
            self._places = {each: index for index, each in enumerate(ids.values.to_list())}
            self._written = plain(ids.values)
        self._bounds = _bounds(ids.values.dtype) if self.family == "integers" else (0, 0)

    def read(self, value: Any, field: str) -> Any:
        """The id that a value of a request stands for, to be looked up in the map.

        Args:
            value: parsed JSON.
            field: where it was, for the message.

        Returns:
            An id of the map's own family, or None for a number that cannot be one of its ids.

        Raises:
            Refused: it is of another type.
        """
        return self._read(value, field)

    def read_all(self, values: list[Any], field: str) -> list[Any]:
        """:meth:`read` for each entry of a list."""
        if self._read == self._time:
            return self._times(values, field)
        try:
            return [self._read(value, field) for value in values]
        except Refused:
            for place, value in enumerate(values):  # say which one it is
                self._read(value, f"{field}[{place}]")
            raise

    def index(self, ids: list[Any]) -> list[int]:
        """The index of each id that :meth:`read` gave, -1 where it is not known."""
        if self._places is None:
            return self.ids.index(ids).tolist() if ids else []
        return [self._places.get(each, -1) for each in ids]

    def write(self, indices: list[int]) -> list[Any]:
        """The ids of indices, as JSON can hold them."""
        if self._written is None:
            return plain(self.ids.ids(indices))
        return [self._written[index] for index in indices]

    def example(self) -> Any:
        """One of the ids, as a request would write it."""
        return self.write([0])[0] if len(self.ids) else None

    def _refuse(self, value: Any, field: str, fix: str = "") -> Refused:
        kinds = {
            bool: "a boolean",
            int: "an integer",
            float: "a number",
            str: "a text",
            list: "a list",
            dict: "an object",
        }
        fix = fix or f"write ids like {shown(self.example())}"
        kind = "nothing" if value is None else kinds[type(value)]
        return Refused(400, f"{field} = {shown(value)} is {kind}, but the {self.what} are {self.family}; {fix}", field)

    def _integer(self, value: Any, field: str) -> int | None:
        if type(value) is float and value.is_integer():  # 17.0 is how some clients write 17
            value = int(value)
        if type(value) is not int:
            number = isinstance(value, str) and value.strip().lstrip("-").isdecimal() and len(value) < 20
            raise self._refuse(value, field, f"write {int(value)}" if number and value.isascii() else "")
        low, high = self._bounds
        return value if low <= value <= high else None

    def _float(self, value: Any, field: str) -> float | None:
        if type(value) is int and abs(value) >= 1 << 1023:
            return None
        # 1e999 is read as infinite, which no answer could repeat
        if type(value) not in (int, float) or value - value != 0:
            raise self._refuse(value, field)
        if self.ids.values.dtype == pl.Float32:
            return float(np.float32(value)) if abs(value) < _MOST_FLOAT32 else None
        return float(value)

    def _text(self, value: Any, field: str) -> str:
        if type(value) is not str:
            number = type(value) in (int, float)
            raise self._refuse(value, field, f"write {shown(str(value))}" if number and len(shown(value)) < 20 else "")
        check_text(value, field)
        return value

    def _boolean(self, value: Any, field: str) -> bool:
        if type(value) is not bool:
            raise self._refuse(value, field)
        return value

    def _bytes(self, value: Any, field: str) -> bytes:
        if type(value) is not str:
            raise self._refuse(value, field)
        check_text(value, field)
        return value.encode()

    def _uuid(self, value: Any, field: str) -> str:
        if type(value) is not str:
            raise self._refuse(value, field)
        try:
            return str(uuid.UUID(value))
        except ValueError:
            raise self._refuse(value, field) from None

    def _time(self, value: Any, field: str) -> Any:
        if type(value) is not str:
            raise self._refuse(value, field)
        check_text(value, field)
        try:
            parsed = self.ids.parse([value])[0]
        except (pl.exceptions.PolarsError, ValueError, OverflowError):  # a year that Python's dates cannot have
            parsed = None
        if parsed is None:
            raise self._refuse(value, field)
        return parsed

    def _times(self, values: list[Any], field: str) -> list[Any]:
        """:meth:`_time` of many values; those of one form are parsed together."""
        found: dict[str, Any] = {}
        for place, value in enumerate(values):
            if type(value) is not str:
                raise self._refuse(value, f"{field}[{place}]")
            check_text(value, f"{field}[{place}]")
        left = list(dict.fromkeys(values))
        while left:
            found[left[0]] = self._time(left[0], f"{field}[{values.index(left[0])}]")
            parsed = self.ids.parse(left)
            if parsed.dtype in (pl.Date, pl.Datetime):
                parsed = parsed.set(~parsed.dt.year().is_between(dt.MINYEAR, dt.MAXYEAR), None)
            found |= {text: each for text, each in zip(left, parsed.to_list(), strict=True) if each is not None}
            left = [text for text in left if text not in found]
        return [found[value] for value in values]


def check_text(text: str, field: str) -> None:
    """Refuse a text that no UTF-8 can hold, such as half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refused(400, f"{field} = {shown(text)} is no valid Unicode text; send UTF-8", field) from None


def _bounds(dtype: pl.DataType) -> tuple[int, int]:
    low, high = pl.select(
        pl.lit(0, dtype).lower_bound().alias("low"), pl.lit(0, dtype).upper_bound().alias("high")
    ).row(0)
    return low, high


_PLAIN: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (dt.date | dt.time, lambda value: value.isoformat()),  # type: ignore[assignment]
    (bytes, lambda value: value.decode("utf-8", "backslashreplace")),
    (dict, lambda value: {str(name): _plain(entry) for name, entry in value.items()}),
    (list | tuple | pl.Series, lambda value: [_plain(entry) for entry in value]),
)


def plain(values: pl.Series) -> list[Any]:
    """The values of a column as JSON can hold them; what it has no form for becomes a text, NaN becomes null."""
    found = values.to_list()
    dtype = values.dtype
    if dtype.is_integer() or dtype in (pl.String, pl.Boolean):
        return found
    return [_plain(value) for value in found]


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else None  # neither NaN nor infinite
    for kind, write in _PLAIN:
        if isinstance(value, kind):
            return write(value)
    return str(value)
