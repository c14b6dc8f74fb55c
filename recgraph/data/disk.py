"""Errors of a disk: what could not be written, why, and what to do about it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["DiskError", "naming", "told"]

_AGAIN = "then give the same command again: what was finished is kept"
_ADVICE = {
    errno.ENOSPC: f"free space there, {_AGAIN}",
    errno.EDQUOT: f"free some of your quota, {_AGAIN}",
    errno.EFBIG: f"allow larger files (ulimit -f), {_AGAIN}",
    errno.EROFS: f"make it writable or give another place, {_AGAIN}",
    errno.EACCES: f"give yourself the right to it or give another place, {_AGAIN}",
    errno.EPERM: f"give yourself the right to it or give another place, {_AGAIN}",
    errno.EIO: f"look whether the disk is sound, {_AGAIN}",
}
#: errors that a file may also have that is read
_ALSO_READ = {errno.EACCES, errno.EPERM, errno.EIO}


class DiskError(OSError):
    """A file or folder that could not be written: names it, and the way out."""

    def __init__(self, number: int, path: Path) -> None:
        super().__init__(number, os.strerror(number), str(path))

    def __str__(self) -> str:
        return f"{self.filename} cannot be written: {self.strerror}; {_ADVICE[self.errno or errno.EIO]}"


def told(error: OSError) -> str | None:
    """What to say of an error of a disk: the file, what happened, the way out; None of other errors."""
    if isinstance(error, DiskError) or error.errno not in _ADVICE:
        return None
    return f"{error.filename2 or error.filename or 'a file'}: {error.strerror}; {_ADVICE[error.errno]}"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """The block that writes ``path``: an error of the disk in it, of whatever library, becomes one that names it.

    Raises:
        DiskError: the disk is full, cannot be written to, or fails.
    """
    try:
        yield
    except Exception as error:
        number = _number(error, path)
        if number is None:
            raise
        raise DiskError(number, path) from error


def _number(error: Exception, path: Path) -> int | None:
    """The number of an error of the disk that is about ``path``; None of others, such as a file that is read."""
    if isinstance(error, OSError) and error.errno is not None:
        named = error.filename2 or error.filename
        # temporaries have the name of what they become
        is_ours = named is None or path.name in str(named) or str(named) == str(path.parent)
        return error.errno if error.errno in _ADVICE and (is_ours or error.errno not in _ALSO_READ) else None
    # libraries that are not written in Python, and tasks of other processes, say it in their text
    text = str(error)
    found = next((number for number in _ADVICE if os.strerror(number) in text), None)
    return None if found in {errno.EACCES, errno.EPERM} and path.name not in text else found
