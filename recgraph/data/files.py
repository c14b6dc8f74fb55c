"""Files and folders that appear whole or not at all, also after a power failure.

A writer fills a temporary file beside the target, flushes it to the disk (fsync) and renames it.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from recgraph.data.errors import CorruptFileError

__all__ = [
    "load_frame",
    "load_json",
    "make_folder",
    "replace_bytes",
    "replace_file",
    "replace_folder",
    "replace_parquet",
    "replace_text",
]

#: errors of file systems that cannot flush a folder
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}


def replace_file(temporary: Path, path: Path) -> None:
    """Flush a file to the disk, rename it to ``path`` (in the same folder) and flush the folder."""
    _sync_file(temporary)
    os.replace(temporary, path)
    _sync_folder(path.parent)


def replace_folder(temporary: Path, folder: Path, previous: Path | None = None) -> None:
    """Flush a folder with all its files to the disk and rename it.

    Args:
        temporary: the new folder, on the same file system.
        folder: its final place.
        previous: where a folder that already lies in the place is moved to, once the new one is on the disk.

    Raises:
        OSError: a folder that is not empty lies in the place, and ``previous`` is not given.
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
    """Create a folder and its missing parents, and flush their names to the disk."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def replace_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Write a frame as a Parquet file, atomically."""
    with _replacing(path) as temporary:
        frame.write_parquet(temporary)


def replace_text(text: str, path: Path) -> None:
    """Write a UTF-8 text, atomically."""
    replace_bytes(text.encode(), path)


def replace_bytes(content: bytes, path: Path) -> None:
    """Write bytes, atomically."""
    with _replacing(path) as temporary:
        temporary.write_bytes(content)


def load_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CorruptFileError: the file is not JSON.
    """
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CorruptFileError(f"the file is not JSON: {error}", path=path) from None
    return value


def load_frame(path: Path) -> pl.DataFrame:
    """Read a Parquet file.

    Raises:
        CorruptFileError: the file is damaged.
    """
    try:
        return pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise CorruptFileError(f"the Parquet file cannot be read: {error}", path=path) from None


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it becomes ``path`` at the end of the block, unless an error ends it."""
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        replace_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
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
