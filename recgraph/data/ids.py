"""The map between the user's own ids and the indices that models know."""

from __future__ import annotations

import datetime as dt
import hashlib
import numbers
import uuid
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from recgraph.config import is_list, shown
from recgraph.data.errors import CorruptFileError
from recgraph.files import read_frame, write_frame

_UUID = "uuid"
#: what other programs write in the place of a missing value
FOR_MISSING = (
    *("", "nan", "NaN", "NAN", "NULL", "null", "(null)", "None", "NA", "N/A", "<NA>", "NaT", "\\N", "undefined"),
)
#: the family of ids that are dates, or dates with times
DATES = "dates and times"
_FAMILIES: tuple[tuple[str, Callable[[pl.DataType], bool]], ...] = (
    ("integers", lambda dtype: dtype.is_integer()),
    ("floats", lambda dtype: dtype.is_float()),
    ("texts", lambda dtype: dtype == pl.String),
    ("booleans", lambda dtype: dtype == pl.Boolean),
    ("bytes", lambda dtype: dtype == pl.Binary),
    ("times of day", lambda dtype: dtype == pl.Time),
    ("lengths of time", lambda dtype: dtype == pl.Duration),
    (DATES, lambda dtype: dtype.is_temporal()),
)
#: the Python types that an id may have, beside UUIDs
_PLAIN = (str, bytes, numbers.Number, dt.date, dt.time, dt.timedelta)
#: a whole number that is written as a float
_WHOLE = r"^(-?\d+)\.0+$"


def family(dtype: pl.DataType) -> str:
    """The kind of ids of a polars type, in words: ids are compared within a family."""
    return next((name for name, belongs in _FAMILIES if belongs(dtype)), str(dtype))


def plain_series(ids: pl.Series) -> pl.Series:
    """Ids of their plain type: categories as texts, decimals as integers; a decimal that is no integer is missing."""
    if isinstance(ids.dtype, pl.Categorical | pl.Enum):
        return ids.cast(pl.String)
    if not ids.dtype.is_decimal():
        return ids
    plain = ids.cast(pl.Int64, strict=False)
    return plain.set(plain.cast(ids.dtype, strict=False).ne_missing(ids), None)


def owned(values: pl.Series) -> pl.Series:
    """The values in memory that nobody else holds: a series of a user's array, or of a column of a frame, shares it."""
    if values.dtype in (pl.String, pl.Binary, pl.Object, pl.Null):  # which nobody can change
        return values
    return values.gather(pl.int_range(len(values), eager=True))


def integers_of(ids: pl.Series) -> pl.Series | None:
    """Floats or texts of which each is a whole number, as integers; None: one is not, or may stand for several.

    Of texts each must be written plainly, so that nothing is lost: ``007`` and ``+7`` are none, ``1000.0`` is 1000.
    """
    if ids.dtype.is_float():
        least = 2**11 if ids.dtype == pl.Float16 else 2**24 if ids.dtype == pl.Float32 else 2**53
        given = ids.fill_nan(None).drop_nulls()
        is_whole = len(given) and bool(((given.round() == given) & (given.abs() < least)).all())
        return ids.cast(pl.Int64, strict=False) if is_whole else None
    if not ids.str.contains(r"^-?\d+(\.0+)?$").all():
        return None
    texts = ids.str.replace(_WHOLE, "${1}") if ids.str.contains(".", literal=True).any() else ids
    integers = texts.cast(pl.Int64, strict=False)
    return integers if bool((integers.cast(pl.String).eq_missing(texts)).all()) else None


def numbered(values: pl.Series) -> tuple[npt.NDArray[np.int32], pl.Series]:
    """[T] the number of each value, from 0 in the order of first appearance, and the unique values in that order."""
    codes, size = _codes(values)
    made, rows = renumbered(codes, size)
    return made, values.gather(rows)


def _codes(values: pl.Series) -> tuple[npt.NDArray[np.integer], int]:
    """[T] numbers of values, below a size."""
    if values.dtype.is_integer():
        low, high = int(values.min() or 0), int(values.max() or 0)  # type: ignore[arg-type]
        if high - low < 2 * len(values) and low >= -(2**63) and high < 2**63:
            return values.to_numpy().astype(np.int64) - low, high - low + 1
    if values.dtype == pl.String:
        codes = values.cast(pl.Categorical(pl.Categories.random())).to_physical().to_numpy()
        return codes, int(codes.max(initial=0)) + 1
    unique = values.unique()
    table = pl.DataFrame({"value": unique, "code": np.arange(len(unique), dtype=np.int32)})
    found = values.alias("value").to_frame().join(table, on="value", how="left", maintain_order="left")
    return found["code"].to_numpy(), len(unique)


