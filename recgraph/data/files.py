"""Files and folders that appear whole or not at all, also after a kill or a power failure.

A writer fills a temporary beside the target, flushes it to the disk (fsync), gives it the mode that the user's mask
leaves, and renames it. A folder that is replaced is exchanged with the new one in one step (``renameat2``), so that its
place is never empty; where the system cannot, it is renamed twice, and a folder that a kill in between left aside is
put back by :func:`recover`, which readers and the next writer call.

Files that belong together, and lie in a folder with others, are moved one by one when all are on the disk
(:func:`replacing_files`). What a kill leaves of that, :func:`sweep` moves; that files are of two writes, readers see by
the checksums of :mod:`recgraph.data.imprint`.

A temporary is a folder ``.NAME.RANDOM.recgraph`` whose owner holds a lock of the operating system on it, which ends
with the owner. Whoever writes beside it next removes it if nobody holds it.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from recgraph.bounded.files import within
from recgraph.data.disk import exchange, make_folder, naming, sync_all, sync_file, sync_folder

__all__ = [
    "contents",
    "is_being_written",
    "make_folder",
    "recover",
    "remove_folder",
    "replace_bytes",
    "replace_text",
    "replacing_file",
    "replacing_files",
    "replacing_folder",
    "sweep",
    "unlisted",
    "why_kept",
    "why_without",
]

#: errors where a folder that is not empty lies in the place
_IS_TAKEN = {errno.ENOTEMPTY, errno.EEXIST}
#: the name of a temporary: that of its target, and a random one
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{12}\.recgraph")
#: inside a temporary: what is to take the place, and what lay there before
_NEW, _OLD = "new", "old"
#: the name of what files that belong together are to become; in their temporary, when all are on the disk: they
#: themselves, the name of the one that is moved last, and those of the earlier ones that go then
_SET, _READY, _LAST, _GONE = "files", "ready", "last", "gone"
_ATTEMPTS = 100
#: folders that this process has swept: one look is enough for what earlier ones have left
_swept: set[str] = set()


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A path to write a new file to; it takes the place of ``path`` at the end of the block, unless an error ends it.

    The path ends as ``path`` does. A link stays, and what it points to is replaced; what is no regular file, such as
    a pipe or ``/dev/stdout``, is written to at the end.

    Raises:
        IsADirectoryError: ``path`` is a folder.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if _is_stream(path):
        with tempfile.TemporaryDirectory() as temporary:
            new = Path(temporary) / f"{_NEW}{path.suffix}"
            yield new
            with naming(path), new.open("rb") as made, path.open("wb") as stream:
                shutil.copyfileobj(made, stream)
        return
    path = _followed(path)
    with _temporary(path) as folder:
        new = folder / f"{_NEW}{path.suffix}"
        yield new
        new.chmod(_mode(folder))
        sync_file(new)
        os.replace(new, path)
        sync_folder(path.parent)


def _followed(path: Path) -> Path:
    """What a link points to; another path as it is."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _is_stream(path: Path) -> bool:
    """Whether a path is a pipe, a device, or a name that the system gives to an open file."""
    return str(path).startswith(("/dev/std", "/dev/fd/", "/proc/")) or (path.exists() and not path.is_file())


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill; it takes the place of ``folder`` at the end of the block, unless an error ends it.

    All files get the mode that the user's mask leaves: some writers give theirs to the owner alone.
    """
    folder = _followed(folder)
    with _temporary(folder) as temporary:
        new = temporary / _NEW
        new.mkdir()
        yield new
        sync_all(new, _mode(temporary))
        _put(new, folder, temporary / _OLD)
        sync_folder(folder.parent)


@contextmanager
def replacing_files(folder: Path, last: str, own: Callable[[], Collection[str]]) -> Iterator[Path]:
    """A new folder to fill; at the end of the block its files take their places in ``folder``, unless an error ends it.

    What earlier writes of this kind have left there goes; files of others stay. A kill leaves the earlier files, or new
    ones that the next reader or writer moves.

    Args:
        last: the name of the file that describes the others; it is moved when they are in their places.
        own: the names in ``folder`` of what earlier writes have left; asked for when no other writer is at work there.

    Raises:
        FileExistsError: ``folder`` is a file, or holds a file of others in the place of one that is to be written.
    """
    make_folder(folder)
    with _temporary(folder / _SET) as temporary:
        new = temporary / _NEW
        new.mkdir()
        yield new
        (temporary / _LAST).write_text(last, encoding="utf-8")
        sync_all(new, _mode(temporary))
        sweep(folder)  # what a writer that was killed meanwhile has not moved is none of others
        with _held(folder):
            names, earlier = _files_in(new), set(own())
            _check_places(folder, names, earlier)
            (temporary / _GONE).write_text("\n".join(sorted(earlier - names)), encoding="utf-8")
            for name in (_LAST, _GONE):
                sync_file(temporary / name)
            os.replace(new, temporary / _READY)
            sync_folder(temporary)
            _move_set(temporary, folder)


def _files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _check_places(folder: Path, names: Collection[str], earlier: Collection[str]) -> None:
    """Refuse to write over what others have put into a folder."""
    inner = {each.as_posix() for name in names for each in PurePosixPath(name).parents[:-1]}
    taken = {name for name in names if name not in earlier and os.path.lexists(folder / name)}
    taken |= {name for name in inner if (folder / name).exists() and not (folder / name).is_dir()}
    if taken:
        raise FileExistsError(
            f"{folder / min(taken)} exists, is not of what was saved in {folder} before, and would be written over; "
            "move it out of there, or choose another folder"
        )


def _move_set(temporary: Path, folder: Path) -> None:
    """Move the files of a set to their places, those that a kill has left too, and remove those that it replaces."""
    ready, last = temporary / _READY, (temporary / _LAST).read_text(encoding="utf-8")
    names = _files_in(ready)
    for name in sorted(names, key=lambda name: (name == last, name)):
        make_folder((folder / name).parent)
        os.replace(ready / name, folder / name)
    gone = temporary / _GONE
    for name in gone.read_text(encoding="utf-8").splitlines() if gone.is_file() else ():
        with suppress(OSError, ValueError):  # it leads out of the folder; files of others are beside it
            path = within(folder, name)
            path.unlink(missing_ok=True)
            while (path := path.parent) != folder:
                path.rmdir()
    for place in {(folder / name).parent for name in names}:
        sync_folder(place)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """In the block no other writer moves files to their places in a folder."""
    lock = _lock(folder, wait=True)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def is_being_written(folder: Path) -> bool:
    """Whether :func:`replacing_files` is at work in a folder."""
    return any(found[1] == _SET for name in os.listdir(folder) if (found := _TEMPORARY.fullmatch(name)))


def _put(new: Path, folder: Path, previous: Path) -> None:
    """Rename a folder; one that lies in the place comes to lie where the new one was, or at ``previous``."""
    for _ in range(_ATTEMPTS):
        try:
            os.replace(new, folder)
            return
        except OSError as error:
            if error.errno not in _IS_TAKEN:
                with suppress(OSError):
                    os.replace(previous, folder)
                raise
        with suppress(FileNotFoundError):  # another process has just moved what lay there
            if exchange(new, folder):
                return
            shutil.rmtree(previous, ignore_errors=True)
            os.replace(folder, previous)
    raise OSError(errno.EBUSY, "other processes replace it all the time", str(folder))


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that is in it: it leaves its place whole. One that is not there is no error."""
    if not folder.is_dir():
        return
    with _temporary(folder) as temporary, suppress(FileNotFoundError):
        os.replace(folder, temporary / "removed")


