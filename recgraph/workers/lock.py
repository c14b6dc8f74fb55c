"""Locks of the operating system, which end with their owner: on a file, and on a folder that is trained into."""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recgraph.data.disk import naming
from recgraph.workers.process import Process, this_process

__all__ = ["LOCK", "FolderInUse", "hold", "locked"]

#: name of the file that is locked; it names the holder, which counts only while the lock is on it
LOCK = ".lock"
#: seconds that a killed process may take to give up its memory and then its locks, and a holder to write its name
_TO_END, _TO_NAME = 60.0, 1.0
_POLL = 0.05
_ATTEMPTS = 100
#: errors of file systems that cannot lock
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}
_log = logging.getLogger(__name__)
_held: set[int] = set()


class FolderInUse(ValueError):
    """Another process trains into a folder."""


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """The block in which this process alone holds the lock on a file, which is made where it is not there.

    Raises:
        BlockingIOError: another process holds it, and ``wait`` is False.
    """
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """The block in which this process alone trains into a folder, which is made where it is not there.

    The lock ends with the block, and with the process however that ends. A folder that was made for the block and is
    still empty at its end is removed. Where the file system cannot lock, a warning says so and the block runs unlocked.

    Raises:
        FolderInUse: another process, or another thread, holds it; names the folder and the holder.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    file = None
    try:
        with naming(folder):
            file = _take(folder)
        _held.add(file)
        yield
    finally:
        if file is None or file in _held:  # else this is a fork of the holder
            if file is not None:
                (folder / LOCK).unlink(missing_ok=True)  # still locked: whoever has it open sees that it is gone
            _remove_empty(made)
            if file is not None:
                _held.discard(file)
                os.close(file)


def _take(folder: Path) -> int:
    """Lock the folder's file -> its descriptor."""
    path = folder / LOCK
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except (FileNotFoundError, FileExistsError):  # its last holder has just removed the folder
            if attempt == _ATTEMPTS:
                raise
            continue
        try:
            _lock(file, folder)
            if _is_there(file, path):
                os.ftruncate(file, 0)
                os.write(file, json.dumps(this_process().to_dict()).encode())
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # its last holder has just removed the file
    raise FolderInUse(f"{folder} is in use by processes that come and go; give another folder")


def _lock(file: int, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    began = time.monotonic()
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder, waited = _holder(folder / LOCK), time.monotonic() - began
            if holder is None and waited < _TO_NAME:
                pass
            elif holder is None or not holder.is_gone or waited > _TO_END:
                raise FolderInUse(_in_use(folder, holder)) from None
            time.sleep(_POLL)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            _log.warning("%s cannot be locked (%s): let no other process train into it", folder, error.strerror)
            return


def _in_use(folder: Path, holder: Process | None) -> str:
    who = "another process" if holder is None else f"process {holder.pid} on {holder.host.split('/')[0]}"
    return f"{folder} is in use: {who} trains into it; wait until it has ended, stop it, or give another folder"


def _holder(path: Path) -> Process | None:
    """The process that a lock file names; None where none has written its name yet."""
    try:
        return Process.of(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_there(file: int, path: Path) -> bool:
    """Whether an open file is still the one at its path."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, the innermost first, up to one that is not empty."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def _forget() -> None:
    """In a fork: close the inherited files, or the parent's locks would outlive the parent."""
    for file in _held:
        os.close(file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
