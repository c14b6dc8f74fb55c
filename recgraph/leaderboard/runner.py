"""``run``: do the jobs of a board that have no record yet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from recgraph import registry
from recgraph.leaderboard.board import Board, EntrySpec, SheetSpec, load_board
from recgraph.leaderboard.plan import Job, check_entries, check_study, jobs_of, load_data_hash
from recgraph.leaderboard.sheet import open_sheet, update_comparisons
from recgraph.leaderboard.store import Store
from recgraph.leaderboard.worker import failure
from recgraph.workers.pool import Outcome, Pool, Task

__all__ = ["Summary", "run"]


@dataclass(frozen=True)
class Open:
    """A job that is to be done.

    Attributes:
        name: for messages.
        data_hash: of the data that there is now.
        budget: the most seconds that it may take, or None.
        values: it is done only where its values of users are at hand.
    """

    name: str
    job: Job
    store: Store
    data_hash: str
    budget: float | None = None
    values: bool = False

    def task(self, device: str | None) -> Task:
        """The same for a worker process, see :mod:`recgraph.leaderboard.worker`."""
        orders = {
            "job": self.job.to_dict(),
            "folder": str(self.store.folder.resolve()),
            "data_hash": self.data_hash,
            "values": self.values,
            "device": device,
        }
        return Task(self.name, orders, self.log, self.budget)

    @property
    def log(self) -> Path:
        return self.store.work(self.job) / "log.txt"


@dataclass
class Summary:
    """The names of a board's jobs by what became of them; a name is ``dataset / entry / seed``.

    Attributes:
        kept: had been done before.
        made: done now.
        failed: with an error, which the page shows.
        left: not begun or stopped, as the time was over; the same command goes on.
        missing: data sets or studies that are not at hand, with the reason.
    """

    kept: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether every job of the board is done."""
        return not (self.failed or self.left or self.missing)

    def __str__(self) -> str:
        counts = {name: len(value) for name, value in vars(self).items() if value}
        return ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing to do"


def run(
    board: str | Path | Board,
    *,
    results: str | Path | None = None,
    workers: int = 1,
    only: Sequence[str] = (),
    budget: float | None = None,
    values: bool = False,
    device: str | None = None,
    say: Callable[[str], None] | None = None,
) -> Summary:
    """Do every job of a board whose record is not there, each in a process of its own.

    It may be killed at any time and called again: what is done is not done twice, and a training that was cut short
    goes on from its last checkpoint. Jobs that failed are tried again. At the end entries are compared.

    Args:
        board: a name, a folder, a TOML file, or a board.
        results: where records are kept; by default ``results`` beside the board's folder.
        workers: processes at a time.
        only: names of models or of entries; all others wait.
        budget: hours after which no job is begun and those that run are stopped (they go on the next time).
        values: do also again what has a record but no values of users on this machine, as records from git, since
            entries are compared over users.
        device: where to compute, e.g. ``"cpu"``; None: CUDA where there is one, else the CPU.
        say: called with a line for each event; by default it prints them on the error stream of a terminal.

    Raises:
        ValueError: there is no such board, it names what does not exist, or one of ``only`` matches nothing.
        KeyboardInterrupt: all that ran has been saved.
    """
    found = board if isinstance(board, Board) else load_board(board)
    if workers < 1:
        raise ValueError(f"workers = {workers} must be at least 1")
    _check_only(found, only)
    folder = found.results if results is None else Path(results)
    say = say or (_say if sys.stderr.isatty() else lambda _: None)
    until = None if budget is None else time.monotonic() + 3600 * budget
    summary = Summary()
    todo = [one for sheet in found.sheets for one in _open_jobs(found, sheet, folder, tuple(only), values, summary)]
    summary.left = [one.name for one in todo]
    say(f"board {found.name}: {len(todo)} to do, {len(summary.kept)} done before; records in {folder / found.name}")
    by_name = {one.name: one for one in todo}

    def ended(task: Task, outcome: Outcome) -> bool:
        one = by_name[task.name]
        status = _record_outcome(one, outcome)
        if status != "stopped":
            summary.left.remove(one.name)
            (summary.made if status == "done" else summary.failed).append(one.name)
            record = one.store.failure(one.job) if status == "failed" else None
            why = f": {record['error']}: {record['message']}" if record else ""
            say(f"[{len(todo) - len(summary.left)}/{len(todo)}] {status}: {one.name}{why}")
        return False

    # one thread, however many workers: the number of threads may alter last digits
    pool = Pool("recgraph.leaderboard.worker", workers, threads=1, deadline=until)
    pool.run([one.task(device) for one in todo], ended)
    for sheet in found.sheets:
        if not update_comparisons(open_sheet(found, sheet, folder)).is_compared:
            say(f"{sheet.dataset}: not compared, as values of users of some records are not here; --values makes them")
    return summary


