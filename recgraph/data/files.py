"""Files and folders that appear whole or not at all, also where the machine loses its power."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import polars as pl

__all__ = [
    "make_folder",
    "replace_bytes",
    "replace_file",
    "replace_folder",
    "replace_parquet",
    "replace_text",
]

#: of file systems that cannot write a folder's entries to disk on request
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}


def replace_file(temporary: Path, path: Path) -> None:
    """Give a file that lies beside its place its name, once its content is on the disk; then the name is, too."""
    _sync_file(temporary)
    os.replace(temporary, path)
    _sync_folder(path.parent)


def replace_folder(temporary: Path, folder: Path, previous: Path | None = None) -> None:
    """The same for a folder with all that is in it.

    Args:
        previous: where a folder that is in the place is moved to, when the new one is on the disk.

    Raises:
        OSError: there is a folder in the place that is not empty, and ``previous`` is not given.
    """
    for place, _, names in os.walk(temporary, topdown=False):
        for name in names:
            _sync_file(Path(place) / name)
        _sync_folder(Path(place))
    if previous is not None and folder.exists():
        os.replace(folder, previous)
    os.replace(temporary, folder)
    _sync_folder(folder.parent)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where they are not there; their names are on the disk then."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(file)


def _temporary(path: Path) -> Path:
    make_folder(path.parent)
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def replace_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Write a frame under a temporary name, then move it to its place."""
    temporary = _temporary(path)
    try:
        frame.write_parquet(temporary)
        replace_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_text(text: str, path: Path) -> None:
    """Write a UTF-8 text under a temporary name, then move it to its place."""
    temporary = _temporary(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        replace_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_bytes(content: bytes, path: Path) -> None:
    """Write bytes under a temporary name, then move it to its place."""
    temporary = _temporary(path)
    try:
        temporary.write_bytes(content)
        replace_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
