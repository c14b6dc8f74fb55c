"""The data file that records in a folder belong to: boards of one name would mix theirs in one folder of results."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from recgraph.config import ConfigError
from recgraph.data.imprint import load_json, replace_json
from recgraph.data.log_file import is_data_path
from recgraph.leaderboard.board import SheetSpec

__all__ = ["check_origin", "keep_origin", "kept_data_hash"]

_NAME = "data-file.json"


def check_origin(folder: Path, sheet: SheetSpec) -> None:
    """Check that the records in a folder belong to the data file of a sheet.

    A data set of the catalogue always passes. So does a sheet where the earlier file is gone: it was moved or renamed.

    Raises:
        ConfigError: the records belong to another file, which still exists.
    """
    kept = _kept(folder)
    if not is_data_path(sheet.dataset) or not kept:
        return
    other, own = (folder / kept["file"]).resolve(), Path(sheet.dataset).resolve()
    if other != own and other.exists():
        raise ConfigError(
            f"board {str(sheet.file)!r}: {folder} holds the records of {str(other)!r}, and this board is of "
            f"{str(own)!r}: boards and data files of one name share them; give results=... (--results), or rename one "
            "of the boards' folders"
        )


def keep_origin(folder: Path, sheet: SheetSpec, data_hash: str) -> None:
    """Record which data file the records in a folder belong to, after :func:`check_origin`, and what it holds now.

    Args:
        data_hash: of the sheet's data, see :class:`recgraph.leaderboard.plan.DataHashes`.
    """
    check_origin(folder, sheet)
    if not is_data_path(sheet.dataset):
        return
    folder.mkdir(parents=True, exist_ok=True)
    hashes = {**_kept(folder).get("data_hashes", {}), sheet.name: data_hash}
    file = os.path.relpath(Path(sheet.dataset).resolve(), folder.resolve())
    replace_json({"file": file, "data_hashes": hashes}, folder / _NAME)


def kept_data_hash(folder: Path, sheet: SheetSpec) -> str | None:
    """The hash of the data of a sheet's file when its board was run last; None: of a data set, or it was not run."""
    found: str | None = _kept(folder).get("data_hashes", {}).get(sheet.name)
    return found


def _kept(folder: Path) -> dict[str, Any]:
    return load_json(folder / _NAME) if (folder / _NAME).exists() else {}
