"""Find a study again: by the folder that ``tune`` was given, or in a storage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from recgraph.tuning.storage import StudyStorage, open_storage

if TYPE_CHECKING:
    from optuna import Study

__all__ = ["find_study"]


@contextmanager
def find_study(place: str, name: str | None = None) -> Iterator[tuple[Study, StudyStorage]]:
    """A study and its storage, which is closed at the end of the block.

    Args:
        place: a study's folder, or a storage as :func:`recgraph.tuning.storage.open_storage` takes it.
        name: of the study; None where the storage holds only one.

    Raises:
        ValueError: not a study's folder, no such study, or several and no name.
        FileNotFoundError: the storage's file is not there.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = Path(place)
    if folder.is_dir():
        url, name = _of_folder(folder, name)
    else:
        url = place
        file = Path(url.partition(":///")[2] or url)
        if not url.startswith("postgres") and not file.is_file():
            raise FileNotFoundError(f"{place!r} is neither a study's folder nor a storage that exists")
    storage = open_storage(url)
    try:
        names = sorted(optuna.get_all_study_names(storage.optuna))
        if name is None and len(names) == 1:
            name = names[0]
        if name not in names:
            wanted = "the storage holds several studies; name one" if name is None else f"there is no study {name!r}"
            raise ValueError(f"{wanted} (--study): {', '.join(names) or 'it holds none'}")
        yield optuna.load_study(study_name=name, storage=storage.optuna), storage
    finally:
        storage.close()


def _of_folder(folder: Path, name: str | None) -> tuple[str, str]:
    """The storage and the name of a folder's study."""
    path = folder / "study.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no study (no study.json); give the folder that `recgraph tune` was given")
    told = json.loads(path.read_text(encoding="utf-8"))
    url = told.get("storage") or str(folder / "study.journal")
    if ":***@" in url:
        raise ValueError(f"the study's storage {url} needs a password; give its URL in place of {folder}")
    return url, name or told["study"]
