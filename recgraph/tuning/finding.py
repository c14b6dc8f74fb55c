"""Open a study to look at it: nothing is created, locked or written, and no file says what to connect to."""

from __future__ import annotations

import shlex
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from recgraph.bounded.files import file_size, named
from recgraph.bounded.texts import parse_json
from recgraph.data.errors import CorruptFileError
from recgraph.data.imprint import load_json
from recgraph.tuning.passwords import check_password, is_masked, without_password, without_secrets
from recgraph.tuning.storage import JOURNAL, SQLITE, StudyStorage, is_postgres, no_storage

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage

__all__ = ["find_study", "page_name"]

#: of a line of a journal
_MOST_LINE = 16 << 20


@contextmanager
def find_study(place: str, name: str | None = None) -> Iterator[tuple[Study, StudyStorage]]:
    """A study, to be read alone, and its storage, which is closed at the end of the block.

    Args:
        place: a study's folder, or a storage as :func:`recgraph.tuning.storage.open_storage` takes it. What a folder's
            ``study.json`` names is read where it is a file; a database is connected to where ``place`` names it.
        name: of the study; None where the storage holds only one.

    Raises:
        ValueError: not a study's folder, no such study, several and no name, or the folder's study is in a database.
        CorruptFileError: the storage is damaged or holds no studies.
        FileNotFoundError: the storage's file is not there.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = Path(place)
    url, name = _of_folder(folder, name) if folder.is_dir() else (place, name)
    if not is_postgres(url) and not _file_of(url).is_file():
        raise FileNotFoundError(f"{without_password(place)!r} is neither a study's folder nor a storage that exists")
    storage = _view(url)
    try:
        with _explained(url):
            names = optuna.get_all_study_names(storage.optuna)
            if wrong := [each for each in names if not isinstance(each, str)]:
                raise TypeError(f"the name of a study is {wrong[0]!r}, no text")
            names.sort()
        if name is None and len(names) == 1:
            name = names[0]
        if name not in names:
            wanted = "the storage holds several studies; name one" if name is None else f"there is no study {name!r}"
            where = "--study, of a board's entry study_name"
            raise ValueError(f"{wanted} ({where}): {', '.join(names) or 'it holds none'}")
        with _explained(url):
            study = optuna.load_study(study_name=name, storage=storage.optuna)
            study.get_trials(deepcopy=False)
        yield study, storage
    finally:
        storage.close()


def page_name(study: str) -> str:
    """The name of a study's page: a name that stays in its folder."""
    plain = "".join(letter if letter.isalnum() or letter in "-_.@" else "_" for letter in study).lstrip(".")
    return f"{plain[:200] or 'study'}.html"


def _of_folder(folder: Path, name: str | None) -> tuple[str, str]:
    """The storage and the name of a folder's study."""
    path = folder / "study.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no study (no study.json); give the folder that `recgraph tune` was given")
    stored = load_json(path)
    with named(path):
        url, own = stored.get("storage") or str(folder / "study.journal"), stored["study"]
        if not isinstance(url, str) or not isinstance(own, str) or "\0" in url:
            raise ValueError("storage and study must be texts")
    if is_masked(url := without_password(url)):
        raise ValueError(f"the study's storage {url} needs a password; give its URL in place of {folder}")
    if is_postgres(url):
        raise ValueError(
            f"{path} says that the study is in the database {url}; no file says what to connect to: if you know it, "
            f"run recgraph study {shlex.quote(url)} --study {shlex.quote(name or own)}"
        )
    return url, name or own


def _file_of(url: str) -> Path:
    return Path(url.partition(":///")[2] or url)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """What a storage cannot read is an error that names it: Optuna and its database library raise many types."""
    try:
        yield
    except (OSError, MemoryError, CorruptFileError):
        raise
    except Exception as error:
        where = f"{without_password(url)} holds no study that can be read"
        said = without_secrets(f"{type(error).__name__}: {error}", url)
        raise CorruptFileError(f"{where}: {said}"[:1000]) from error


def _view(url: str) -> StudyStorage:
    """Open a storage for reading alone.

    Raises:
        ConfigError: another kind of URL.
        CorruptFileError: it is damaged, or no storage of studies.
    """
    check_password(url)
    with _explained(url):
        if url.startswith(JOURNAL) or url.endswith(".journal"):
            path = _file_of(url).resolve()
            return StudyStorage(_journal(path), f"{JOURNAL}{path}", nullcontext)
        if url.startswith(SQLITE):
            path = _file_of(url).resolve()
            return StudyStorage(_sqlite(path), f"{SQLITE}{path}", nullcontext)
        if is_postgres(url):
            return StudyStorage(_postgres(url), url, nullcontext)
    raise no_storage(url)


def _journal(path: Path) -> BaseStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import BaseJournalBackend

    class Lines(BaseJournalBackend):
        """The records of a journal; a last line that is not whole yet is left out."""

        def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
            with path.open("rb") as file:
                for number, line in enumerate(iter(lambda: file.readline(_MOST_LINE), b"")):
                    if not line.endswith(b"\n"):
                        if len(line) == _MOST_LINE:
                            raise CorruptFileError("the line is too long", path=path, row=number)
                        return
                    if number >= log_number_from:
                        yield parse_json(line, path, number + 1)

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            raise PermissionError(f"{path} was opened to be read")

    file_size(path)
    return JournalStorage(Lines())


def _sqlite(path: Path) -> BaseStorage:
    from optuna.storages import RDBStorage

    file_size(path)

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, check_same_thread=False)
        connection.execute("PRAGMA query_only = ON")
        # functions in views and triggers that someone else wrote are not called
        connection.execute("PRAGMA trusted_schema = OFF")
        return connection

    return RDBStorage(f"{SQLITE}{path}", engine_kwargs={"creator": connect}, skip_table_creation=True)


def _postgres(url: str) -> BaseStorage:
    from optuna.storages import RDBStorage

    options = {"options": "-c default_transaction_read_only=on"}
    return RDBStorage(
        f"postgresql+psycopg://{url.partition('://')[2]}",
        engine_kwargs={"pool_pre_ping": True, "connect_args": options},
        skip_table_creation=True,
    )
