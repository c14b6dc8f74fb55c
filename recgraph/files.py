"""Files and folders: written whole or not at all, read with a bound on their size, checked by one manifest, locked.

A writer fills a temporary beside the target, flushes it to the disk and renames it. A folder that is replaced is
exchanged with the new one in one step where the system can, so that its place is never empty. A temporary is a folder
``.NAME.RANDOM.tmp`` whose owner holds a lock on it; whoever writes beside it next removes those of owners that ended.

A folder that is an artefact (bundle, checkpoint, saved log or split) holds ``SHA256SUMS``, the digest of each of its
files in the format of ``sha256sum``.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
import tomllib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from recgraph.data.errors import CorruptFileError, DataError

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

MANIFEST = "SHA256SUMS"
#: name of the file that a holder of a folder locks; it stays
LOCK = ".lock"
#: of a text that is parsed
MOST_BYTES = 64 << 20
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")
_SUM = re.compile(r"([0-9a-f]{64})  (.+)")
#: seconds that a killed process may take to give up its lock
_TO_END = 2.0


class FolderInUse(ValueError):
    """Another process works in a folder."""


# -- writing


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of the disk inside the block names ``path``, whatever library raised it.

    Raises:
        OSError: of the error's own type.
    """
    try:
        yield
    except OSError as error:
        named = error.filename2 or error.filename
        if error.errno is None or (named is not None and not _TEMPORARY.search(str(named))):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    except Exception as error:
        # polars and safetensors have errors of their own for a disk that is full
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write a new file to; it takes the place of ``path`` at the end of the block, unless an error ends it.

    The path ends as ``path`` does. A link stays, and what it points to is replaced; a pipe or a device is written to.

    Raises:
        IsADirectoryError: ``path`` is a folder.
    """
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        with naming(path):
            yield path
        return
    with _temporary(path) as temporary:
        new = temporary / f"new{path.suffix}"
        yield new
        new.chmod(_mode(temporary))
        _sync(new)
        os.replace(new, path)
        _sync(path.parent)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill; it gets a manifest and takes the place of ``folder`` at the end of the block.

    Raises:
        FileExistsError: ``folder`` holds a file that its own manifest does not list, which would be lost.
    """
    folder = Path(os.path.realpath(folder)) if folder.is_symlink() else folder
    _check_replaceable(folder)
    with _temporary(folder) as temporary:
        new, previous = temporary / "new", temporary / "previous"
        new.mkdir()
        yield new
        write_manifest(new)
        for place, _, names in os.walk(new, topdown=False):
            for name in names:
                path = Path(place, name)
                path.chmod(_mode(temporary))
                _sync(path)
            _sync(Path(place))
        _check_replaceable(folder)
        if not _exchange(new, folder):
            with suppress(FileNotFoundError):
                os.replace(folder, previous)
            os.replace(new, folder)
        _sync(folder.parent)


def _check_replaceable(folder: Path) -> None:
    if not folder.exists() or (folder.is_dir() and not contents(folder)):
        return
    if not folder.is_dir():
        raise FileExistsError(f"{folder} is a file, where a folder is to be; give another place")
    listed = read_manifest(folder) if (folder / MANIFEST).is_file() else {}
    for path in _files(folder):
        if path not in listed:
            raise FileExistsError(f"{folder / path} is no part of what was saved in {folder}; give another folder")


