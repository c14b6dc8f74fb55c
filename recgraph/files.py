"""Files and folders: written whole or not at all, read with a bound on their size, checked by one
manifest, locked.

A writer fills a temporary beside the target, flushes it to the disk and renames it; a folder is
exchanged with the earlier one in one step where the system can. A temporary is a folder
``.NAME.RANDOM.tmp``; whoever writes beside it next removes those that killed processes have left a
day ago. A folder that is an artefact (bundle, checkpoint, saved log or split) holds ``SHA256SUMS``,
the digest of each of its files in the format of ``sha256sum``.
"""

from __future__ import annotations

import ctypes
import fnmatch
import hashlib
import json
import os
import secrets
import shutil
import time
import tomllib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

MANIFEST = "SHA256SUMS"
#: name of the file that the process which works in a folder locks; it stays
LOCK = ".lock"
#: the names of temporaries, for glob and fnmatch
_TEMPORARY = ".?*." + 12 * "[0-9a-f]" + ".tmp"
#: of Linux's renameat2: paths are relative to the working directory; exchange the two
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class DataError(ValueError):
    """A log, or another file, that cannot be read as it is; ``path`` is None for a frame in
    memory.
    """

    def __init__(self, message: str, *, path: Path | None = None, row: int | None = None) -> None:
        self.path, self.row = path, row
        if row is not None:
            message = f"row {row} (from 0): {message}"
        if path is not None:
            message = f"{path}: {message}"
        super().__init__(message[:2000])


class CorruptFileError(DataError):
    """A file, or a folder of files, that is damaged, was changed, or is in another encoding."""


class InUse(BlockingIOError, ValueError):
    """Another process, or another thread, works in a folder or holds a lock."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write a new file to, which ends as ``path`` does; it takes its place, with its
    mode, at the end of the block, unless an error ends it. A pipe or a device is written to."""
    if path.exists() and not path.is_file():
        yield path
        return
    with _temporary(path) as temporary:
        new = temporary / f"new{path.suffix}"
        yield new
        mode = _mode_of_new(temporary)
        if path.exists():
            mode = path.stat().st_mode & 0o777
        new.chmod(mode)
        _flush(new)
        os.replace(new, path)
        _flush(path.parent)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill; it gets a manifest and takes the place of ``folder`` at the end of the
    block. One that holds a file that its own manifest does not list, which would be lost, is a
    FileExistsError."""
    _check_replaceable(folder)
    with _temporary(folder) as temporary:
        new = temporary / "new"
        new.mkdir()
        yield new
        sums = [f"{sha256(new / name)}  {name}\n" for name in sorted(_files(new))]
        (new / MANIFEST).write_text("".join(sums), encoding="utf-8")
        for path in (*new.rglob("*"), new):
            if path.is_file():
                path.chmod(_mode_of_new(temporary))
            _flush(path)
        _check_replaceable(folder)
        exchange(new, folder)


def exchange(new: Path, folder: Path) -> None:
    """Exchange a new folder and another one, which need not exist: in one step where the system
    can.
    """
    # Linux's own call, which the C library of another system does not have
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    is_exchanged = renameat2 is not None and not renameat2(
        _AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(folder), _RENAME_EXCHANGE
    )
    if not is_exchanged:
        previous = new.with_name(f"{new.name}.previous")
        for source, target in ((folder, previous), (new, folder), (previous, new)):
            with suppress(FileNotFoundError):
                os.replace(source, target)
    _flush(folder.parent)


def _check_replaceable(folder: Path) -> None:
    listed: dict[str, str] = {}
    with suppress(FileNotFoundError, NotADirectoryError):
        listed = read_manifest(folder)
    others = sorted(_files(folder) - listed.keys())
    if others or folder.is_file():
        raise FileExistsError(
            f"{folder / ''.join(others[:1])} is no part of what was saved; give another folder"
        )


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that is in it: it leaves its place whole. One that is not there is
    no error.
    """
    if folder.is_dir():
        with _temporary(folder) as temporary, suppress(FileNotFoundError):
            os.replace(folder, temporary / "removed")


def contents(folder: Path) -> set[str]:
    """The names of what a folder holds, without temporaries and its lock; a folder that is not
    there holds nothing.
    """
    names = {path.name for path in folder.glob("*")}
    return names - {LOCK, *fnmatch.filter(names, _TEMPORARY)}


def sweep(folder: Path, age: float = 86400) -> None:
    """Remove the temporaries in a folder that are so many seconds old: their owners have ended."""
    for path in folder.glob(_TEMPORARY):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime >= age:
                shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A new folder beside ``path``, which is removed at the end of the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _mode_of_new(folder: Path) -> int:
    """The mode of a new file, as the user's mask has it, which a new folder shows."""
    return folder.stat().st_mode & 0o666


