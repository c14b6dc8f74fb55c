"""Storages of studies: a journal file, SQLite or PostgreSQL, each with a lock that ends with its owner.

:func:`recgraph.tuning.finding.find_study` opens a study to look at it, and makes and locks nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from recgraph.config import ConfigError
from recgraph.data.disk import naming
from recgraph.tuning.passwords import check_password, without_password, without_secrets
from recgraph.workers.lock import locked

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.storages.journal._file import BaseJournalFileLock

__all__ = [
    "JOURNAL",
    "SQLITE",
    "StorageFailed",
    "StudyStorage",
    "dashboard_of",
    "is_postgres",
    "is_same_storage",
    "no_storage",
    "not_a_folder",
    "open_storage",
    "storage_url",
    "telling",
]


JOURNAL, SQLITE = "journal:///", "sqlite:///"
_POLL = 0.01
#: packages whose errors are those of a database
_DATABASES = ("sqlalchemy", "psycopg", "sqlite3")
#: how their files begin
_JOURNAL_BEGINS, _SQLITE_BEGINS = b'{"op_code":', b"SQLite format 3\0"
_OTHER_FILE = "give another file (--storage), or leave it out for one in the study's folder"
#: seconds that SQLite waits for another writer
_PATIENCE = 60


class Exclusive(Protocol):
    """Makes the block in which one process alone changes the trials of a study."""

    def __call__(self) -> AbstractContextManager[None]: ...


class StudyStorage:
    """An Optuna storage with a lock.

    A process asks for a trial, fails one whose worker is gone and records a result under the lock, so that no trial is
    run twice and a study ends with its exact number of trials. The operating system or the database frees the lock of
    a process that is killed.

    Attributes:
        optuna: the storage, for Optuna.
        url: opens the storage again; empty for memory.
        exclusive: ``with storage.exclusive(): ...``
    """

    def __init__(self, optuna: BaseStorage, url: str, exclusive: Exclusive) -> None:
        self.optuna, self.url, self.exclusive = optuna, url, exclusive

    @property
    def dashboard(self) -> str:
        """The argument for optuna-dashboard, without a password."""
        return dashboard_of(self.url)

    def close(self) -> None:
        """Close the connections."""
        engine = getattr(self.optuna, "engine", None) or getattr(getattr(self.optuna, "_backend", None), "engine", None)
        self.optuna.remove_session()
        if engine is not None:
            engine.dispose()


class StorageFailed(RuntimeError):
    """The database or the file of a study could not be read or written; the message says which, and what went wrong."""


@contextmanager
def telling(url: str) -> Iterator[None]:
    """The block that reads and writes a storage: its errors name it.

    Raises:
        StorageFailed: a database failed, or cannot be reached.
        DiskError: the file of a journal could not be written.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or not url.startswith(JOURNAL):
            raise
        with naming(Path(url.removeprefix(JOURNAL))):
            raise
    except Exception as error:
        if (
            type(error).__name__ != "StorageInternalError"
            and type(error).__module__.partition(".")[0] not in _DATABASES
        ):
            raise
        why = error.__cause__ if type(error).__name__ == "StorageInternalError" and error.__cause__ else error
        said = without_secrets((str(why).splitlines() or [type(why).__name__])[0], url)
        raise StorageFailed(
            f"the storage {without_password(url)} failed: {said}; see that it can be reached and "
            "written to and has room, then give the same command again: finished trials are kept"
        ) from error


def dashboard_of(url: str) -> str:
    """A storage's URL as optuna-dashboard takes it: a journal by its path, a database with its driver, no password."""
    return re.sub("^postgres(ql)?:", "postgresql+psycopg:", without_password(url.removeprefix(JOURNAL)))


def storage_url(url: str | None, folder: Path | None = None) -> str:
    """The URL of a storage with an absolute path, which holds in any working directory; opens nothing.

    Args:
        url, folder: of :func:`open_storage`.

    Raises:
        ConfigError: another kind of URL, or a password in it that is not escaped.
    """
    if url is None:
        return "" if folder is None else f"{JOURNAL}{(folder / 'study.journal').resolve()}"
    if url.startswith(JOURNAL) or url.endswith(".journal"):
        return f"{JOURNAL}{Path(url.removeprefix(JOURNAL)).resolve()}"
    if url.startswith(SQLITE):
        return f"{SQLITE}{Path(url.removeprefix(SQLITE)).resolve()}"
    if is_postgres(url):
        check_password(url)
        return url
    raise no_storage(url)


def is_same_storage(one: str, other: str) -> bool:
    """Whether two URLs of :func:`storage_url` are of one storage. Of PostgreSQL only the names of the databases count:
    machines may know one server by different names."""
    if is_postgres(one) and is_postgres(other):
        one, other = (re.split(r"[?#]", url)[0].rpartition("/")[2] for url in (one, other))
    return one == other