def _exchange(new: Path, folder: Path) -> bool:
    """Exchange two folders in one step; False where there is no second one, or the system cannot."""
    call = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    here, exchange = -100, 2
    return call is not None and not call(here, os.fsencode(new), here, os.fsencode(folder), exchange)


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that is in it: it leaves its place whole. One that is not there is no error."""
    if folder.is_dir():
        with _temporary(folder) as temporary, suppress(FileNotFoundError):
            os.replace(folder, temporary / "removed")


def contents(folder: Path) -> set[str]:
    """The names of what a folder holds, without temporaries and its lock; a folder that is not there holds nothing."""
    names = os.listdir(folder) if folder.is_dir() else ()
    return {name for name in names if not _TEMPORARY.fullmatch(name) and name != LOCK}


def sweep(folder: Path) -> None:
    """Remove the temporaries in a folder whose owners have ended."""
    for name in os.listdir(folder) if folder.is_dir() else ():
        if _TEMPORARY.fullmatch(name):
            lock = _lock(folder / name)
            if lock is not None:
                shutil.rmtree(folder / name, ignore_errors=True)
                os.close(lock)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A new folder beside ``path``, which is this process's until the end of the block and is then removed."""
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        lock = None
        # another process may sweep it in the moment in which it is nobody's
        while lock is None:
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
            temporary.mkdir()
            lock = _lock(temporary)
            if sys.platform == "win32":
                break
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            if lock is not None:
                os.close(lock)


def _lock(folder: Path) -> int | None:
    """Lock a folder -> its descriptor; None where another holds it, or it is gone, or the system cannot."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        file = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    if not folder.is_dir():
        os.close(file)
        return None
    return file


def _mode(folder: Path) -> int:
    """The mode of files that the user's mask leaves, as a folder that was just made shows it."""
    return folder.stat().st_mode & 0o666


def _sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk, where the system can."""
    if sys.platform == "win32":
        return
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(file)


def write_bytes(content: bytes, path: Path) -> None:
    """Write bytes, atomically."""
    with replacing(path) as new:
        new.write_bytes(content)


def write_text(text: str, path: Path) -> None:
    """Write a UTF-8 text, atomically."""
    write_bytes(text.encode(), path)


def write_json(value: Mapping[str, Any], path: Path, **options: Any) -> None:
    """Write a JSON object, atomically; ``options`` are those of :func:`json.dumps`."""
    write_text(json.dumps(value, indent=1, **options) + "\n", path)


def write_frame(frame: pl.DataFrame, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a Parquet file, atomically."""
    with replacing(path) as new:
        frame.write_parquet(new, metadata=dict(metadata or {}))


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors of the host as a safetensors file, atomically."""
    from safetensors.torch import save_file

    contiguous = {name: value.detach().contiguous() for name, value in tensors.items()}
    with replacing(path) as new:
        save_file(contiguous, new, metadata=dict(metadata) if metadata else None)


# -- reading


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What goes wrong with the content of a file inside the block is an error that names the file.

    Raises:
        CorruptFileError: it is damaged, or values are missing, or of other types or sizes than they should be.
    """
    from polars.exceptions import PolarsError
    from safetensors import SafetensorError

    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, MemoryError) or (isinstance(error, DataError) and error.path is not None):
            raise
        what = f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise CorruptFileError(f"it does not hold what it should: {what}", path=path) from error
    except (PolarsError, SafetensorError, EOFError) as error:
        raise CorruptFileError(f"it is damaged: {error}", path=path) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise CorruptFileError(f"it is damaged: {error}", path=path) from error


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a file.

    Raises:
        CorruptFileError: it has more than ``most`` bytes.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise CorruptFileError(f"the file has more than {most:,} bytes", path=path)
    return content


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        CorruptFileError: it is no JSON in UTF-8, or has more than 64 MiB.
    """
    content = read_bytes(path)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"the file is not JSON: {error}", path=path) from None


def read_object(path: Path) -> dict[str, Any]:
    """The object of a JSON file; see :func:`read_json`, and any other value is an error too."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise CorruptFileError(f"the file holds no JSON object, but a {type(value).__name__}", path=path)
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file.

    Raises:
        CorruptFileError: it is no TOML in UTF-8, or has more than 2 MiB.
    """
    content = read_bytes(path, MOST_BYTES >> 5)
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"the file is not valid TOML: {error}", path=path) from None


def read_frame(path: Path, columns: Collection[str] | None = None) -> pl.DataFrame:
    """A Parquet file.

    Raises:
        CorruptFileError: it is damaged.
        FileNotFoundError: it is not there.
    """
    import polars as pl

    with reading(path), path.open("rb"):  # polars has its own errors for a file that is not there
        return pl.read_parquet(path, columns=None if columns is None else [*columns], glob=False)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file in memory: a mapped file that is cut while it is used ends the process.

    Raises:
        CorruptFileError: it is damaged.
        FileNotFoundError: it is not there.
    """
    from safetensors.torch import load

    with reading(path):
        return load(path.read_bytes())


