"""The data file that records in a folder belong to: boards of one name would mix theirs in one folder of results."""

from __future__ import annotations

import os
from pathlib import Path

from recgraph.config import ConfigError
from recgraph.data.imprint import load_json, replace_json
from recgraph.data.log_file import is_data_path
from recgraph.leaderboard.board import SheetSpec

__all__ = ["check_origin", "keep_origin"]

_NAME = "data-file.json"


def check_origin(folder: Path, sheet: SheetSpec) -> None:
    """Check that the records in a folder belong to the data file of a sheet.

    A data set of the catalogue always passes. So does a sheet where the earlier file is gone: it was moved or renamed.

    Raises:
        ConfigError: the records belong to another file, which still exists.
    """
    if not is_data_path(sheet.dataset) or not (folder / _NAME).exists():
        return
    other, own = (folder / load_json(folder / _NAME)["file"]).resolve(), Path(sheet.dataset).resolve()
    if other != own and other.exists():
        raise ConfigError(
            f"board {str(sheet.file)!r}: {folder} holds the records of {str(other)!r}, and this board is of "
            f"{str(own)!r}: boards and data files of one name share them; give results=... (--results), or rename one "
            "of the boards' folders"
        )


def keep_origin(folder: Path, sheet: SheetSpec) -> None:
    """Record which data file the records in a folder belong to, after :func:`check_origin`."""
    check_origin(folder, sheet)
    if is_data_path(sheet.dataset):
        folder.mkdir(parents=True, exist_ok=True)
        replace_json({"file": os.path.relpath(Path(sheet.dataset).resolve(), folder.resolve())}, folder / _NAME)