def open_storage(url: str | None, folder: Path | None = None) -> StudyStorage:
    """Open or make a storage.

    Args:
        url: ``journal:///PATH`` (or a path that ends in ``.journal``), ``sqlite:///PATH`` or
            ``postgresql://USER@HOST/DATABASE``; None: a journal in ``folder``, or memory where that is None too.
        folder: of the study.

    Raises:
        ConfigError: another kind of URL, or the extra ``postgres`` is missing.
        StorageFailed: the file is something else.
    """
    from optuna.storages import InMemoryStorage

    url = storage_url(url, folder)
    if not url:
        return StudyStorage(InMemoryStorage(), "", nullcontext)
    if url.startswith(JOURNAL):
        return _journal(Path(url.removeprefix(JOURNAL)))
    return _sqlite(Path(url.removeprefix(SQLITE))) if url.startswith(SQLITE) else _postgres(url)


def is_postgres(url: str) -> bool:
    """Whether a URL is of a PostgreSQL database."""
    return url.startswith(("postgresql://", "postgres://", "postgresql+psycopg://"))


def no_storage(url: str) -> ConfigError:
    """The error for a URL of another kind."""
    kinds = "journal:///PATH, sqlite:///PATH or postgresql://USER@HOST/DATABASE"
    return ConfigError(f"storage = {without_password(url)!r} must be {kinds}")


def _check_file(path: Path, kind: str, begins: bytes) -> None:
    """Refuse what is no file of a storage before anything is made beside it, or written into it.

    Raises:
        StorageFailed: it is a folder, lies in a file, or begins otherwise.
    """
    if path.is_dir():
        inside = path / ("study.journal" if kind == JOURNAL else "study.db")
        raise StorageFailed(f"{_no_study(kind, path)}: it is a folder; give a file in it: --storage {kind}{inside}")
    if file := not_a_folder(path.parent):
        raise StorageFailed(f"{_no_study(kind, path)}: {file} is a file and no folder; {_OTHER_FILE}")
    if not path.exists():
        return
    with path.open("rb") as opened:
        found = opened.read(len(begins))
    # a crash may have left less than that
    if not begins.startswith(found):
        what = "journal" if kind == JOURNAL else "database of SQLite"
        raise StorageFailed(f"{_no_study(kind, path)}: it is no {what}; {_OTHER_FILE}")


def not_a_folder(folder: Path) -> Path | None:
    """What stands in the place of a folder, or of one above it, and is none."""
    return next((each for each in (folder, *folder.parents) if each.exists() and not each.is_dir()), None)


def _no_study(kind: str, path: Path) -> str:
    return f"the storage {kind}{path} holds no study"


def _journal(path: Path) -> StudyStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    _check_file(path, JOURNAL, _JOURNAL_BEGINS)
    path.parent.mkdir(parents=True, exist_ok=True)
    backend = JournalFileBackend(str(path), lock_obj=_write_lock(path))
    try:
        storage = JournalStorage(backend)
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # lines that are none of a journal
        why = f"a line is not readable ({type(error).__name__}: {error})"
        raise StorageFailed(f"{_no_study(JOURNAL, path)}: {why[:300]}; {_OTHER_FILE}") from error
    return StudyStorage(storage, f"{JOURNAL}{path}", lambda: locked(path.with_name(f"{path.name}.flock")))


def _sqlite(path: Path) -> StudyStorage:
    from optuna.storages import RDBStorage

    _check_file(path, SQLITE, _SQLITE_BEGINS)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f"{path.name}.flock")
    url = f"{SQLITE}{path}"
    with locked(lock):  # two processes must not make the tables at once
        storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": _PATIENCE}})
    return StudyStorage(storage, url, lambda: locked(lock))


def _postgres(url: str) -> StudyStorage:
    from optuna.storages import RDBStorage

    _, _, rest = url.partition("://")
    try:
        import psycopg
    except ImportError as error:
        raise ConfigError("a postgresql storage needs the extra: pip install 'recgraph[postgres]'") from error
    with _advisory_lock(f"postgresql://{rest}", psycopg):
        storage = RDBStorage(f"postgresql+psycopg://{rest}", engine_kwargs={"pool_pre_ping": True})
    return StudyStorage(storage, url, lambda: _advisory_lock(f"postgresql://{rest}", psycopg))


@contextmanager
def _advisory_lock(url: str, psycopg: Any) -> Iterator[None]:
    """A lock of the database, which it frees when the connection ends."""
    key = int.from_bytes(hashlib.blake2b(b"recgraph.tuning", digest_size=8).digest(), "big", signed=True)
    with psycopg.connect(url, autocommit=True) as connection:
        while not connection.execute("SELECT pg_try_advisory_lock(%s)", (key,)).fetchone()[0]:
            time.sleep(_POLL)
        yield


def _write_lock(path: Path) -> BaseJournalFileLock:
    """The journal's lock for each write. Optuna's own outlives a killed owner and makes all others wait for 30 s."""
    import fcntl

    from optuna.storages.journal._file import BaseJournalFileLock

    class FileLock(BaseJournalFileLock):
        def __init__(self) -> None:
            self._file: int | None = None

        def acquire(self) -> bool:
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            _end_torn_line(self._file)
            return True

        def release(self) -> None:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    return FileLock()


def _end_torn_line(file: int) -> None:
    """Cut off a last line that a crash of the machine left unfinished: the journal could not be read any more."""
    size = os.fstat(file).st_size
    keep = size
    while keep and os.pread(file, 1, keep - 1) != b"\n":
        keep -= 1
    if keep != size:
        os.ftruncate(file, keep)
