"""What a file may take before it is read: it is a regular file, and what it declares fits its size and the memory."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from recgraph.data.errors import CorruptFileError, DataError

__all__ = [
    "FLOOR",
    "RATIO",
    "VARIABLE",
    "allowed",
    "check_declared",
    "check_memory",
    "check_plain",
    "file_size",
    "named",
    "read_bytes",
    "sha256_of",
    "within",
]

#: the environment variable with a size, such as ``8GiB``, that any one file may take in memory
VARIABLE = "RECGRAPH_UNPACKED_LIMIT"
#: without it a file may take so many times its size, and at least so many bytes
RATIO, FLOOR = 200, 256 << 20
#: ``recgraph.memory.VARIABLE``, which is not imported to look
_LIMIT = "RECGRAPH_MEMORY_LIMIT"


def file_size(path: Path, most: int | None = None) -> int:
    """The size of a regular file; pipes and devices, which may never end, are none.

    Raises:
        CorruptFileError: it is something else, or larger than ``most`` bytes.
        FileNotFoundError: it is not there.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        what = "a folder; give a file" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise CorruptFileError(f"this is {what}", path=path)
    if most is not None and found.st_size > most:
        raise CorruptFileError(f"the file has {found.st_size:,} bytes; such a file has at most {most:,}", path=path)
    return found.st_size


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """The content of a regular file, see :func:`file_size`."""
    size = file_size(path, most)
    check_memory(size, path)
    with path.open("rb") as file:
        return file.read() if most is None else file.read(most)


def sha256_of(path: Path) -> str:
    """The sha256 of a regular file, see :func:`file_size`; the file is not held in memory."""
    file_size(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def allowed(path: Path, size: int | None = None) -> int:
    """Bytes that a file may hold unpacked: ``RATIO`` times its size, at least ``FLOOR``, or ``VARIABLE``.

    Args:
        size: of the file, or of all files of a folder; None: the size of ``path``.
    """
    if given := os.environ.get(VARIABLE):
        from recgraph.memory import parse_size

        return parse_size(given)
    return max(FLOOR, RATIO * (path.stat().st_size if size is None else size))


def check_declared(n_bytes: int, path: Path, size: int | None = None) -> None:
    """Refuse a file that declares to hold more than a file of its size may.

    Args:
        n_bytes: that its values take in memory, together.
        size: see :func:`allowed`.

    Raises:
        CorruptFileError: it is more than is :func:`allowed`.
    """
    if n_bytes < FLOOR >> 4 and VARIABLE not in os.environ:
        return
    from recgraph.memory import format_size

    if n_bytes > (most := allowed(path, size)):
        raise CorruptFileError(
            f"the file declares {format_size(n_bytes)}, where one of its size may take {format_size(most)}; if you "
            f"trust it, set {VARIABLE} to a size that allows it",
            path=path,
        )


def check_memory(n_bytes: int, path: Path, size: int | None = None) -> None:
    """Refuse a file that is read whole and declares to take more memory than a file of its size may, or than is left.

    Args:
        n_bytes, size: see :func:`check_declared`.

    Raises:
        CorruptFileError: see :func:`check_declared`.
        MemoryLimitError: it is more than the limit of this process leaves (``RECGRAPH_MEMORY_LIMIT``); a sixteenth of
            ``FLOOR`` is always left, for descriptions and settings.
    """
    check_declared(n_bytes, path, size)
    if n_bytes < FLOOR >> 4 or _LIMIT not in os.environ:
        return
    from recgraph.memory import check_room

    check_room(n_bytes, f"reading {path}", f"allow more ({_LIMIT}, --memory-limit)")


def check_plain(name: object) -> str:
    """A relative path that stays in its folder on every system: no ``..``, no drive, no root, no backslash.

    Raises:
        ValueError: it is another one, or no text.
    """
    if not isinstance(name, str) or not name or "\0" in name or "\\" in name:
        raise ValueError(f"{name!r} is no relative path inside the folder")
    path, windows = PurePosixPath(name), PureWindowsPath(name)
    if path.is_absolute() or windows.drive or windows.root or ".." in path.parts or not path.parts:
        raise ValueError(f"{name!r} is no relative path inside the folder")
    return name


def within(folder: Path, name: object) -> Path:
    """A file of a folder by a name that someone else wrote; links may not lead out of the folder.

    Raises:
        CorruptFileError: the name, or a link, leads out of it, or the system allows no such name.
    """
    try:
        path = folder / check_plain(name)
        path.exists()  # raises where the name is too long
        inside = path.resolve().is_relative_to(folder.resolve())
    except (ValueError, OSError, RuntimeError) as error:
        raise CorruptFileError(f"{error}", path=folder) from None
    if not inside:
        raise CorruptFileError(f"{name!r} is a link that leads out of the folder", path=folder)
    return path


@contextmanager
def named(path: Path) -> Iterator[None]:
    """What goes wrong with the content of a file inside the block is an error that names the file.

    Raises:
        CorruptFileError: values are missing, or of other types or sizes than they should be.
    """
    try:
        yield
    except (MemoryError, OSError):
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, DataError) and error.path is not None:
            raise
        what = f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise CorruptFileError(f"it does not hold what it should: {what}"[:1000], path=path) from error