def renumbered(codes: npt.NDArray[np.integer], size: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Numbers anew, by first appearance, and the row in which each appears first; some of ``size`` have no row."""
    first = np.full(size, len(codes), dtype=np.int64)
    np.minimum.at(first, codes, np.arange(len(codes)))
    rows = np.sort(first[first < len(codes)])
    new = np.empty(size, dtype=np.int32)
    new[codes[rows]] = np.arange(len(rows), dtype=np.int32)
    return new[codes], rows


class IdMap:
    """Ids in the order of their indices.

    Args:
        values: the unique ids; index ``i`` stands for ``values[i]``. They are copied where another could change them.
        as_uuid: the ids are :class:`uuid.UUID`, held as texts.

    Ids keep their type: what went in as a 32-bit integer, a text, a date or a UUID comes back as one.
    """

    def __init__(self, values: pl.Series, *, as_uuid: bool = False) -> None:
        self.values = owned(values)
        self.as_uuid = as_uuid

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"IdMap({len(self)} {_UUID if self.as_uuid else family(self.values.dtype)})"

    def ids(self, indices: Any) -> pl.Series:
        """The ids of indices.

        Args:
            indices: [N] integers (list, array, tensor on the host or series), each in ``[0, len(self))``.

        Returns:
            [N] series of the ids' own type (``.to_list()`` gives Python values).
        """
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            bad = int(wanted.min()) if wanted.min() < 0 else int(wanted.max())
            raise ValueError(f"index {bad} stands for no id: indices lie in [0, {len(self)})")
        found = self.values.gather(pl.Series(wanted))
        if self.as_uuid:
            return pl.Series(self.values.name, [uuid.UUID(text) for text in found], dtype=pl.Object)
        return found

    def index(self, ids: Any, argument: str = "ids", owner: str = "log") -> npt.NDArray[np.int64]:
        """[N] int64: the index of each id, of the family of the map's own, and -1 for one that is not known."""
        wanted = self._comparable(ids, argument, owner)
        if not len(self) or not len(wanted):
            return np.full(len(wanted), -1, dtype=np.int64)
        places = np.minimum(self._sorted.search_sorted(wanted).to_numpy(), len(self) - 1)
        same = self._sorted.gather(pl.Series(places)).eq(wanted).fill_null(False).to_numpy()
        return np.where(same, self._order[places], -1)

    def parse(self, texts: Sequence[str]) -> pl.Series:
        """Ids as typed on a command line, in the map's own type (null where a text cannot be one)."""
        given = pl.Series(list(texts), dtype=pl.String)
        if self.values.dtype.is_integer():
            given = given.str.replace(_WHOLE, "${1}")
        if self.values.dtype.is_temporal():
            return given.str.strptime(self.values.dtype, strict=False)  # type: ignore[arg-type]
        if self.values.dtype == pl.Boolean:
            return given.str.to_lowercase().replace_strict(
                {"true": True, "false": False}, default=None, return_dtype=pl.Boolean
            )
        return given.cast(self.values.dtype, strict=False)

    def take(self, indices: npt.NDArray[Any]) -> IdMap:
        """The map of a subset: new index ``i`` stands for the id of ``indices[i]``."""
        return IdMap(self.values.gather(pl.Series(indices)), as_uuid=self.as_uuid)

    def extended(self, ids: Any) -> IdMap:
        """The map with those of ``ids`` that it does not have yet behind its own, in their order."""
        wanted = self._comparable(ids)
        if wanted.null_count():
            raise ValueError(f"ids = {shown(ids)}: one is missing or no {self.values.dtype}")
        new = wanted.filter(pl.Series(self.index(wanted) < 0)).unique(maintain_order=True)
        return IdMap(
            pl.concat([self.values, new.alias(self.values.name).cast(self.values.dtype)]), as_uuid=self.as_uuid
        )

    def digest(self) -> bytes:
        """A hash of the ids and their order, the same on every machine and for every width of integers."""
        texts = self.values.cast(pl.String) if self.values.dtype != pl.Binary else self.values.bin.encode("hex")
        kind = DATES if self.values.dtype.is_temporal() else family(self.values.dtype)
        state = hashlib.sha256(kind.encode())
        state.update(b"".join(f"{len(text)}:{text}".encode() for text in texts))
        return state.digest()

    def write(self, path: Path) -> None:
        """Save as Parquet."""
        write_frame(self.values.alias(_UUID if self.as_uuid else "id").to_frame(), path)

    @classmethod
    def read(cls, path: Path) -> IdMap:
        """Load what :meth:`write` saved."""
        frame = read_frame(path)
        values = frame.to_series()
        if frame.width != 1 or values.dtype.is_nested() or values.null_count() or values.n_unique() < len(values):
            raise CorruptFileError("these are no ids: one column of plain values, each once", path=path)
        return cls(values, as_uuid=values.name == _UUID)

    @cached_property
    def _order(self) -> npt.NDArray[np.int64]:
        return self.values.arg_sort().to_numpy().astype(np.int64)

    @cached_property
    def _sorted(self) -> pl.Series:
        return self.values.gather(pl.Series(self._order))

    def _comparable(self, ids: Any, argument: str = "ids", owner: str = "log") -> pl.Series:
        given = as_series(ids, argument)
        if self.as_uuid or not len(given):
            return given.cast(pl.String).str.to_lowercase()  # as UUIDs are held
        have, want = family(given.dtype), family(self.values.dtype)
        if given.dtype == pl.Null:
            return pl.Series([None] * len(given), dtype=self.values.dtype)
        if {have, want} == {"integers", "floats"}:
            if have == "floats" and integers_of(given) is None:
                raise ValueError(self._other(given, "no whole numbers below 2 ** 53", argument, owner))
            return given.cast(self.values.dtype, strict=False)
        if have != want:
            raise ValueError(self._other(given, have, argument, owner))
        if want == "integers":  # an id too large for the log's own width is unknown, not an error
            return given.cast(self.values.dtype, strict=False)
        return same_moments(given, self.values.dtype) if want == DATES else given.cast(self.values.dtype)

    def _other(self, given: pl.Series, have: str, argument: str, owner: str) -> str:
        """What is wrong with ids of another family."""
        fix = f"; give ids such as {shown(self.values[0])}" if len(self) else ""
        want = family(self.values.dtype)
        return f"{argument} = {given.head(3).to_list()!r} are {have}, but the {owner}'s ids are {want}{fix}"


def as_series(values: Any, name: str) -> pl.Series:
    """A series of ids of one type; UUIDs and categories become texts, whole decimals integers."""
    if not is_list(values):
        raise ValueError(f"{name} = {shown(values)} must be a list, an array or a series of ids")
    if hasattr(values, "to_pylist"):  # of arrow, whose arrays hold values of their own
        values = values.to_pylist()
    if isinstance(values, pl.Series):
        if values.dtype == pl.Object:
            return _from_objects(values.to_list(), name)
        return plain_series(values)
    if isinstance(values, np.ndarray) and values.dtype.kind not in "OU":
        return pl.Series(name, values)
    return _from_objects(list(values), name)


def _from_objects(values: list[Any], name: str) -> pl.Series:
    values = [value.item() if isinstance(value, np.generic) else value for value in values]
    if any(isinstance(value, uuid.UUID) for value in values):
        values = [str(value) if isinstance(value, uuid.UUID) else value for value in values]
    for value in values:  # polars panics at some others
        if not (value is None or isinstance(value, _PLAIN)):
            raise ValueError(f"{name} hold {shown(value)}, which cannot be an id; make ids integers or texts")
    types = python_types(values)
    if len(types) > 1:
        raise ValueError(f"{name} are of several types: {', '.join(sorted(types))}")
    # a NaN among others stands for none, as pandas writes it
    if types and types != {"float"} and any(type(value) is float for value in values):
        values = [None if is_missing(value) else value for value in values]
    try:
        is_wide = types == {"int"} and min(ints := [*filter(None, values), 0]) < 0 and max(ints) >= 2**63
        return plain_series(pl.Series(name, values, dtype=pl.Int128() if is_wide else None))
    except (TypeError, OverflowError, UnicodeEncodeError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"{name} of type {next(iter(types), None)} cannot be ids: {error}") from None


def same_moments(given: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Dates and times as another type of them; those that it cannot tell apart from others are missing."""
    cast = given.cast(dtype, strict=False)
    return cast.set(cast.cast(given.dtype, strict=False).ne_missing(given), None)


def python_types(values: Iterable[Any]) -> set[str]:
    """The names of the types of all values that are not missing."""
    return {type(value).__name__ for value in values if not is_missing(value)}


def is_missing(value: Any) -> bool:
    """Whether a Python value stands for none; only numbers are compared, as an array has no single truth."""
    return value is None or (isinstance(value, numbers.Number) and value != value)
