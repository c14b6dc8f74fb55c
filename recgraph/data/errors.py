"""Errors of logs and of other files that are read, one class for each kind; they name the file and the line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "NO_TEXT",
    "OR_DROP",
    "AmbiguousColumnError",
    "CorruptFileError",
    "DataError",
    "DelimiterError",
    "DuplicateColumnError",
    "EmptyLogError",
    "EncodingError",
    "MissingColumnError",
    "MissingIdError",
    "MixedIdError",
    "NewerFileError",
    "RatingError",
    "ReplacedFileError",
    "ShortUserError",
    "TimestampError",
    "first_line",
    "in_file",
    "without_drop",
]

#: the end of a message about a missing id
OR_DROP = ", or leave such rows out with missing_ids='drop' (--drop-missing-ids)"
#: the end of a message about a text that has no UTF-8
NO_TEXT = "which is no text: a half of a pair of surrogates (U+D800 to U+DFFF) is in it"
#: characters of a message: an id may be a text of megabytes
_LONGEST = 2000


class DataError(ValueError):
    """A log, or another file, that cannot be read as it is.

    Attributes:
        path: the file, or None for a frame in memory.
        line: the line in a text file, from 1, or None.
        row: the row of the log, from 0, or None.
    """

    def __init__(
        self, message: str, *, path: Path | None = None, line: int | None = None, row: int | None = None
    ) -> None:
        self.path, self.line, self.row = path, line, row
        place = f"line {line}" if line is not None else f"row {row} (from 0)" if row is not None else ""
        if len(message) > _LONGEST:
            message = f"{message[: _LONGEST // 2]} [...] {message[-_LONGEST // 2 :]}"
        where = ", ".join(part for part in (str(path) if path else "", place) if part)
        super().__init__(f"{where}: {message}" if where else message)


class MissingColumnError(DataError):
    """A column that was named is not there."""


class AmbiguousColumnError(DataError):
    """Several columns have names that are usual for one role."""


class DuplicateColumnError(DataError):
    """Two columns of a header have the same name."""


class EmptyLogError(DataError):
    """The file, the frame or what a filter leaves holds no interaction."""


class DelimiterError(DataError):
    """The fields are separated by another character than expected."""


class EncodingError(DataError):
    """The text is not UTF-8, or not in the encoding that was given."""


class CorruptFileError(DataError):
    """A file, or a folder of files, that is damaged, was changed, or declares more than it may hold."""


class NewerFileError(DataError):
    """A file of a format that a newer version of the library writes."""


class ReplacedFileError(DataError):
    """A file that was written anew since what it belongs to was read."""


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


def first_line(error: BaseException) -> str:
    """The first line of what an error of another library says, or its name where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def in_file(path: Path) -> Iterator[None]:
    """Errors of the block that name no file name this one."""
    try:
        yield
    except DataError as error:
        if error.path is not None:
            raise
        raise type(error)(str(error), path=path) from None


@contextmanager
def without_drop() -> Iterator[None]:
    """Within the block, errors about missing ids name no setting: what reads a request or a new log has none."""
    try:
        yield
    except MissingIdError as error:
        error.args = (str(error).replace(OR_DROP, ", or take such rows out"),)
        raise