def _flush(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(text: str, path: Path) -> None:
    """Write a UTF-8 text, atomically."""
    with replacing(path) as new:
        new.write_bytes(text.encode())


def write_json(value: Mapping[str, Any], path: Path, **options: Any) -> None:
    """Write a JSON object, atomically; ``options`` are those of :func:`json.dumps`."""
    write_text(json.dumps(value, indent=1, **options) + "\n", path)


def write_frame(frame: pl.DataFrame, path: Path) -> None:
    """Write a Parquet file, atomically."""
    with replacing(path) as new:
        frame.write_parquet(new)


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors of the host as a safetensors file, atomically."""
    from safetensors.torch import save_file

    with replacing(path) as new:
        save_file({name: value.detach().contiguous() for name, value in tensors.items()}, new)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What goes wrong with the content of a file inside the block is a CorruptFileError that names
    the file.
    """
    try:
        yield
    except (FileNotFoundError, ImportError, MemoryError):
        raise
    except Exception as error:
        # the system's errors have a number (polars raises an OSError without one for damage), and
        # a DataError may name the file already
        if getattr(error, "errno", None) or getattr(error, "path", None):
            raise
        message = f"{type(error).__name__}: {error}"
        raise CorruptFileError(
            f"it is damaged, or does not hold what it should: {message}", path=path
        ) from error


def read_bytes(path: Path, most: int = 64 << 20) -> bytes:
    """The content of a file; one of more than ``most`` bytes is a CorruptFileError."""
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise CorruptFileError(f"the file has more than {most:,} bytes", path=path)
    return content


def read_object(path: Path) -> dict[str, Any]:
    """The object of a JSON file; a CorruptFileError where it holds none, or has more than 64
    MiB.
    """
    content = read_bytes(path)
    with reading(path):
        return {**json.loads(content)}


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file; a CorruptFileError where it is none, or has more than 2 MiB."""
    content = read_bytes(path, 2 << 20)
    with reading(path):
        return tomllib.loads(content.decode("utf-8"))


def read_frame(path: Path) -> pl.DataFrame:
    """A Parquet file; a CorruptFileError where it is damaged."""
    import polars as pl

    with reading(path), path.open("rb"):  # polars has its own errors for a file that is not there
        return pl.read_parquet(path, glob=False)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file in memory (a mapped file that is cut ends the process); damage is a
    CorruptFileError.
    """
    from safetensors.torch import load

    with reading(path):
        return load(path.read_bytes())


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_plain(name: str) -> str:
    """A relative path that stays in its folder on every system; ValueError for any other."""
    parts = PurePosixPath(name).parts
    if not parts or {"..", "/", "//"} & {*parts} or {"\\", ":", "\0"} & {*name}:
        raise ValueError(f"{name!r} is no relative path inside the folder")
    return name


def _files(folder: Path) -> set[str]:
    """The files of a folder, without its own manifest, lock and temporaries."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()]
    names = {path.as_posix() for path in paths if not fnmatch.filter(path.parts, _TEMPORARY)}
    return names - {MANIFEST, LOCK}


def check_manifest(folder: Path, *, but: Collection[str] = (), only: Collection[str] = ()) -> None:
    """Compare the files of a folder with its manifest, without some that are not read, or some
    alone; a CorruptFileError names the first that is missing or was changed."""
    listed = read_manifest(folder)
    for name in only or {*listed} - {*but}:
        path = folder / name
        if not path.is_file() or sha256(path) != listed.get(name):
            raise CorruptFileError(
                "the file is missing or damaged: its checksum differs; restore it", path=path
            )


def read_manifest(folder: Path) -> dict[str, str]:
    """File -> SHA-256, as the manifest of a folder says; a CorruptFileError where it is damaged."""
    content = read_bytes(folder / MANIFEST)
    with reading(folder / MANIFEST):
        # "DIGEST  NAME"
        pairs = [line.split("  ", 1) for line in content.decode().splitlines()]
        return {check_plain(name): digest for digest, name in pairs}


@contextmanager
def locked(path: Path, wait: float = -1) -> Iterator[None]:
    """Within the block this process, and this thread, alone holds the lock on a file, which is
    made; InUse where another still holds it after ``wait`` seconds (-1: it waits without end)."""
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(path).acquire(timeout=float(wait))
    except Timeout:
        raise InUse(
            f"{path} is locked by another process; wait for it, or give another folder"
        ) from None
    with lock:
        yield
