"""The map between the user's own ids and the indices that models know."""

from __future__ import annotations

import datetime as dt
import hashlib
import numbers
import uuid
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from recgraph.config import is_list, shown
from recgraph.files import DataError, read_frame, write_frame

#: the family of ids that are dates, or dates with times
DATES = "dates and times"
#: the Python types that an id may have, beside UUIDs
_PLAIN = (str, bytes, numbers.Number, dt.date, dt.time, dt.timedelta)
#: a whole number that is written as a float
_WHOLE = r"^(-?\d+)\.0+$"


def family(dtype: pl.DataType) -> str:
    """The kind of ids of a polars type, in words: ids are compared within a family."""
    if dtype.is_integer():
        return "integers"
    if dtype.is_float():
        return "floats"
    if dtype in (pl.Date, pl.Datetime):
        return DATES
    return {"String": "texts", "Boolean": "booleans", "Binary": "bytes"}.get(str(dtype), str(dtype))


def plain_series(ids: pl.Series) -> pl.Series:
    """Ids of their plain type: categories as texts, decimals as integers; a decimal that is no
    integer is missing.
    """
    if isinstance(ids.dtype, pl.Categorical | pl.Enum):
        return ids.cast(pl.String)
    if not ids.dtype.is_decimal():
        return ids
    plain = ids.cast(pl.Int64, strict=False)
    return plain.set(plain.cast(ids.dtype, strict=False).ne_missing(ids), None)


def integers_of(ids: pl.Series) -> pl.Series | None:
    """Floats or texts of which each is a whole number, as integers; None: one is not, or may stand
    for several.

    Of texts each must be written plainly, so that nothing is lost: ``007`` and ``+7`` are none,
    ``1000.0`` is 1000.
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
    """[T] the number of each value, from 0 in the order of first appearance, and the unique values
    in that order.
    """
    if values.dtype == pl.String:  # twice as fast as the join
        codes = values.cast(pl.Categorical(pl.Categories.random())).to_physical().to_numpy()
        made, rows = renumbered(codes, int(codes.max(initial=0)) + 1)
        return made, values.gather(rows)
    unique = values.unique(maintain_order=True)
    table = pl.DataFrame({"value": unique, "code": np.arange(len(unique), dtype=np.int32)})
    found = (
        values.alias("value").to_frame().join(table, on="value", how="left", maintain_order="left")
    )
    return found["code"].to_numpy(), unique


def renumbered(
    codes: npt.NDArray[np.integer], size: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Numbers anew, by first appearance, and the row in which each appears first; some of ``size``
    have no row.
    """
    first = np.full(size, len(codes), dtype=np.int64)
    np.minimum.at(first, codes, np.arange(len(codes)))
    rows = np.sort(first[first < len(codes)])
    new = np.empty(size, dtype=np.int32)
    new[codes[rows]] = np.arange(len(rows), dtype=np.int32)
    return new[codes], rows


def listed(names: Iterable[Any], most: int = 20) -> str:
    """Names in a message, quoted; of many the first ones and how many more there are."""
    every = [repr(str(name)[:60]) for name in names]
    return (
        f"{', '.join(every[:most])} and {len(every) - most:,} more"
        if len(every) > most
        else ", ".join(every)
    )


