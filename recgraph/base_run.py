"""What all runs share: the record of what was done, and the folder in which it is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recgraph.data.files import replace_text

__all__ = ["BaseRun", "read_record"]


class BaseRun:
    """A run.

    Attributes:
        record: what was done: configuration, seed, data, cost, the curve, results; plain values.
        folder: where the run is kept, or None.
    """

    def __init__(self, record: dict[str, Any], folder: Path | None = None) -> None:
        self.record, self.folder = record, folder

    @property
    def history(self) -> list[dict[str, Any]]:
        """One row an epoch; empty for closed-form models."""
        rows: list[dict[str, Any]] = self.record["history"]
        return rows

    def write_record(self) -> None:
        """Write ``record.json`` anew, where the run has a folder."""
        if self.folder is not None:
            replace_text(json.dumps(self.record, indent=1), self.folder / "record.json")


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a finished run.

    Raises:
        ValueError: the folder holds none.
    """
    if not (folder / "record.json").is_file():
        unfinished = (folder / "config.json").is_file()
        raise ValueError(f"{folder} is not a finished run" + ("; go on with --resume" if unfinished else ""))
    record: dict[str, Any] = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    return record