def contents(folder: Path) -> set[str]:
    """The names of what a folder holds, without temporaries; a folder that is not there holds nothing."""
    return {name for name in os.listdir(folder) if not _TEMPORARY.fullmatch(name)} if folder.is_dir() else set()


def unlisted(folder: Path, listed: Collection[str]) -> str | None:
    """The path, in a folder, of the first file or link in it that is none of those listed; None: there is none.

    Temporaries, compiled Python (``__pycache__``) and empty folders do not count.
    """

    def fail(error: OSError) -> None:
        raise error

    for at, folders, files in os.walk(folder, onerror=fail):
        links = [name for name in folders if os.path.islink(os.path.join(at, name))]
        folders[:] = sorted(name for name in folders if name != "__pycache__" and not _TEMPORARY.fullmatch(name))
        for name in sorted(files + links):
            path = Path(at, name).relative_to(folder).as_posix()
            if path not in listed:
                return path
    return None


def why_kept(folder: Path, what: str, head: str, read: Callable[[Path], Mapping[str, Any]]) -> str | None:
    """Why a folder may not be replaced, in words; None: it is not there, is empty, or holds what was written alone.

    Args:
        what: was written there: ``"bundle"`` or ``"export"``.
        head: the name of its file that lists the others.
        read: reads that file of a folder, ``files`` and all; a ValueError or an OSError where the folder has none.
    """
    if not folder.exists() or (folder.is_dir() and not contents(folder)):
        return None
    try:
        listed = read(folder)["files"]
    except (OSError, ValueError):
        return f"{folder} exists and is no {what}; choose another folder"
    if (other := unlisted(folder, {head, *listed})) is None:
        return None
    return (
        f"{folder / other} is no part of the {what} in {folder} and would be deleted with it; move it out of there, or "
        "choose another folder"
    )


