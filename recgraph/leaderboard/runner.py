"""``run``: run the jobs of a board that have no record yet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from recgraph import registry
from recgraph.arguments import checked
from recgraph.data.catalog.cards import data_name
from recgraph.evaluate.metrics.names import DEFAULT_METRICS, metric_of, modules_of
from recgraph.evaluate.results import ProtocolMismatch
from recgraph.launcher import refuse_launched
from recgraph.leaderboard.adopting import adopt
from recgraph.leaderboard.board import Board, EntrySpec, SheetSpec, is_of_nodes, load_board
from recgraph.leaderboard.job import Job
from recgraph.leaderboard.origin import keep_origin
from recgraph.leaderboard.plan import check_entries, check_study, jobs_of, load_data_hashes
from recgraph.leaderboard.repeats import named
from recgraph.leaderboard.sheet import open_sheet, update_comparisons
from recgraph.leaderboard.store import Store
from recgraph.leaderboard.worker import failure_record
from recgraph.parallel import Engine
from recgraph.texts import tell
from recgraph.train.config import pick_device
from recgraph.workers.pool import Outcome, Task
from recgraph.workers.ray_pool import pool_on, workers_on

__all__ = ["Summary", "run"]


@dataclass(frozen=True)
class PendingJob:
    """A job of a board, to be run unless it has a record of the current data.

    Attributes:
        name: for messages.
        data_hash: of the current data.
        budget: maximum duration in seconds, or None.
        values: whether its values of users are required, too, see :meth:`recgraph.leaderboard.store.Store.is_done`.
        folds: the hash of the split of each fold, where the board has folds.
    """

    name: str
    job: Job
    store: Store
    data_hash: str
    budget: float | None = None
    values: bool = False
    folds: tuple[str, ...] = ()

    def task(self, device: str | None) -> Task:
        """The task for a worker process, see :mod:`recgraph.leaderboard.worker`."""
        orders = {
            "job": self.job.to_dict(),
            "folder": str(self.store.folder.resolve()),
            "data_hash": self.data_hash,
            "values": self.values,
            "device": device,
            "folds": self.folds,
        }
        return Task(self.name, orders, self.log, self.budget)

    def is_free(self) -> bool:
        """Whether no process works on it."""
        try:
            with self.store.lock(self.job, wait=False):
                return True
        except BlockingIOError:
            return False

    def is_done(self) -> bool:
        """Whether it has a record by now."""
        return self.store.is_done(self.job, self.data_hash, self.values)

    def with_metrics_of(self, job: Job) -> PendingJob:
        """The job with the metrics that another sheet asks of it, too: one record serves both sheets."""
        metrics, modules = (*self.job.metrics, *job.metrics), (*self.job.modules, *job.modules)
        own = replace(self.job, metrics=tuple(dict.fromkeys(metrics)), modules=tuple(dict.fromkeys(modules)))
        return replace(self, job=own)

    def with_metrics_of_record(self) -> PendingJob:
        """The job with the metrics that its record has, which another file of the same data may have asked for."""
        record = None if is_of_nodes(self.job.dataset) else self.store.record(self.job)
        scores = [] if record is None else [name for table in record["scores"].values() for name in table]
        more = tuple(name for name in dict.fromkeys(scores) if _can_be_asked(name))
        return self.with_metrics_of(replace(self.job, metrics=more, modules=modules_of(more)))

    @property
    def log(self) -> Path:
        """Its log file, which no other job writes to: it identifies the job."""
        return self.store.work(self.job) / "log.txt"


@dataclass
class Summary:
    """The names of a board's jobs by outcome.

    A name is ``dataset / entry / seed``, with the fold before the seed where there are folds. Where several files of
    the board have one data set, the name of the sheet (the file's, without ``.toml``) follows that of the data set in
    parentheses.

    Attributes:
        kept: done before this run, or beside it by another run of the board.
        made: done in this run.
        failed: with an error, which the page shows.
        left: not started, or stopped at the end of the time budget; the next run resumes them.
        missing: data sets or studies that are not available, with the reason.
        reasons: name -> why it failed.
        mixed: data sets whose records have different protocols and are not compared, with what differs.
    """

    kept: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    mixed: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether every job of the board is done, and all are comparable."""
        return not (self.failed or self.left or self.missing or self.mixed)

    def __str__(self) -> str:
        counts = {name: len(value) for name, value in vars(self).items() if value and name not in ("reasons", "mixed")}
        text = ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing to do"
        failed = [f"failed: {name}: {why}" for name, why in self.reasons.items()]
        return "\n".join([text, *failed, *(f"not compared: {name}" for name in self.mixed)])


@checked
def run(
    board: str | Path | Board,
    *,
    results: str | Path | None = None,
    workers: int | None = None,
    only: Sequence[str] = (),
    budget: float | None = None,
    values: bool = False,
    device: str | None = None,
    engine: Engine | None = None,
    say: Callable[[str], None] | None = None,
) -> Summary:
    """Run every job of a board that has no record, each in its own process, and compare the entries.

    A run may be killed at any time and started again: finished jobs are kept, and an interrupted training resumes from
    its last checkpoint. Jobs that failed are tried again. Several runs of one board at a time, on machines that share
    the folder of records, divide its jobs: each takes those that no other works on, and at the end waits for the rest.

    Args:
        board: a name, a folder, a TOML file, or a board.
        results: the folder of records; by default ``results`` beside the board's folder.
        workers: number of processes at a time; by default 1, or as many as an engine has.
        only: names of models or entries to run; by default all.
        budget: hours after which no job is started and running jobs are stopped (the next run resumes them).
        values: also repeat jobs with a record but without values of users on this machine (as those from git), which
            the comparison of entries needs.
        device: e.g. ``"cpu"``; None: CUDA where available, else the CPU.
        engine: where the processes run, e.g. ``Engine(name="ray")`` of :mod:`recgraph.parallel`; the folder of
            records and the data are then shared by its machines. None: this machine.
        say: called with a line for each event; by default lines are printed to standard error if it is a terminal.

    Raises:
        ValueError: there is no such board, it names what does not exist, one of ``only`` matches nothing, the device is
            not there, the budget is below 0, or a launcher has started several processes.
        KeyboardInterrupt: running jobs have been saved.
    """
    refuse_launched("leaderboard.run", "start it without a launcher; workers=N starts processes of its own")
    found = board if isinstance(board, Board) else load_board(board)
    size = workers_on(engine, workers)
    _check_only(found, only)
    if budget is not None and not budget >= 0:
        raise ValueError(f"budget = {budget} must be a number of hours, 0 or more; leave it out for no limit")
    if device is not None and engine is None:  # a job that fails begins anew: none may fail for a word that is wrong
        pick_device(device)
    folder = found.results if results is None else Path(results)
    say = say or (_say if sys.stderr.isatty() else lambda _: None)
    until = None if budget is None else time.monotonic() + 3600 * budget
    summary = Summary()
    planned: dict[Path, PendingJob] = {}
    for sheet in found.sheets:
        adopt(found, sheet, folder)
        for each in _planned_jobs(found, sheet, folder, tuple(only), values, summary):
            planned[each.log] = planned.setdefault(each.log, each).with_metrics_of(each.job)
    todo = {log: each.with_metrics_of_record() for log, each in planned.items() if not each.is_done()}
    summary.kept = [each.name for log, each in planned.items() if log not in todo]
    summary.left = [pending.name for pending in todo.values()]
    say(f"board {found.name}: {len(todo)} to do, {len(summary.kept)} done before; records in {folder / found.name}")

    before: dict[Path, int | None] = {}

    def begin(task: Task) -> bool:
        pending = todo[task.log]
        if pending.is_done():  # by another run of the board, since this one looked
            summary.left.remove(pending.name)
            summary.kept.append(pending.name)
            say(f"[{len(todo) - len(summary.left)}/{len(todo)}] done by another run: {pending.name}")
            return False
        before[task.log] = pending.store.failure_written(pending.job)
        return True

    def ended(task: Task, outcome: Outcome) -> bool:
        if outcome.status == "busy":  # another run has begun it between two looks
            return True
        pending = todo[task.log]
        status = _record_outcome(pending, outcome, before[task.log])
        if status != "stopped":
            summary.left.remove(pending.name)
            (summary.made if status == "done" else summary.failed).append(pending.name)
            record = pending.store.failure(pending.job) if status == "failed" else None
            if record:
                summary.reasons[pending.name] = f"{record['error']}: {record['message']}"
            why = f": {summary.reasons[pending.name]}" if record else ""
            say(f"[{len(todo) - len(summary.left)}/{len(todo)}] {status}: {pending.name}{why}")
        return False

    # one thread for any number of workers: the number of threads may change last digits
    pool = pool_on(engine, "recgraph.leaderboard.worker", size, threads=1, deadline=until)
    tasks = [pending.task(device) for pending in todo.values()]
    pool.run(tasks, ended, begin, is_free=lambda task: todo[task.log].is_free())
    for sheet in found.sheets:
        shown = _shown(found, sheet)
        try:
            if not update_comparisons(open_sheet(found, sheet, folder)).is_compared:
                say(f"{shown}: not compared, as values of users of some records are not here; --values makes them")
        except ProtocolMismatch as error:
            summary.mixed.append(f"{shown}: {error}")
    return summary


def _planned_jobs(
    board: Board, sheet: SheetSpec, folder: Path, only: tuple[str, ...], values: bool, summary: Summary
) -> list[PendingJob]:
    """The jobs of one sheet, done or not; those that cannot run are added to the summary."""
    store = Store(board.folder_of(sheet, folder))
    entries = [entry for entry in sheet.models if not only or _matches(board, entry, only)]
    if not entries:
        return []
    shown, planned, there = _shown(board, sheet), [], []
    for entry in entries:
        try:
            planned += [(entry, job) for job in jobs_of(sheet, entry)]
            there.append(entry)
        except FileNotFoundError as error:
            summary.missing.append(f"{shown} / {entry.name}: {error}")
    check_entries(sheet, planned)
    try:
        hashes = load_data_hashes(sheet)
    except OSError as error:
        summary.missing.append(f"{shown}: {error}")
        return []
    keep_origin(store.folder, sheet, hashes.data)
    for entry in there:
        check_study(sheet, entry, hashes.tuning)
    # the first seed of every model before the second of any, so that an interrupted board still compares all models,
    # and of a seed a fold of every model before the next one of any
    planned.sort(key=lambda pair: (_seed_index(sheet, *pair), pair[1].fold or 0))
    budget = None if sheet.budget_hours is None else 3600 * sheet.budget_hours
    return [
        PendingJob(
            f"{shown} / {entry.name} / {named(job.repeat)}", job, store, hashes.data, budget, values, hashes.folds
        )
        for entry, job in planned
    ]


def _can_be_asked(column: str) -> bool:
    """Whether a column of a record is of a metric, beyond the default ones, that a worker can compute by its name."""
    metric = metric_of(column)
    return (
        metric is not None
        and metric.name not in DEFAULT_METRICS
        and metric.__module__ != "__main__"
        and "(" not in column
    )


def _shown(board: Board, sheet: SheetSpec) -> str:
    """A sheet's data set in the names of its jobs, with the sheet's name where several have the data set."""
    names = [data_name(each.dataset) for each in board.sheets]
    return sheet.dataset if names.count(data_name(sheet.dataset)) == 1 else f"{sheet.dataset} ({sheet.name})"


def _record_outcome(pending: PendingJob, outcome: Outcome, before: int | None) -> Literal["done", "failed", "stopped"]:
    """How a job ended with its worker; records a failure that the worker could not record itself.

    Args:
        before: when an earlier failure was written, as the worker began, see
            :meth:`recgraph.leaderboard.store.Store.failure_written`.
    """
    if outcome.status == "done":
        return "done"
    if outcome.status == "interrupted":
        return "stopped"
    if outcome.status == "late":
        assert pending.budget is not None
        message = f"not done after {pending.budget / 3600:.3g} hours, the board's budget_hours of one training"
        return _record_failure(pending, "BudgetExceeded", message)
    if outcome.status == "failed" and pending.store.failure_written(pending.job) not in (None, before):
        return "failed"
    error = "WorkerKilled" if outcome.status == "killed" else "WorkerFailed"
    log = pending.log.read_text(encoding="utf-8", errors="replace")[-4000:] if pending.log.exists() else ""
    return _record_failure(pending, error, outcome.message, log)


def _record_failure(
    pending: PendingJob, error: str, message: str, trace: str = ""
) -> Literal["done", "failed", "stopped"]:
    """Record that a job failed, unless another runner has finished it or is running it."""
    store, job = pending.store, pending.job
    try:
        with store.lock(job, wait=False):
            if pending.is_done():
                return "done"
            # a killed job resumes from its last checkpoint
            store.save_failure(job, failure_record(job, error, message, trace), restart=error != "WorkerKilled")
    except BlockingIOError:
        return "stopped"
    return "failed"


def _seed_index(sheet: SheetSpec, entry: EntrySpec, job: Job) -> int:
    return (entry.seeds or sheet.seeds).index(job.seed)


def _check_only(board: Board, only: Sequence[str]) -> None:
    """Check that each name is a model or an entry of some sheet, whether its data is available or not."""
    entries = [entry for sheet in board.sheets for entry in sheet.models]
    for name in only:
        if not any(_matches(board, entry, (name,)) for entry in entries):
            names = ", ".join(dict.fromkeys(entry.name for entry in entries))
            raise ValueError(f"only = {name} names no model of board {board.name!r}; there are {names}")


def _matches(board: Board, entry: EntrySpec, only: tuple[str, ...]) -> bool:
    """Whether an entry is asked for: by its name, or where no entry has that as its name, by one that is written in
    another way, or by its model."""
    names = {each.name for sheet in board.sheets for each in sheet.models}
    keys = {registry.key(name) for name in only if name not in names}
    return entry.name in only or bool({registry.key(entry.model), registry.key(entry.name)} & keys)


def _say(message: str) -> None:
    tell(f"[{time.strftime('%H:%M:%S')}] {message}")