def _open_jobs(
    board: Board, sheet: SheetSpec, folder: Path, only: tuple[str, ...], values: bool, summary: Summary
) -> list[Open]:
    """The jobs to do on one data set; those that are done or cannot be done are listed in the summary."""
    store = Store(board.folder_of(sheet, folder))
    entries = [entry for entry in sheet.models if not only or _matches(entry, only)]
    if not entries:
        return []
    planned, there = [], []
    for entry in entries:
        try:
            planned += [(entry, job) for job in jobs_of(sheet, entry)]
            there.append(entry)
        except FileNotFoundError as error:
            summary.missing.append(f"{sheet.dataset} / {entry.name}: {error}")
    check_entries(sheet, planned)
    try:
        data_hash = load_data_hash(sheet)
    except OSError as error:
        summary.missing.append(f"{sheet.dataset}: {error}")
        return []
    for entry in there:
        check_study(sheet, entry, data_hash)
    # the first seed of every model before the second of any: a board that is cut short still compares all of them
    planned.sort(key=lambda pair: _place(sheet, *pair))
    budget = None if sheet.budget_hours is None else 3600 * sheet.budget_hours
    todo = []
    for entry, job in planned:
        name = f"{sheet.dataset} / {entry.name} / seed {job.seed}"
        if store.is_done(job, data_hash, values):
            summary.kept.append(name)
        else:
            todo.append(Open(name, job, store, data_hash, budget, values))
    return todo


def _record_outcome(one: Open, outcome: Outcome) -> Literal["done", "failed", "stopped"]:
    """How a job ended with its worker; a failure that the worker did not record itself is recorded."""
    if outcome.status == "done":
        return "done"
    if outcome.status == "interrupted":
        return "stopped"
    if outcome.status == "late":
        assert one.budget is not None
        message = f"not done after {one.budget / 3600:.3g} hours, the board's budget_hours of one training"
        return _record_failure(one, "BudgetExceeded", message)
    if outcome.status == "failed" and one.store.failure(one.job) is not None:
        return "failed"
    error = "WorkerKilled" if outcome.status == "killed" else "WorkerFailed"
    log = one.log.read_text(encoding="utf-8", errors="replace")[-4000:] if one.log.exists() else ""
    return _record_failure(one, error, outcome.message, log)


def _record_failure(one: Open, error: str, message: str, trace: str = "") -> Literal["done", "failed", "stopped"]:
    """Record that a job failed, unless another runner has done it or works on it."""
    store, job = one.store, one.job
    try:
        with store.alone(job, wait=False):
            if store.is_done(job, one.data_hash, one.values):
                return "done"
            # one that was killed goes on from its last checkpoint
            store.put_failure(job, failure(job, error, message, trace), tidy=error != "WorkerKilled")
    except BlockingIOError:
        return "stopped"
    return "failed"


def _place(sheet: SheetSpec, entry: EntrySpec, job: Job) -> int:
    return (entry.seeds or sheet.seeds).index(job.seed)


def _check_only(board: Board, only: Sequence[str]) -> None:
    """Each of them is a model or an entry of some sheet, whether its data is at hand or not."""
    entries = [entry for sheet in board.sheets for entry in sheet.models]
    for name in only:
        if not any(_matches(entry, (name,)) for entry in entries):
            names = ", ".join(dict.fromkeys(entry.name for entry in entries))
            raise ValueError(f"only = {name} names no model of board {board.name!r}; there are {names}")


def _matches(entry: EntrySpec, only: tuple[str, ...]) -> bool:
    wanted = {registry.key(name) for name in only}
    return bool({registry.key(entry.model), registry.key(entry.name)} & wanted)


def _say(message: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {message}", file=sys.stderr, flush=True)
