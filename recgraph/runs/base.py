"""What runs of both tasks have: a record, and a folder or None."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from recgraph.evaluate.node_results import NodeResults
from recgraph.evaluate.results import Results
from recgraph.ranks import first_does, is_first
from recgraph.runs.record import RunRecord
from recgraph.runs.summary import flat_results, run_html, run_text
from recgraph.train.trackers import keep_in_trackers, tell_trackers

__all__ = ["BaseRun"]

_log = logging.getLogger(__name__)


class BaseRun:
    """What runs of both tasks have: a record, and a folder or None."""

    def __init__(self, record: RunRecord, folder: Path | None = None) -> None:
        self.record, self.folder = record, folder

    @property
    def history(self) -> list[dict[str, Any]]:
        """One row an epoch; empty for closed-form models."""
        return self.record.history

    def save(self, folder: str | Path) -> None:
        """Write a bundle; of the processes of one training the first does, and the others do not wait for it."""
        raise TypeError(f"{type(self).__name__} must define save(folder)")

    def keep(self) -> None:
        """Write the bundle and the record into the run's folder, where it has one.

        Of the processes that a launcher has started for one training the first writes; the others wait until all is
        written, and raise what it raises.
        """
        if self.folder is not None:
            first_does(self._keep)

    def _keep(self) -> None:
        """What :meth:`keep` writes, by one process."""
        assert self.folder is not None
        self.save(self.folder / "bundle")
        self.write_record()
        _log.info("run saved in %s", self.folder)
        keep_in_trackers(self.record.tracking or (), self.folder)

    def write_record(self) -> None:
        """Write ``record.json`` again, where the run has a folder; of several processes the first does."""
        if self.folder is not None and is_first():
            self.record.write(self.folder)

    def __repr__(self) -> str:
        return run_text(self.record, self.folder)

    def _repr_html_(self) -> str:
        return run_html(self.record, self.folder)

    def _add_results(self, name: str, results: Results | NodeResults) -> None:
        self.record.results = {**self.record.results, name: results.to_dict()}
        self.write_record()
        if self.record.tracking and is_first():
            tell_trackers(self.record.tracking, flat_results(name, self.record.results[name]))
