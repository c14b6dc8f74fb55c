"""The columns of a log, and its timestamps as integers.

Whole numbers stay as they are. Dates and texts become unix microseconds (UTC). Numbers with fractions are taken for
seconds and become microseconds.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from dataclasses import dataclass
from typing import Literal

import polars as pl
from torch import Tensor

from recgraph.config import Config
from recgraph.data.diagnose import collect
from recgraph.data.errors import TimestampError
from recgraph.data.source import Source

__all__ = [
    "Columns",
    "TimeReading",
    "TimeUnit",
    "check_time_format",
    "check_times",
    "duration",
    "in_unit",
    "instant",
    "time_readings",
    "to_integers",
]


class Columns(Config):
    """The user's own names of the columns of a log."""

    user: str
    item: str
    timestamp: str | None = None
    rating: str | None = None
    weight: str | None = None

    def named(self) -> list[str]:
        """The names that are given, each once."""
        names = (self.user, self.item, self.timestamp, self.rating, self.weight)
        return list(dict.fromkeys(name for name in names if name is not None))


def check_time_format(time_format: str | None, columns: Columns) -> None:
    """Refuse a form of timestamps for a log without any, which would be ignored.

    Raises:
        ValueError: both.
    """
    if time_format is not None and columns.timestamp is None:
        raise ValueError(
            f"time_format = {time_format!r} says how timestamps are written, and the log has none: name their column, "
            "timestamp=... (--time), or leave it out"
        )


TimeUnit = Literal["none", "own", "seconds", "us"]
_SAMPLE = 1000
_DATES = ("%Y-%m-%d", "%Y/%m/%d", "%Y%m%d")
_CLOCKS = ("%H:%M:%S%.f%#z", "%H:%M:%S%.f", "%H:%M:%S%.f UTC", "%H:%M%#z", "%H:%M")
_FORMATS = _DATES[:2] + tuple(f"{date}{mark}{clock}" for date in _DATES for mark in "T " for clock in _CLOCKS)
#: a letter of a format with its flags, and the point before it
_LETTER = re.compile(r"(\.?)(%[-_0.:#\d]*)([A-Za-z+%])")
#: the letters of a time of day
_OF_CLOCK = frozenset("HIklMSTRrXcfpPs+")
#: the zones that "%Z" may read: polars takes no notice of the name
_IS_UTC = r"(?i)(?:^|[^a-z])(?:UTC|GMT|Z)(?:[^a-z]|$)"
#: in microseconds; "%Y" reads the 24 of 05/01/24 as the year 24
_YEAR_1000 = (dt.datetime(1000, 1, 1) - dt.datetime(1970, 1, 1)) // dt.timedelta(microseconds=1)

#: a duration, and the seconds of each of its units, in small letters
_DURATION = re.compile(r"(\d{1,9}) ?([A-Za-z]+)")
_SECONDS = {"w": 604_800, "d": 86_400, "h": 3_600, "min": 60, "s": 1}


@dataclass(frozen=True)
class TimeReading:
    """One way to read a column of timestamps: an expression (null where it fails) and the unit it gives."""

    expression: pl.Expr
    unit: TimeUnit


def time_readings(lazy: pl.LazyFrame, column: str, source: Source, time_format: str | None = None) -> list[TimeReading]:
    """The ways to read the column, the likeliest first (at least one).

    Args:
        lazy: the log.
        column: of timestamps.
        source: for messages.
        time_format: of texts, in the letters of ``strftime``; without a zone: UTC. None: numbers, or one of the
            usual formats.

    Raises:
        TimestampError: the type of the column, or the texts in its first rows, are no times.
    """
    dtype = lazy.collect_schema()[column]
    value = pl.col(column)
    if time_format is not None:
        return [_by_format(lazy, column, source, time_format)]
    if dtype.is_integer():
        return [TimeReading(value.cast(pl.Int64, strict=False), "own")]
    if dtype.is_float():
        return [TimeReading(value.fill_nan(None), "own")]
    if dtype == pl.Date or dtype == pl.Datetime:
        return [TimeReading(value.cast(pl.Datetime("us", _zone(dtype)), strict=False).to_physical(), "us")]
    if dtype == pl.String:
        return _of_texts(lazy, column, source)
    message = f"column {column!r} of type {dtype} holds no timestamps; give numbers, dates or ISO 8601 texts"
    raise source.error(TimestampError, message)


