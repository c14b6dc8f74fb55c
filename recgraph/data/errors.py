"""Errors of logs and of other files that are read; they name the file and the row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from recgraph.files import CorruptFileError as CorruptFileError
from recgraph.files import DataError as DataError


class MissingColumnError(DataError):
    """A column that was named is not there, or one that was not named cannot be told."""


class EmptyLogError(DataError):
    """The file, the frame or what a filter leaves holds no interaction."""


class MixedIdError(DataError):
    """A column of ids holds values of several types, or of a type that is none of ids (lists, structs, fractions)."""


class MissingIdError(DataError):
    """A user or item id is missing (null, NaN or an empty field)."""


class TimestampError(DataError):
    """A timestamp is missing or cannot be read."""


class RatingError(DataError):
    """A rating or weight is missing, is not a number, or has a sign that makes no sense."""


class ShortUserError(DataError):
    """A user has too few interactions for the split."""


def listed(names: Iterable[Any], most: int = 20) -> str:
    """Names in a message, quoted; of many the first ones and how many more there are."""
    every = [repr(str(name)[:60]) for name in names]
    return f"{', '.join(every[:most])} and {len(every) - most:,} more" if len(every) > most else ", ".join(every)
