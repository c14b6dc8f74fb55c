"""The records of a board: one JSON file for each configuration and seed, at an address made of both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from polars.exceptions import PolarsError

from recgraph.data.errors import CorruptFileError
from recgraph.data.files import remove_folder
from recgraph.data.imprint import load_json, replace_json
from recgraph.evaluate.results import Result, load_users
from recgraph.leaderboard.job import TITLES, Job
from recgraph.workers.lock import locked

__all__ = ["Record", "Store", "lacking", "read_json"]

Record = dict[str, Any]
Field = tuple[str, ...]
#: what is read of every record, and of that of a failure: the keys that lead to it
_FIELDS: tuple[Field, ...] = (
    *(
        (name,)
        for name in ("data_hash", "scores", "protocols", "data", "curve", "peak_memory_mb", "n_parameters", "at")
    ),
    *(("training", name) for name in ("seconds", "cpu_seconds", "epochs", "best_epoch", "selected_by")),
    *(("inference", name) for name in ("seconds", "cpu_seconds")),
    *(("provenance", name) for name in ("python", "packages", "machine", "threads", "cuda", "commit")),
)
_OF_FAILURE: tuple[Field, ...] = (("error",), ("message",), ("at",))
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
        """The record of a job, or None.

        Raises:
            ValueError: it is not whole, or lacks a field that is read; names the file and the field.
        """
        path = self.folder / f"{job.stem}.json"
        record = _whole(read_json(path), _FIELDS, path)
        titles = () if record is None else record["scores"]
        return _whole(record, [("protocols", t, name) for t in titles for name in ("protocol", "protocol_hash")], path)

    def placed(self, job: Job) -> Job:
        """The job at the address that it has a record or a failure at, its own before that of earlier versions."""
        before = job.before
        if before is None or self._has_ended(job) or not self._has_ended(before):
            return job
        return before

    def adopt(self, job: Job) -> None:
        """Move what lies at the address that earlier versions gave a job to its own, unless a process works on it.

        What the job has at its own address stays. The record is moved last: until then all is found as it was.
        """
        before = job.before
        if before is None or not (self._has_ended(before) or self.work(before).exists()):
            return
        with ExitStack() as locks:
            try:
                for each in (before, job):
                    locks.enter_context(self.lock(each, wait=False))
            except BlockingIOError:
                return
            pairs = [(self.users(before, seen), self.users(job, seen)) for seen in TITLES]
            pairs += [(self._failed(before), self._failed(job)), (self.work(before), self.work(job))]
            for there, here in pairs:
                if there.exists() and not here.exists():
                    there.rename(here)
            record = self.record(before)
            if record is not None and self.record(job) is None:
                replace_json({**record, "identity": job.identity}, self.folder / f"{job.stem}.json")
                (self.folder / f"{before.stem}.json").unlink()

    def _has_ended(self, job: Job) -> bool:
        return (self.folder / f"{job.stem}.json").exists() or self._failed(job).exists()

    def read(self, name: str) -> Record:
        """Read a record by its file name.

        Raises:
            FileNotFoundError: there is no such record.
        """
        record = read_json(self.folder / name)
        if record is None:
            raise FileNotFoundError(f"there is no record {self.folder / name}")
        return record

    def failure(self, job: Job) -> Record | None:
        """The record of a job's failure when it was last tried, or None; errors are those of :meth:`record`."""
        path = self._failed(job)
        return _whole(read_json(path), _OF_FAILURE, path)

    def failure_written(self, job: Job) -> int | None:
        """When the record of a job's failure was written, in ns; None where there is none."""
        try:
            return self._failed(job).stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def is_done(self, job: Job, data_hash: str, values: bool = False) -> bool:
        """Whether a job has a record of the current data and inputs with all metrics that it asks for.

        Args:
            job: with or without a record.
            data_hash: of the current data.
            values: also require the values of users on this machine, which records from git lack.
        """
        record = self.record(job)
        if record is None or record["data_hash"] != data_hash:
            return False
        if "inputs" in record and record["inputs"] != job.inputs:  # earlier versions did not write them
            return False
        if lacking(job, record):
            return False
        needed = [title for title in TITLES.values() if values and title in record["scores"]]
        return all(self.values(job.stem, title, record) is not None for title in needed)

    def save(self, job: Job, record: Record) -> None:
        """Write a record in one step, and remove an earlier failure and the training's files."""
        replace_json(record, self.folder / f"{job.stem}.json")
        self._failed(job).unlink(missing_ok=True)
        self.remove_work(job)

    def save_failure(self, job: Job, record: Record, restart: bool = True) -> None:
        """Write the record of a failure.

        Args:
            job: locked by this process, see :meth:`lock`, or by none.
            record: of the failure.
            restart: remove the training's files, so that the next try starts from the beginning; else it resumes.
        """
        replace_json(record, self._failed(job))
        if restart:
            self.remove_work(job)

    def users(self, job: Job, seen: str) -> Path:
        """The file of the values of users under a convention of seen items."""
        return self._users(job.stem, seen)

    def values(self, stem: str, title: str, record: Record) -> Result | None:
        """The values of users of one table of a record; None where the file is missing or does not fit the record.

        Args:
            stem: of the record's files, see :attr:`recgraph.leaderboard.job.Job.stem`.
            title: of the table, one of :data:`recgraph.leaderboard.job.TITLES`.
            record: the values must give its scores under its protocol.
        """
        path = self._users(stem, _SEEN[title])
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

    def remove_work(self, job: Job) -> None:
        """Remove a training's files."""
        remove_folder(self.work(job))

    @contextmanager
    def lock(self, job: Job, wait: bool = True) -> Iterator[None]:
        """Hold the lock of a job, so that one process works on it at a time; it is released when its owner ends.

        Raises:
            BlockingIOError: another process holds the lock, and ``wait`` is False.
        """
        with locked(self.folder / ".work" / f"{job.stem}.lock", wait):
            yield

    def _users(self, stem: str, seen: str) -> Path:
        return self.folder / f"{stem}-{seen}.parquet"

    def _failed(self, job: Job) -> Path:
        return self.folder / f"{job.stem}.failed.json"


def read_json(path: Path) -> Record | None:
    """Read a JSON file; None where it does not exist.

    Raises:
        ValueError: the file is incomplete or has merge-conflict markers; names it.
    """
    try:
        return load_json(path)
    except FileNotFoundError:
        return None
    except CorruptFileError as error:
        what = f"{error}".removeprefix(f"{path}: ")
        raise ValueError(f"{path} is not whole ({what}); delete it, and the board's next run makes it again") from None


def _whole(record: Record | None, fields: Iterable[Field], path: Path) -> Record | None:
    """The record itself, if it has some fields."""
    for field in fields if record is not None else ():
        found: Any = record
        for key in field:
            if not isinstance(found, dict) or key not in found:
                raise ValueError(
                    f"{path} lacks the field {'.'.join(field)!r}, which every such record has; restore the file, or "
                    "delete it, and the board's next run makes it again"
                )
            found = found[key]
    return record
