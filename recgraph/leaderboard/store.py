"""Where records are kept: one JSON file for each configuration and seed, addressed by what decides its numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polars.exceptions import PolarsError

from recgraph.data.files import replace_text
from recgraph.evaluate.results import Result, load_users
from recgraph.leaderboard.plan import TITLES, Job
from recgraph.workers.lock import locked

__all__ = ["Record", "Store", "read_json"]

Record = dict[str, Any]
_SEEN = {title: seen for seen, title in TITLES.items()}


class Store:
    """The records of one data set of a board.

    ``<folder>/<model>-<address>-seed<n>.json`` is a record, ``.failed.json`` one of a failure; values of users lie
    beside in Parquet files, and ``.work`` holds trainings that are not done: both are not for git.

    Args:
        folder: ``<results>/<board>/<dataset>``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def record(self, job: Job) -> Record | None:
        """The record of a job; None where there is none."""
        return read_json(self.folder / f"{job.stem}.json")

    def read(self, name: str) -> Record:
        """A record by the name of its file."""
        record = read_json(self.folder / name)
        if record is None:
            raise FileNotFoundError(f"there is no record {self.folder / name}")
        return record

    def failure(self, job: Job) -> Record | None:
        """Of a job that failed when it was last tried."""
        return read_json(self._failed(job))

    def is_done(self, job: Job, data_hash: str, values: bool = False) -> bool:
        """Whether a job's record was made with the data that there is now, and has the metrics that the job is to have.

        Args:
            job: with a record or without.
            data_hash: of the data that there is now.
            values: its values of users are to be at hand, too, as those of records from git are not.
        """
        record = self.record(job)
        if record is None or record["data_hash"] != data_hash:
            return False
        if any(metric not in scores for scores in record["scores"].values() for metric in job.metrics):
            return False
        needed = [title for title in TITLES.values() if values and title in record["scores"]]
        return all(self.values(job.stem, title, record) is not None for title in needed)

    def put(self, job: Job, record: Record) -> None:
        """Keep a record, whole or not at all; what failed before and the training's files go."""
        replace_text(json.dumps(record, indent=1) + "\n", self.folder / f"{job.stem}.json")
        self._failed(job).unlink(missing_ok=True)
        self.tidy(job)

    def put_failure(self, job: Job, record: Record, tidy: bool = True) -> None:
        """Keep how a job failed.

        Args:
            job: that is held by this process, see :meth:`alone`, or by none.
            record: of the failure.
            tidy: the training's files go, so that it begins anew when it is tried again; else it goes on.
        """
        replace_text(json.dumps(record, indent=1) + "\n", self._failed(job))
        if tidy:
            self.tidy(job)

    def users(self, job: Job, seen: str) -> Path:
        """The file of the values of users under a convention."""
        return self._users(job.stem, seen)

    def values(self, stem: str, title: str, record: Record) -> Result | None:
        """The values of users behind one table of a record; None where they are not at hand, or another record's.

        Args:
            stem: how the record's files are called.
            title: of the table, one of :data:`recgraph.leaderboard.plan.TITLES`.
            record: that they are to fit.
        """
        path = self._users(stem, _SEEN[title])
        if not path.is_file():
            return None
        try:
            result = load_users(path)
        except (PolarsError, ValueError, OSError):  # cut while it was copied
            return None
        protocol, scores = record["protocols"][title]["protocol_hash"], record["scores"][title]
        return result if result.hash == protocol and result.metrics == scores else None

    def work(self, job: Job) -> Path:
        """The folder of a training that is not done."""
        return self.folder / ".work" / job.stem

    def tidy(self, job: Job) -> None:
        """Remove a training's files."""
        shutil.rmtree(self.work(job), ignore_errors=True)

    @contextmanager
    def alone(self, job: Job, wait: bool = True) -> Iterator[None]:
        """The block in which one process alone works on a job; others wait. The lock ends with its owner.

        Raises:
            BlockingIOError: another process works on it, and ``wait`` is False.
        """
        with locked(self.folder / ".work" / f"{job.stem}.lock", wait):
            yield

    def _users(self, stem: str, seen: str) -> Path:
        return self.folder / f"{stem}-{seen}.parquet"

    def _failed(self, job: Job) -> Path:
        return self.folder / f"{job.stem}.failed.json"


def read_json(path: Path) -> Record | None:
    """What a file of results holds; None where there is no such file.

    Raises:
        ValueError: it was cut, or holds the marks of a merge conflict; names it.
    """
    try:
        found: Record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is not whole ({error}); delete it, and the board's next run makes it again") from None
    return found
