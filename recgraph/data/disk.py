"""Calls to the file system, and the errors of a disk: what could not be written, why, and what to do about it."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["DiskError", "exchange", "make_folder", "naming", "sync_all", "sync_file", "sync_folder", "told"]

#: errors of file systems that cannot flush a folder
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}
#: errors of systems that cannot exchange two folders; some that filter calls say that it is not permitted
_NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM}
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
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


def sync_all(folder: Path, mode: int) -> None:
    """Give all files of a folder a mode, and flush them and all folders to the disk."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(place) / name
            path.chmod(mode)
            sync_file(path)
        sync_folder(Path(place))


def sync_file(path: Path) -> None:
    """Flush a file to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the system can."""
    if os.name == "nt":  # Windows cannot open folders
        return
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(file)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where the system or the file system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if call is None:
        return False
    if not call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        return True
    if (number := ctypes.get_errno()) in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents, and flush their names to the disk.

    Raises:
        FileExistsError: a file is in the place of one of them.
    """
    if not folder.is_dir():
        make_folder(folder.parent)
        with naming(folder):
            try:
                folder.mkdir(exist_ok=True)  # another process may have made it meanwhile
            except FileExistsError:
                raise FileExistsError(f"{folder} is a file, where a folder is to be; give another place") from None
            sync_folder(folder.parent)
