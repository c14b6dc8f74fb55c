"""Errors of logs and of other files that are read; they name the file and the row."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any


class DataError(ValueError):
    """A log, or another file, that cannot be read as it is.

    Attributes:
        path: the file, or None for a frame in memory.
        row: the row, from 0, or None.
    """

    def __init__(self, message: str, *, path: Path | None = None, row: int | None = None) -> None:
        self.path, self.row = path, row
        place = f"row {row} (from 0)" if row is not None else ""
        where = ", ".join(part for part in (str(path) if path else "", place) if part)
        super().__init__(f"{where}: {message}"[:2000] if where else message[:2000])


class MissingColumnError(DataError):
    """A column that was named is not there, or one that was not named cannot be told."""


class EmptyLogError(DataError):
    """The file, the frame or what a filter leaves holds no interaction."""


class CorruptFileError(DataError):
    """A file, or a folder of files, that is damaged, was changed, or is in another encoding."""


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