class IdMap:
    """Ids in the order of their indices: index ``i`` stands for ``values[i]``.

    Ids keep their type: what went in as a 32-bit integer, a text or a date comes back as one; UUIDs
    are texts.
    """

    def __init__(self, values: pl.Series) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def ids(self, indices: Any) -> pl.Series:
        """The ids of indices: [N] integers (list, array, tensor on the host or series), each below
        ``len(self)``.
        """
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise ValueError(f"indices = {shown(wanted)}: they lie in [0, {len(self)})")
        return self.values.gather(pl.Series(wanted))

    def index(self, ids: Any, argument: str = "ids", owner: str = "log") -> npt.NDArray[np.int64]:
        """[N] int64: the index of each id, of the family of the map's own, and -1 for one that is
        not known.
        """
        wanted = self._comparable(ids, argument, owner)
        if not len(self) or not len(wanted):
            return np.full(len(wanted), -1, dtype=np.int64)
        places = np.minimum(self._sorted.search_sorted(wanted).to_numpy(), len(self) - 1)
        same = self._sorted.gather(pl.Series(places)).eq(wanted).fill_null(False).to_numpy()
        return np.where(same, self._order[places], -1)

    def parse(self, texts: Sequence[str]) -> pl.Series:
        """Ids as typed on a command line, in the map's own type (null where a text cannot be
        one).
        """
        given, dtype = pl.Series(list(texts), dtype=pl.String), self.values.dtype
        if dtype.is_integer():
            given = given.str.replace(_WHOLE, "${1}")
        if dtype.is_temporal():
            return given.str.strptime(dtype, strict=False)  # type: ignore[arg-type]
        if dtype == pl.Boolean:
            return given.str.to_lowercase().replace_strict(
                {"true": True, "false": False}, default=None
            )
        return given.cast(dtype, strict=False)

    def take(self, indices: npt.NDArray[Any]) -> IdMap:
        """The map of a subset: new index ``i`` stands for the id of ``indices[i]``."""
        return IdMap(self.values.gather(pl.Series(indices)))

    def extended(self, ids: Any) -> IdMap:
        """The map with those of ``ids`` that it does not have yet behind its own, in their
        order.
        """
        wanted = self._comparable(ids)
        if wanted.null_count():
            raise ValueError(f"ids = {shown(ids)}: one is missing or no {self.values.dtype}")
        new = wanted.filter(pl.Series(self.index(wanted) < 0)).unique(maintain_order=True)
        return IdMap(pl.concat([self.values, new.alias(self.values.name).cast(self.values.dtype)]))

    def digest(self) -> bytes:
        """A hash of the ids and their order, the same on every machine and for every width of
        integers.
        """
        dtype = self.values.dtype
        texts = self.values.cast(pl.String) if dtype != pl.Binary else self.values.bin.encode("hex")
        kind = DATES if dtype.is_temporal() else family(dtype)
        state = hashlib.sha256(kind.encode())
        state.update(b"".join(f"{len(text)}:{text}".encode() for text in texts))
        return state.digest()

    def write(self, path: Path) -> None:
        """Save as Parquet."""
        write_frame(self.values.alias("id").to_frame(), path)

    @classmethod
    def read(cls, path: Path) -> IdMap:
        """Load what :meth:`write` saved."""
        return cls(read_frame(path).to_series())

    @cached_property
    def _order(self) -> npt.NDArray[np.int64]:
        return self.values.arg_sort().to_numpy().astype(np.int64)

    @cached_property
    def _sorted(self) -> pl.Series:
        return self.values.gather(pl.Series(self._order))

    def _comparable(self, ids: Any, argument: str = "ids", owner: str = "log") -> pl.Series:
        """Ids in the type of the map's own; null where one has no place in it, such as a too large
        integer.
        """
        given, dtype = as_series(ids, argument), self.values.dtype
        have, want = family(given.dtype), family(dtype)
        if given.dtype == pl.Null or not len(given):
            return pl.Series([None] * len(given), dtype=dtype)
        is_whole = have == "floats" and want == "integers" and integers_of(given) is not None
        if have != want and not is_whole and (have, want) != ("integers", "floats"):
            like = f" such as {shown(self.values[0])}" if len(self) else ""
            raise ValueError(
                f"{argument} = {given.head(3).to_list()!r} are {have}; the {owner}'s ids are {want}{like}"
            )
        return given.cast(dtype, strict=False)


def as_series(values: Any, name: str) -> pl.Series:
    """A series of ids of one type; UUIDs and categories become texts, whole decimals integers."""
    if not is_list(values):
        raise ValueError(f"{name} = {shown(values)} must be a list, an array or a series of ids")
    if hasattr(values, "to_pylist"):  # of arrow, whose arrays hold values of their own
        values = values.to_pylist()
    if isinstance(values, pl.Series):
        return (
            series_of(values.to_list(), name) if values.dtype == pl.Object else plain_series(values)
        )
    if isinstance(values, np.ndarray) and values.dtype.kind not in "OU":
        return pl.Series(name, values.copy())
    return series_of(list(values), name)


def series_of(values: Sequence[Any], name: str, are_ids: bool = True) -> pl.Series:
    """A series of Python values; NaN and the like are missing, UUIDs texts. Ids are of one type."""
    values = [plain_value(value) for value in values]
    there = [value for value in values if value is not None]
    kinds = {type(value).__name__ for value in there}
    if kinds == {"int", "float"}:
        make = int if are_ids and all(float(value).is_integer() for value in there) else float
        values, kinds = (
            [None if value is None else make(value) for value in values],
            {make.__name__},
        )
    if are_ids and (
        len(kinds) > 1 or not all(isinstance(value, _PLAIN) for value in there)
    ):  # polars panics at some
        first = type(there[0]) if isinstance(there[0], _PLAIN) else None
        row = next(
            row for row, each in enumerate(values) if each is not None and type(each) is not first
        )
        like = f"{shown(there[0])} and {shown(values[row])}"
        raise DataError(
            f"{name} holds {like}; make all ids integers, or all of them texts", row=row
        )
    try:
        return plain_series(pl.Series(name, values)) if are_ids else pl.Series(name, values)
    except (TypeError, OverflowError, UnicodeEncodeError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{name} of {', '.join(sorted(kinds))} cannot be read: {error}") from None


def plain_value(value: Any) -> Any:
    """A value as Python's own; NumPy's nanoseconds would become integers."""
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]").item()
    elif isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    return None if is_missing(value) else str(value) if isinstance(value, uuid.UUID) else value


def is_missing(value: Any) -> bool:
    """Whether a Python value stands for none; only numbers are compared, as an array has no single
    truth.
    """
    return value is None or (isinstance(value, numbers.Number) and value != value)
