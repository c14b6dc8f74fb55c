"""The columns of a log, and its timestamps as integers.

Whole numbers stay as they are. Dates and texts become unix microseconds (UTC). Numbers with
fractions are taken for seconds and become microseconds.
"""

from __future__ import annotations

import datetime as dt
import itertools
import math
import re
from collections.abc import Sequence
from typing import Literal

import polars as pl
from torch import Tensor

from recgraph.config import Config


class Columns(Config):
    """The user's own names of the columns of a log."""

    user: str
    item: str
    timestamp: str | None = None
    rating: str | None = None
    weight: str | None = None

    def named(self) -> list[str]:
        """The names that are given, each once."""
        return list(dict.fromkeys(self.model_dump(exclude_none=True).values()))


TimeUnit = Literal["none", "own", "seconds", "us"]
#: of times that are texts, in the letters of ``strftime``; of several the first that reads a text
TimeFormat = str | tuple[str, ...] | None
#: of a column, by which its form is told
SAMPLE = 1000
_DATES = ("%Y-%m-%d", "%Y/%m/%d", "%Y%m%d")
_CLOCKS = ("%H:%M:%S%.f%#z", "%H:%M:%S%.f", "%H:%M:%S%.f UTC", "%H:%M%#z", "%H:%M")
_FORMATS = (*_DATES[:2], *map("".join, itertools.product(_DATES, "T ", _CLOCKS)))
#: formats that are proposed, and used only where they are given: most of them may be taken for
#: another one
_DAYS = ("%d.%m.%", "%m/%d/%", "%d/%m/%", "%d-%m-%", "%d %b %")
_TIMES_OF_DAY = (" %H:%M:%S", " %H:%M", " %I:%M:%S %p", " %I:%M %p", ", %H:%M", "")
# "%Y" reads the 24 of 01.05.24 as the year 24
_PROPOSED = tuple(
    f"{day}{year}{time}" for year, day, time in itertools.product("yY", _DAYS, _TIMES_OF_DAY)
)
#: by which a column of dates is told: 10.4.12 may be a version
_CERTAIN = (*_FORMATS, *(form for form in _PROPOSED if not form.endswith("%y")))
#: the letters of a time of day in a format
_OF_CLOCK = re.compile("%[-_0.:#\\d]*[HIklMSTRrXcfpPs+]")
#: in microseconds; "%Y" reads the 24 of 05/01/24 as the year 24
_YEAR_1000 = (dt.datetime(1000, 1, 1) - dt.datetime(1970, 1, 1)) // dt.timedelta(microseconds=1)


def times_of(given: pl.Series, time_format: TimeFormat = None) -> tuple[pl.Series, TimeUnit]:
    """Timestamps as integers, null where one cannot be read, and their unit. Beside the formats
    that are given ISO 8601 is read."""
    dtype = given.dtype
    if dtype.is_decimal():
        given = given.cast(pl.Int64 if getattr(dtype, "scale", 0) == 0 else pl.Float64)
        dtype = given.dtype
    if time_format is not None and (dtype == pl.String or dtype.is_integer()):
        return _by_format(given.cast(pl.String).str.strip_chars(), time_format), "us"
    if dtype.is_integer():
        return given.cast(pl.Int64, strict=False), "own"
    if dtype.is_float():
        return _of_floats(given)
    if dtype in (pl.Date, pl.Datetime):
        return given.dt.epoch("us"), "us"
    if dtype == pl.String:
        return _of_texts(given.str.strip_chars())
    return pl.Series(given.name, [None] * len(given), pl.Int64), "own"


def _by_format(texts: pl.Series, time_format: str | tuple[str, ...]) -> pl.Series:
    """Microseconds by the formats that are given, and by ISO 8601 where none of them begins so."""
    if isinstance(time_format, str):
        time_format = (time_format,)
    formats = [form.replace(".%f", "%.f") for form in time_format]
    are_iso = any(form.startswith("%Y") for form in formats)
    return _read(texts, formats, () if are_iso else _FORMATS)


def _of_floats(given: pl.Series) -> tuple[pl.Series, TimeUnit]:
    """Whole floats as they are; fractions of seconds as microseconds."""
    given = given.fill_nan(None)
    if bool((given.round() == given).all()):
        return given.cast(pl.Int64, strict=False), "own"
    return (given * 1e6).round().cast(pl.Int64, strict=False), "seconds"


