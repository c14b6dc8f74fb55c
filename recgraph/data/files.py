"""Files and folders that appear whole or not at all, also after a power failure.

A writer fills a temporary file beside the target, flushes it to the disk (fsync) and renames it.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal

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
    "replace_parts",
    "replace_text",
    "replacing_folder",
]

#: of a file of rows
Form = Literal["csv", "tsv", "json", "jsonl", "parquet"]
#: errors of file systems that cannot flush a folder
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}


def replace_file(temporary: Path, path: Path) -> None:
    """Flush a file to the disk, rename it to ``path`` (in the same folder) and flush the folder."""
    _sync_file(temporary)
    os.replace(temporary, path)
    _sync_folder(path.parent)


def replace_folder(temporary: Path, folder: Path, previous: Path | None = None) -> None:
    """Flush a folder with all its files to the disk and rename it.

    All files get the mode that the user's mask leaves: some writers give theirs to the owner alone.

    Args:
        temporary: the new folder, on the same file system, made with that mask.
        folder: its final place.
        previous: where a folder that already lies in the place is moved to, once the new one is on the disk; it is
            moved back where the new one cannot be renamed.

    Raises:
        OSError: a folder that is not empty lies in the place, and ``previous`` is not given.
    """
    mode = temporary.stat().st_mode & 0o666
    for place, _, names in os.walk(temporary, topdown=False):
        for name in names:
            path = Path(place) / name
            path.chmod(mode)
            _sync_file(path)
        _sync_folder(Path(place))
    moved = previous is not None and folder.exists()
    if previous is not None and moved:
        os.replace(folder, previous)
    try:
        os.replace(temporary, folder)
    except OSError:
        if previous is not None and moved:
            with suppress(OSError):  # another process has put its own there
                os.replace(previous, folder)
        raise
    _sync_folder(folder.parent)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill; it takes the place of ``folder`` at the end of the block, unless an error ends it."""
    make_folder(folder.parent)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    previous = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        temporary.mkdir()
        yield temporary
        replace_folder(temporary, folder, previous)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(previous, ignore_errors=True)


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


def replace_parts(parts: Iterable[pl.DataFrame], path: Path, form: Form, rows: int = 1 << 17) -> int:
    """Write frames of the same columns one under the other into one file, atomically; one is held at a time.

    Args:
        parts: read once, as they are written. An error that reading one raises leaves no file.
        path: the file.
        form: ``csv`` and ``tsv`` have a header line, ``json`` is one list, ``jsonl`` has an object a line.
        rows: of a row group of Parquet.

    Returns:
        how many rows were written.

    Raises:
        ValueError: there is no part, so that the columns are not known.
    """
    whole = iter(parts)
    first = next(whole, None)
    if first is None:
        raise ValueError(f"there is nothing to write to {path}")
    count = 0

    def counted() -> Iterator[pl.DataFrame]:
        nonlocal count
        for part in itertools.chain([first], whole):
            count += part.height
            yield part

    with _replacing(path) as temporary:
        if form == "parquet":
            _sink(counted(), first.schema, temporary, rows)
        else:
            with temporary.open("wb") as file:
                _write_texts(counted(), file, form)
    return count


def _sink(parts: Iterator[pl.DataFrame], schema: pl.Schema, path: Path, rows: int) -> None:
    from polars.io.plugins import register_io_source

    def read(columns: Any, predicate: Any, n_rows: Any, batch_size: Any) -> Iterator[pl.DataFrame]:
        return parts  # a sink asks for everything, once

    register_io_source(read, schema=schema).sink_parquet(path, row_group_size=rows)


def _write_texts(parts: Iterator[pl.DataFrame], file: BinaryIO, form: Form) -> None:
    if form in ("csv", "tsv"):
        for number, part in enumerate(parts):
            part.write_csv(file, include_header=number == 0, separator="," if form == "csv" else "\t")
    elif form == "jsonl":
        for part in parts:
            part.write_ndjson(file)
    else:
        before = b"[\n"
        for part in parts:
            if part.height:
                file.write(before + part.write_ndjson().encode().rstrip(b"\n").replace(b"\n", b",\n"))
                before = b",\n"
        file.write(b"\n]\n" if before == b",\n" else b"[]\n")


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
