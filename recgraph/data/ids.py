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
    return _whole_floats(ids) if ids.dtype.is_float() else _whole_texts(ids)


def _whole_floats(ids: pl.Series) -> pl.Series | None:
    # up to it the floats of the type stand for one integer each
    largest = 2 ** (np.finfo(str(ids.dtype).lower()).nmant + 1)
    values = ids.fill_nan(None).drop_nulls()
    are_whole = ((values.round() == values) & (values.abs() < largest)).all()
    return ids.cast(pl.Int64, strict=False) if len(values) and are_whole else None


def _whole_texts(ids: pl.Series) -> pl.Series | None:
    if not ids.str.contains(r"^-?\d+(\.0+)?$").all():
        return None
    if ids.str.contains(".", literal=True).any():
        ids = ids.str.replace(_WHOLE, "${1}")
    integers = ids.cast(pl.Int64, strict=False)
    return integers if integers.cast(pl.String).eq_missing(ids).all() else None


def fit_ids(values: pl.Series, dtype: pl.DataType) -> bool:
    """Whether values are of the family of ids of a type, or stand for such: whole floats for
    integers, integers for floats."""
    families = family(values.dtype), family(dtype)
    if families == ("floats", "integers"):
        return integers_of(values) is not None
    return families[0] == families[1] or families == ("integers", "floats")


def numbered(values: pl.Series) -> tuple[npt.NDArray[np.int32], pl.Series]:
    """[T] the number of each value, from 0 in the order of first appearance, and the unique values
    in that order.
    """
    if values.dtype == pl.String:  # twice as fast as the join
        codes = values.cast(pl.Categorical(pl.Categories.random())).to_physical().to_numpy()
        new, rows = renumbered(codes, int(codes.max(initial=0)) + 1)
        return new, values.gather(rows)
    unique = values.unique(maintain_order=True)
    table = pl.DataFrame({"value": unique, "code": np.arange(len(unique), dtype=np.int32)})
    rows_of = values.alias("value").to_frame()
    coded = rows_of.join(table, on="value", how="left", maintain_order="left")
    return coded["code"].to_numpy(), unique


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
    texts = [repr(str(name)[:60]) for name in names]
    text = ", ".join(texts[:most]) or "none"
    if len(texts) > most:
        text += f" and {len(texts) - most:,} more"
    return text


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
        if ((wanted < 0) | (wanted >= len(self))).any():
            raise ValueError(f"indices = {shown(wanted)}: they lie in [0, {len(self)})")
        return self.values.gather(pl.Series(wanted))

    def index(self, ids: Any, argument: str = "ids", owner: str = "log") -> npt.NDArray[np.int64]:
        """[N] int64: the index of each id, of the family of the map's own, and -1 for one that is
        not known.
        """
        wanted = self._comparable(ids, argument, owner)
        if not len(self):
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
            values = {"true": True, "false": False}
            return given.str.to_lowercase().replace_strict(values, default=None)
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
        if given.dtype == pl.Null or not len(given):
            return pl.Series([None] * len(given), dtype=dtype)
        if not fit_ids(given, dtype):
            like = f" such as {shown(self.values[0])}" if len(self) else ""
            raise ValueError(
                f"{argument} = {given.head(3).to_list()!r} are {family(given.dtype)}; "
                f"the {owner}'s ids are {family(dtype)}{like}"
            )
        return given.cast(dtype, strict=False)


def as_series(values: Any, name: str) -> pl.Series:
    """A series of ids of one type; UUIDs and categories become texts, whole decimals integers."""
    if not is_list(values):
        raise ValueError(f"{name} = {shown(values)} must be a list, an array or a series of ids")
    if hasattr(values, "to_pylist"):  # of arrow, whose arrays hold values of their own
        values = values.to_pylist()
    if isinstance(values, pl.Series) and values.dtype != pl.Object:
        return plain_series(values)
    if isinstance(values, np.ndarray) and values.dtype.kind not in "OU":
        return pl.Series(name, values.copy())
    return series_of(list(values), name)


def series_of(values: Sequence[Any], name: str, are_ids: bool = True) -> pl.Series:
    """A series of Python values; NaN and the like are missing, UUIDs texts. Ids are of one type."""
    values = list(map(plain_value, values))
    types = {type(value) for value in values if value is not None}
    if types == {int, float}:
        values = [None if value is None else float(value) for value in values]
    if are_ids:
        _check_one_type(values, name)
    try:
        series = pl.Series(name, values)
    except (TypeError, OverflowError, UnicodeEncodeError, pl.exceptions.PolarsError) as error:
        names = ", ".join(sorted(each.__name__ for each in types))
        raise DataError(f"{name} of {names} cannot be read: {error}") from None
    return plain_series(series) if are_ids else series


def _check_one_type(values: Sequence[Any], name: str) -> None:
    """Refuse ids of several types, and of those that none has: polars panics at some."""
    first: Any = None
    for row, value in enumerate(values):
        if value is None:
            continue
        if first is None:
            first = value
        if type(value) is not type(first) or not isinstance(value, _PLAIN):
            raise DataError(
                f"{name} holds {shown(first)} and {shown(value)}; "
                "make all ids integers, or all of them texts",
                row=row,
            )


def plain_value(value: Any) -> Any:
    """A value as Python's own; NumPy's nanoseconds would become integers."""
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]").item()
    elif isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if is_missing(value):
        return None
    return str(value) if isinstance(value, uuid.UUID) else value


def is_missing(value: Any) -> bool:
    """Whether a Python value stands for none; only numbers are compared, as an array has no single
    truth.
    """
    return value is None or (isinstance(value, numbers.Number) and value != value)
