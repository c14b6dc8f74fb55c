"""The records of a board: one JSON file for each configuration and seed, at an address made of both."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from polars.exceptions import PolarsError

from recgraph.evaluate.results import Result, load_users
from recgraph.files import locked, read_object, remove_folder, write_json
from recgraph.leaderboard.plan import TITLES, Job

__all__ = ["Record", "Store", "lacking", "read_json"]

Record = dict[str, Any]
_SEEN = {title: seen for seen, title in TITLES.items()}


def lacking(job: Job, record: Record) -> list[str]:
    """The metrics that a job asks for and that its record, made before they were asked for, lacks."""
    return [metric for metric in job.metrics if any(metric not in scores for scores in record["scores"].values())]


class Store:
    """The records of one data set of a board.

    ``<folder>/<model>-<address>-seed<n>.json`` is a record, ``.failed.json`` the record of a failure. Values of users
    are in Parquet files beside the records, and unfinished trainings in ``.work``; neither belongs in git.

    Args:
        folder: ``<results>/<board>/<dataset>``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def record(self, job: Job) -> Record | None:
        """The record of a job, or None."""
        return read_json(self.folder / f"{job.stem}.json")

    def failure(self, job: Job) -> Record | None:
        """The record of a job's failure when it was last tried, or None."""
        return read_json(self._failed(job))

    def is_done(self, job: Job, data_hash: str, values: bool = False) -> bool:
        """Whether a job has a record of the current data and inputs with all metrics that it asks for.

        Args:
            job: with or without a record.
            data_hash: of the current data.
            values: also require the values of users on this machine, which records from git lack.
        """
        record = self.record(job)
        if record is None or record["data_hash"] != data_hash or record.get("inputs", {}) != job.inputs:
            return False
        if lacking(job, record):
            return False
        needed = [title for title in TITLES.values() if values and title in record["scores"]]
        return all(self.values(job.stem, title, record) is not None for title in needed)

    def save(self, job: Job, record: Record) -> None:
        """Write a record in one step, and remove an earlier failure and the training's files."""
        write_json(record, self.folder / f"{job.stem}.json")
        self._failed(job).unlink(missing_ok=True)
        remove_folder(self.work(job))

    def save_failure(self, job: Job, record: Record, restart: bool = True) -> None:
        """Write the record of a failure.

        Args:
            job: locked by this process, see :meth:`lock`, or by none.
            record: of the failure.
            restart: remove the training's files, so that the next try starts from the beginning; else it resumes.
        """
        write_json(record, self._failed(job))
        if restart:
            remove_folder(self.work(job))

    def users(self, stem: str, seen: str) -> Path:
        """The file of the values of users of a job under a convention of seen items."""
        return self.folder / f"{stem}-{seen}.parquet"

    def values(self, stem: str, title: str, record: Record) -> Result | None:
        """The values of users of one table of a record; None where the file is missing or does not fit the record.

        Args:
            stem: of the record's files, see :attr:`recgraph.leaderboard.plan.Job.stem`.
            title: of the table, one of :data:`recgraph.leaderboard.plan.TITLES`.
            record: the values must give its scores under its protocol.
        """
        path = self.users(stem, _SEEN[title])
        if not path.is_file():
            return None
        try:
            result = load_users(path)
        except (PolarsError, ValueError, OSError):  # an incomplete copy
            return None
        protocol, scores = record["protocols"][title]["protocol_hash"], record["scores"][title]
        return result if result.hash == protocol and result.metrics == scores else None

    def work(self, job: Job) -> Path:
        """The folder of an unfinished training."""
        return self.folder / ".work" / job.stem

    def lock(self, job: Job, wait: bool = True) -> AbstractContextManager[None]:
        """Hold the lock of a job, so that one process works on it at a time; it is released when its owner ends.

        Raises:
            BlockingIOError: another process holds the lock, and ``wait`` is False.
        """
        return locked(self.folder / ".work" / f"{job.stem}.lock", wait)

    def _failed(self, job: Job) -> Path:
        return self.folder / f"{job.stem}.failed.json"


def read_json(path: Path) -> Record | None:
    """Read a JSON file, or None where it does not exist; one that is not whole is an error that names it."""
    try:
        return read_object(path)
    except FileNotFoundError:
        return None