def _by_format(lazy: pl.LazyFrame, column: str, source: Source, form: str) -> TimeReading:
    dtype = lazy.collect_schema()[column]
    if not (dtype == pl.String or dtype.is_integer()):
        raise source.error(TimestampError, f"time_format = {form!r} is for texts; column {column!r} holds {dtype}")
    letters = {letter for _, _, letter in _LETTER.findall(form)}
    chrono = _LETTER.sub(_with_fraction, form)
    if any(flags == "%" and letter == "f" for _, flags, letter in _LETTER.findall(chrono)):
        raise ValueError(
            f"time_format = {form!r}: '%f' is a fraction behind a point, '.%f'; behind another mark write how many "
            "digits it has: '%3f', '%6f' or '%9f'"
        )
    texts = pl.col(column).cast(pl.String).str.strip_chars()
    sample = collect(lazy.select(column).head(_SAMPLE), source)
    try:
        if letters & _OF_CLOCK:
            zone = None if letters & {"z", "+"} else "UTC"
            moments = texts.str.to_datetime(chrono, time_unit="us", time_zone=zone, strict=False)
        else:
            moments = texts.str.to_date(chrono, strict=False).cast(pl.Datetime("us"))
        read = _with_whole_years(moments.to_physical(), texts)
        if "Z" in letters:
            read = pl.when(texts.str.contains(_IS_UTC)).then(read)
        fits = sample.select(read).to_series().null_count() < len(sample)
    except (pl.exceptions.PolarsError, UnicodeEncodeError):  # no format at all, or no text of UTF-8
        fits = False
    if not fits:
        message = f"the timestamp {sample[column][0]!r} (column {column!r}) has not the form time_format={form!r}"
        zones = "; of names of zones (%Z) UTC and GMT alone are read, others as offsets (%z)" if "Z" in letters else ""
        raise source.error(TimestampError, message + zones, row=0)
    return TimeReading(read, "us")


def _with_fraction(letter: re.Match[str]) -> str:
    """Python's letter of a fraction as polars writes it, whose own "%f" counts nanoseconds."""
    return "%.f" if letter[0] == ".%f" else letter[0]


def _with_whole_years(read: pl.Expr, texts: pl.Expr) -> pl.Expr:
    """Times without those of years of one to three digits; the year 1 stands for no date in some systems."""
    return pl.when((read >= _YEAR_1000) | texts.str.contains("0001", literal=True)).then(read)


def _zone(dtype: pl.DataType) -> str | None:
    return dtype.time_zone if isinstance(dtype, pl.Datetime) else None


def _of_texts(lazy: pl.LazyFrame, column: str, source: Source) -> list[TimeReading]:
    value = pl.col(column)
    sample = collect(lazy.select(column).head(_SAMPLE), source)
    whole = TimeReading(value.str.strip_chars().cast(pl.Int64, strict=False), "own")
    real = TimeReading(value.str.strip_chars().cast(pl.Float64, strict=False).fill_nan(None), "own")

    def missed(read: pl.Expr) -> int:
        return sample.select(read).to_series().null_count()

    numbers = [whole, real] if missed(whole.expression) < len(sample) else [real]
    unread = missed(real.expression)
    if not unread:
        return numbers
    # the formats that read something of the sample, so that the whole file is parsed as few times as can be
    parsed = [_parse(value, form) for form in _FORMATS]
    fitting = [p for p in parsed if missed(p) < len(sample)]
    # one number among dates, or one date among numbers, is what cannot be read
    if unread < len(sample) and (not fitting or unread <= missed(pl.coalesce(fitting))):
        return numbers
    if not fitting:
        raise source.error(
            TimestampError,
            f"the timestamp {sample[column][0]!r} (column {column!r}) cannot be read; give numbers or "
            "ISO 8601 texts such as '2024-05-01T12:30:00Z', or say how they are written, e.g. "
            "time_format='%d/%m/%Y %H:%M' (--time-format)",
            row=0,
        )
    return [TimeReading(pl.coalesce(fitting), "us")]


def _parse(value: pl.Expr, form: str) -> pl.Expr:
    zone = None if form.endswith("%#z") else "UTC"
    texts = value.str.strip_chars()
    read = texts.str.to_datetime(form, time_unit="us", time_zone=zone, strict=False)
    return _with_whole_years(read.to_physical(), texts)


