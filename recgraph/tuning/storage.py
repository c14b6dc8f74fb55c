"""Optuna's storages by URL: a journal file, SQLite or PostgreSQL, each with locks that end with
their owner.
"""

from __future__ import annotations

import hashlib
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recgraph.config import ConfigError
from recgraph.files import locked, read_object

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage, RDBStorage, RetryHeartbeatStaleTrialCallback

JOURNAL, SQLITE = "journal:///", "sqlite:///"
_POSTGRES = ("postgresql://", "postgres://", "postgresql+psycopg://")
#: seconds between a worker's heartbeats, and without one until its trial is failed and queued again
INTERVAL, GRACE = 15, 60
#: how often the same parameters are tried again after a worker died with them
RETRIES = 3
#: seconds that SQLite waits for another writer
_PATIENCE = 60
_PASSWORD_OF_USER = re.compile(r"(\w+://[^/?#\s:]*:).*@")
_PASSWORD_IN_QUERY = re.compile(r"(password=)[^&\s]*", re.IGNORECASE)


class StorageFailed(RuntimeError):
    """The database or the file of a study could not be read or written; the message says which, and
    what went wrong.
    """


def without_password(text: str) -> str:
    """A URL, or a text with one in it, as it may be shown."""
    return _PASSWORD_IN_QUERY.sub(r"\1***", _PASSWORD_OF_USER.sub(r"\1***@", text))


def retry(most: int | None) -> RetryHeartbeatStaleTrialCallback:
    """Queues the parameters of a trial again, with what it has reported, as often as ``most``."""
    from optuna.exceptions import ExperimentalWarning
    from optuna.storages import RetryHeartbeatStaleTrialCallback

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return RetryHeartbeatStaleTrialCallback(max_retry=most, inherit_intermediate_values=True)


@dataclass(frozen=True)
class StudyStorage:
    """An Optuna storage, the URL that opens it again (empty for memory), and locks.

    A worker takes a trial under the lock, so that a study ends with its exact number of trials. The
    operating system or the database frees the lock of a process that is killed.
    """

    optuna: BaseStorage
    url: str

    def exclusive(self, what: str = "trials") -> AbstractContextManager[None]:
        """The block in which one process alone does something to the studies of the storage."""
        if not self.url:
            return nullcontext()
        if self.url.startswith(_POSTGRES):
            return _advisory_lock(self.url, what)
        path = _file_of(self.url)
        return locked(path.with_name(f"{path.name}.{what}.lock"))

    @property
    def dashboard(self) -> str:
        """The argument for optuna-dashboard: a journal by its path, a database with its driver, no
        password.
        """
        return re.sub(
            "^postgres(ql)?:",
            "postgresql+psycopg:",
            without_password(self.url.removeprefix(JOURNAL)),
        )

    def close(self) -> None:
        """Close the connections."""
        from optuna.storages import RDBStorage

        self.optuna.remove_session()
        if isinstance(self.optuna, RDBStorage):
            self.optuna.engine.dispose()


def open_storage(url: str | None, folder: Path | None = None) -> StudyStorage:
    """Open or make a storage.

    Args:
        url: ``journal:///PATH`` (or a path that ends in ``.journal``), ``sqlite:///PATH`` or
            ``postgresql://USER@HOST/DATABASE``; None: a journal in ``folder``, or memory where that
            is None too.
        folder: of the study.

    Raises:
        ConfigError: another kind of URL, or the extra ``postgres`` is missing.
        StorageFailed: the file is something else, or the database cannot be reached.
    """
    from optuna.exceptions import ExperimentalWarning
    from optuna.storages import InMemoryStorage

    if url is None:
        if folder is None:
            return StudyStorage(InMemoryStorage(), "")
        url = f"{JOURNAL}{folder / 'study.journal'}"
    with naming_storage(url), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # of heartbeats
        if url.startswith(JOURNAL) or url.endswith(".journal"):
            return _open_journal(_file_of(url).resolve())
        if url.startswith(SQLITE):
            return _open_sqlite(_file_of(url).resolve())
        if url.startswith(_POSTGRES):
            return _open_postgres(url)
    kinds = "journal:///PATH, sqlite:///PATH or postgresql://USER@HOST/DATABASE"
    raise ConfigError(f"storage = {without_password(url)!r} must be {kinds}")