def why_without(folder: Path, what: str) -> str:
    """Why a folder does not hold something, in words."""
    if folder.is_dir():
        return f"it has no {what}"
    return "it is a file" if folder.exists() else "there is no such folder"


def recover(path: Path) -> None:
    """Put back what a kill between two renames left beside its place, where that is empty."""
    if not path.exists() and path.parent.is_dir():
        sweep(path.parent)


def sweep(folder: Path) -> None:
    """Remove the temporaries in a folder whose owners have ended, when what was moved halfway is in its place."""
    with os.scandir(folder) as entries:
        found = [(Path(entry.path), known) for entry in entries if (known := _TEMPORARY.fullmatch(entry.name))]
    for temporary, name in found:
        try:
            lock = _lock(temporary)
        except BlockingIOError:  # its owner lives
            continue
        if lock is None:  # nobody can know
            continue
        place = folder / name[1]
        with suppress(OSError):
            if (temporary / _OLD).is_dir() and not place.exists():
                os.replace(temporary / _OLD, place)
            if (temporary / _READY).is_dir():
                with _held(folder):
                    _move_set(temporary, folder)
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)
    _swept.add(str(folder))


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A new folder beside ``path``, which is this process's until the end of the block and is then removed."""
    with naming(path):
        make_folder(path.parent)
        if str(path.parent) not in _swept:
            sweep(path.parent)
        temporary, lock = _owned(path)
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            if lock is not None:
                os.close(lock)


def _owned(path: Path) -> tuple[Path, int | None]:
    for _ in range(_ATTEMPTS):
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.recgraph")
        temporary.mkdir()
        try:
            lock = _lock(temporary)
        except BlockingIOError:  # another process is sweeping it: it was nobody's for a moment
            continue
        if temporary.is_dir():
            return temporary, lock
        if lock is not None:  # another process swept it before it was locked
            os.close(lock)
    raise OSError(errno.EBUSY, "other processes remove its temporaries", str(path))


def _lock(folder: Path, wait: bool = False) -> int | None:
    """Lock a folder -> its descriptor; None where it is gone or cannot be locked.

    Args:
        wait: until no other process holds it.

    Raises:
        BlockingIOError: another process, or another thread, holds it, and ``wait`` is False.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        file = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise
    except OSError:
        os.close(file)
        return None
    return file


def _mode(folder: Path) -> int:
    """The mode of files that the user's mask leaves, as a folder that was just made shows it."""
    return folder.stat().st_mode & 0o666


def replace_text(text: str, path: Path) -> None:
    """Write a UTF-8 text, atomically."""
    replace_bytes(text.encode(), path)


def replace_bytes(content: bytes, path: Path) -> None:
    """Write bytes, atomically."""
    with replacing_file(path) as temporary:
        temporary.write_bytes(content)