def check_times(log: pl.DataFrame, column: str, lazy: pl.LazyFrame, source: Source, unit: TimeUnit) -> None:
    """Raise for the first timestamp that was not read, or that no integer of a unit holds."""
    missing = log["time"].is_null()
    place = missing.arg_max() if missing.any() else None
    if place is None:
        return
    # a moment beyond all years of Python is shown as its number
    given = collect(lazy.select(pl.col(column).to_physical()).slice(place, 1), source).item()
    problem = f"{given!r} cannot be read like those before it"
    if given is None:
        problem = "is missing; a log is also read without: timestamp='none' (--time none)"
    elif unit == "seconds" and _is_within_integers(given):
        problem = (
            f"{given!r} is too large for seconds, which numbers with fractions are taken for: round them, or divide "
            "them into seconds"
        )
    raise source.error(TimestampError, f"the timestamp (column {column!r}) {problem}", row=int(log["row"][place]))


def _is_within_integers(given: object) -> bool:
    try:
        return abs(float(given)) < 2**63  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def to_integers(log: pl.DataFrame, unit: TimeUnit) -> tuple[pl.DataFrame, TimeUnit]:
    """Whole floats become integers as they are; fractions of seconds become microseconds.

    What no integer holds becomes null.
    """
    times = log["time"]
    if not times.dtype.is_float():
        return log, unit
    if bool((times.round() == times).all()):
        return log.with_columns(times.cast(pl.Int64, strict=False)), unit
    return log.with_columns((times * 1e6).round().cast(pl.Int64, strict=False)), "seconds"


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

    Args:
        name: of the setting, for errors.
        value: a number in the unit in which the log's times came in; or a date, datetime or ISO 8601 text where
            they are dates or seconds with fractions (without a zone: UTC).
        unit: the log's.

    Raises:
        ValueError: a date for a log of whole numbers, a number for one of dates, a number that is no time, or a text
            that is no date.
    """
    if isinstance(value, int | float):
        if unit == "us":
            raise ValueError(
                f"{name} = {value!r}: the log's timestamps came in as dates: give the instant as a date, a datetime or "
                "an ISO 8601 text"
            )
        size = 1 if unit == "own" else 1e6
        if not abs(value) < 2**63 / size:  # NaN is not, either
            raise ValueError(f"{name} = {value!r} is no time: give a number within 64 bits, in the unit of the log's")
        return math.ceil(value) if unit == "own" else round(value * size)  # rounded as the times are
    if unit == "own":
        raise ValueError(f"{name} = {value!r}: the log's timestamps are plain numbers: give the instant as one")
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{name} = {value!r} is no ISO 8601 date such as '2024-05-01T12:30:00Z'") from None
    if not isinstance(value, dt.datetime):
        value = dt.datetime(value.year, value.month, value.day)
    if value.tzinfo is None:
        value = value.replace(tzinfo=dt.UTC)
    return (value - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def duration(name: str, value: float | str, unit: TimeUnit) -> int:
    """A length of time in the unit of a log's integer times, at least 1.

    Args:
        name: of the setting, for errors.
        value: a text such as ``"14D"``, of a log whose times are dates or seconds with fractions; a number in the unit
            in which they came in, of one whose times are numbers.
        unit: the log's.

    Raises:
        ValueError: a text for a log of whole numbers, a number for one of dates, or no such length.
    """
    if isinstance(value, str):
        found = _DURATION.fullmatch(value.strip())
        if found is None or found[2].lower() not in _SECONDS:
            raise ValueError(
                f"{name} = {value!r} is no length of time: give a whole number and one of W, D, h, min, s, e.g. '14D' "
                "or '12h'; months and years differ in length"
            )
        seconds = int(found[1]) * _SECONDS[found[2].lower()]
        if unit == "own":
            raise ValueError(
                f"{name} = {value!r}: the log's timestamps are plain numbers: give the length as one, in their unit "
                f"({seconds:_} where they are seconds, {1000 * seconds:_} where milliseconds)"
            )
        length = seconds * 1_000_000
    elif unit == "us":
        raise ValueError(f"{name} = {value!r}: the log's timestamps came in as dates: give a text such as '14D'")
    else:
        size = 1 if unit == "own" else 1_000_000
        if not abs(float(value)) < 2**63 / size:  # NaN is not, either
            raise ValueError(f"{name} = {value!r} is no length of time: give a number above 0 within 64 bits")
        length = math.ceil(float(value) * size) if isinstance(value, float) else int(value) * size
    if length < 1:
        raise ValueError(f"{name} = {value!r} must be above 0")
    return length