def _open_journal(path: Path) -> StudyStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    url = f"{JOURNAL}{path}"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return StudyStorage(JournalStorage(JournalFileBackend(str(path))), url)
    except (ValueError, LookupError, TypeError) as error:  # lines that are none of a journal
        raise _failed(url, error) from None


def _open_sqlite(path: Path) -> StudyStorage:
    url = f"{SQLITE}{path}"
    # two processes must not make the tables at once
    with locked(path.with_name(f"{path.name}.trials.lock")):
        storage = _database(url, connect_args={"timeout": _PATIENCE})
    return StudyStorage(storage, url)


def _open_postgres(url: str) -> StudyStorage:
    with _advisory_lock(url, "trials"):
        storage = _database(f"postgresql+psycopg://{url.partition('://')[2]}", pool_pre_ping=True)
    return StudyStorage(storage, url)


def _database(url: str, **engine: Any) -> RDBStorage:
    from optuna.storages import RDBStorage

    return RDBStorage(
        url,
        engine_kwargs=engine,
        heartbeat_interval=INTERVAL,
        grace_period=GRACE,
        heartbeat_stale_trial_callback=retry(RETRIES),
    )


@contextmanager
def naming_storage(url: str) -> Iterator[None]:
    """What a database raises in the block is an error that names the storage.

    Raises:
        StorageFailed: it could not be read or written.
    """
    import sqlite3

    from optuna.exceptions import StorageInternalError

    try:
        yield
    except Exception as error:
        package = type(error).__module__.partition(".")[0]
        is_driver = package in ("sqlalchemy", "psycopg")
        if is_driver or isinstance(error, StorageInternalError | sqlite3.Error):
            raise _failed(url, error) from None
        raise


def _failed(url: str, error: Exception) -> StorageFailed:
    reason = without_password(f"{error.__cause__ or error}".partition("\n")[0])
    return StorageFailed(
        f"the storage {without_password(url)} failed: {reason}; see that it can be reached and is "
        "one of Optuna's, then give the same command again"
    )


def _file_of(url: str) -> Path:
    return Path(url.removeprefix(JOURNAL).removeprefix(SQLITE))


@contextmanager
def _advisory_lock(url: str, what: str) -> Iterator[None]:
    """A lock of the database, which it frees when the connection ends."""
    try:
        import psycopg
    except ImportError as error:
        raise ConfigError(
            "a postgresql storage needs the extra: pip install 'recgraph[postgres]'"
        ) from error
    name = f"recgraph.tuning {what}".encode()
    key = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big", signed=True)
    with psycopg.connect(f"postgresql://{url.partition('://')[2]}", autocommit=True) as connection:
        while not connection.execute("SELECT pg_try_advisory_lock(%s)", (key,)).fetchone()[0]:  # type: ignore[index]
            time.sleep(0.01)
        yield


@contextmanager
def find_study(place: str, name: str | None = None) -> Iterator[tuple[Study, StudyStorage]]:
    """A study to look at, and its storage, which is closed at the end of the block.

    Args:
        place: a study's folder, or a storage as :func:`open_storage` takes it.
        name: of the study; None where the storage holds only one.

    Raises:
        FileNotFoundError: there is no such folder or file, or the folder holds no study.
        ValueError: there is no such study in the storage, or several and no name.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = place
    if Path(place).is_dir():
        known = read_object(Path(place) / "study.json")
        url = known["storage"]
        name = name or known["study"]
    if not url.startswith(_POSTGRES) and not _file_of(url).is_file():
        raise FileNotFoundError(
            f"{without_password(place)!r} is neither a study's folder nor a storage that exists"
        )
    storage = open_storage(url)
    try:
        with naming_storage(url):
            names = sorted(optuna.get_all_study_names(storage.optuna))
        if name is None and len(names) == 1:
            name = names[0]
        if name not in names:
            raise ValueError(
                f"study = {name!r} is not in the storage, which holds {', '.join(names)}"
            )
        yield optuna.load_study(study_name=name, storage=storage.optuna), storage
    finally:
        storage.close()