def _of_texts(texts: pl.Series) -> tuple[pl.Series, TimeUnit]:
    # one number among dates, or one date among numbers, is what cannot be read
    sample = texts.head(SAMPLE)
    fitting = [form for form in _FORMATS if _parsed(sample, [form]).null_count() < len(sample)]
    numbers = texts.cast(pl.Float64, strict=False)
    if not fitting or numbers.head(SAMPLE).null_count() <= _parsed(sample, fitting).null_count():
        integers = texts.cast(pl.Int64, strict=False)
        if integers.null_count() == numbers.null_count():
            return integers, "own"
        return _of_floats(numbers)
    return _read(texts, fitting, _FORMATS), "us"


def _read(texts: pl.Series, formats: Sequence[str], others: Sequence[str]) -> pl.Series:
    """Microseconds by the first of the formats that reads a text; by the others what none of them
    reads.
    """
    read = _parsed(texts, formats)
    rest = (read.is_null() & texts.is_not_null()).arg_true()
    if len(rest) and others:
        read = read.scatter(rest, _parsed(texts.gather(rest), others))
    return read


def _parsed(texts: pl.Series, formats: Sequence[str]) -> pl.Series:
    """Microseconds by the first of the formats that reads a text; years before 1000 are none, but
    for the year 1.
    """
    read = pl.coalesce(_parse(form) for form in formats)
    is_whole_year = (pl.col("read") >= _YEAR_1000) | pl.col("text").str.contains(
        "0001", literal=True
    )
    frame = texts.alias("text").to_frame().with_columns(read.alias("read"))
    return frame.select(pl.when(is_whole_year).then(pl.col("read")).alias("time")).to_series()


def _parse(form: str) -> pl.Expr:
    text = pl.col("text").str
    if not _OF_CLOCK.search(form):
        return text.to_date(form, strict=False).cast(pl.Datetime("us")).to_physical()
    zone = None if re.search("%[:#]*z", form) else "UTC"
    return text.to_datetime(form, time_unit="us", time_zone=zone, strict=False).to_physical()


def is_dated(sample: pl.Series) -> bool:
    """Whether a column holds dates: by its type, or as most of its texts are written."""
    if sample.dtype in (pl.Date, pl.Datetime):
        return True
    if sample.dtype != pl.String:
        return False
    texts = sample.str.strip_chars().replace("", None).drop_nulls()
    return 2 * _parsed(texts, _CERTAIN).null_count() < len(texts)


def proposed_formats(texts: pl.Series) -> list[str]:
    """Formats that read times which cannot be read without one; where two read the same, both, as
    ``A or B``.
    """
    rest = texts.drop_nulls().str.strip_chars().unique(maintain_order=True).head(SAMPLE)
    fewest = len(texts.head(SAMPLE)) / 20
    formats = []
    while len(rest):
        unread = {form: _parsed(rest, [form]).is_null() for form in _PROPOSED}
        left = min(unread.values(), key=pl.Series.sum)
        if len(rest) - left.sum() < fewest:
            break
        alike = (repr(form) for form, mask in unread.items() if mask.equals(left))
        formats.append(" or ".join(alike))
        rest = rest.filter(left)
    return formats


def in_unit(times: Tensor, unit: TimeUnit, wanted: TimeUnit) -> Tensor | None:
    """Integer times in the unit of a log that they are read beside; None: they are of another form.

    Beside seconds with fractions whole numbers are seconds, too.
    """
    if unit == wanted:
        return times
    most = (2**63 - 1) // 10**6
    if (unit, wanted) != ("own", "seconds") or bool(((times < -most) | (times > most)).any()):
        return None
    return times * 10**6


def instant(name: str, value: float | str | dt.date, unit: TimeUnit) -> int:
    """The least integer time of a log that is not before a moment.

    A number is in the unit in which the log's times came in; a date, datetime or ISO 8601 text
    (without a zone: UTC) is of a log whose times are dates or seconds with fractions.
    """
    came_in = f"{name} = {value!r}: the log's timestamps came in as"
    if isinstance(value, int | float):
        if unit == "us":
            raise ValueError(f"{came_in} dates: give a date or text")
        # rounded as the times are
        return math.ceil(value) if unit == "own" else round(value * 1e6)
    if unit == "own":
        raise ValueError(f"{came_in} plain numbers: give a number")
    if isinstance(value, str):
        value = dt.datetime.fromisoformat(value)
    if not isinstance(value, dt.datetime):
        value = dt.datetime(value.year, value.month, value.day)
    if value.tzinfo is None:
        value = value.replace(tzinfo=dt.UTC)
    return (value - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)