# -- names and manifests


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_plain(name: object) -> str:
    """A relative path that stays in its folder on every system: no ``..``, no drive, no root, no backslash.

    Raises:
        ValueError: it is another one, or no text.
    """
    if isinstance(name, str) and name and "\0" not in name and "\\" not in name:
        path, windows = PurePosixPath(name), PureWindowsPath(name)
        if path.parts and not (path.is_absolute() or windows.drive or windows.root or ".." in path.parts):
            return name
    raise ValueError(f"{name!r} is no relative path inside the folder")


def within(folder: Path, name: object) -> Path:
    """A file of a folder by a name that someone else wrote.

    Raises:
        CorruptFileError: the name leads out of the folder.
    """
    try:
        return folder / check_plain(name)
    except ValueError as error:
        raise CorruptFileError(f"{error}", path=folder) from None


def write_manifest(folder: Path) -> None:
    """Write the SHA-256 of all files of a folder into its ``SHA256SUMS``."""
    lines = [f"{sha256(folder / name)}  {name}\n" for name in _files(folder)]
    (folder / MANIFEST).write_text("".join(lines), encoding="utf-8")


def _files(folder: Path) -> list[str]:
    """The files of a folder, without its own manifest, locks, temporaries and compiled Python."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return sorted(
        name.as_posix()
        for name in names
        if name.as_posix() != MANIFEST
        and name.name != LOCK
        and not any(part == "__pycache__" or _TEMPORARY.fullmatch(part) for part in name.parts)
    )


def read_manifest(folder: Path) -> dict[str, str]:
    """File -> SHA-256, as the manifest of a folder says.

    Raises:
        FileNotFoundError: there is none.
        CorruptFileError: it is damaged, or names a file outside of the folder.
    """
    path = folder / MANIFEST
    found = {}
    with reading(path):
        for line in read_bytes(path).decode().splitlines():
            known = _SUM.fullmatch(line)
            if known is None:
                raise ValueError(f"{line[:100]!r} is no digest and name")
            found[check_plain(known[2])] = known[1]
    return found


def check_manifest(folder: Path, *, but: Collection[str] = ()) -> None:
    """Compare the files of a folder with its manifest.

    Args:
        but: files that are not read.

    Raises:
        FileNotFoundError: there is no manifest.
        CorruptFileError: a file is missing or was changed; names it.
    """
    for name, digest in read_manifest(folder).items():
        if name not in but:
            check_file(folder / name, digest)


def check_file(path: Path, digest: str) -> None:
    """Compare a file with its SHA-256.

    Raises:
        CorruptFileError: it is missing or was changed.
    """
    if not path.is_file():
        raise CorruptFileError("the file is missing; restore it", path=path)
    if sha256(path) != digest:
        raise CorruptFileError("the file is damaged: its checksum differs; restore it", path=path)


# -- locks


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """The block in which this process, and this thread, alone holds the lock on a file, which is made.

    Raises:
        BlockingIOError: another holds it, and ``wait`` is False.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(errno.EAGAIN, "another process holds the lock", str(path)) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """The block in which this process alone works in a folder, which is made where it is not there.

    The lock ends with the process, however that ends. A folder that was made and stayed empty is removed.

    Raises:
        FolderInUse: another process, or another thread, holds it.
    """
    from filelock import FileLock, Timeout

    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=_TO_END)
        try:
            lock.acquire()
        except Timeout:
            raise FolderInUse(f"{folder} is in use by another process; wait for it, or give another folder") from None
    try:
        yield
    finally:
        if made and not contents(folder):
            with suppress(OSError):
                (folder / LOCK).unlink()
                for path in made:
                    path.rmdir()
        lock.release()
