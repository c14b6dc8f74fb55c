"""``run``: run the jobs of a board that have no record yet."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from recgraph import parallel, registry
from recgraph.arguments import checked
from recgraph.data.catalog.cards import data_name
from recgraph.evaluate.results import ProtocolMismatch
from recgraph.launcher import refuse_launched
from recgraph.leaderboard.board import Board, EntrySpec, SheetSpec, load_board
from recgraph.leaderboard.job import Pending, Status, run_job
from recgraph.leaderboard.plan import check_entries, check_study, jobs_of, load_data_hashes, named
from recgraph.leaderboard.sheet import open_sheet, update_comparisons
from recgraph.leaderboard.store import Store
from recgraph.texts import tell
from recgraph.train.config import pick_device

__all__ = ["Summary", "run"]


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
    engine: parallel.Engine | None = None,
    say: Callable[[str], None] | None = None,
) -> Summary:
    """Run every job of a board that has no record, and compare the entries.

    A run may be killed at any time and started again: finished jobs are kept, and an interrupted training resumes from
    its last checkpoint. Jobs that failed are tried again. Several runs of one board at a time, on machines that share
    the folder of records, divide its jobs: each takes those that no other works on, and at the end waits for the rest.

    Args:
        board: a name, a folder, a TOML file, or a board.
        results: the folder of records; by default ``results`` beside the board's folder.
        workers: jobs at a time, each in a process; by default 1, in this process, or as many as an engine has.
        only: names of models or entries to run; by default all.
        budget: hours after which no job is started and running jobs are stopped (the next run resumes them).
        values: also repeat jobs with a record but without values of users on this machine (as those from git), which
            the comparison of entries needs.
        device: e.g. ``"cpu"``; None: CUDA where available, else the CPU.
        engine: where jobs run; machines of a cluster share the folder of records and the data. None: this machine.
        say: called with a line for each event; by default lines are printed to standard error if it is a terminal.

    Raises:
        ValueError: there is no such board, it names what does not exist, one of ``only`` matches nothing, the device is
            not there, the budget is below 0, or a launcher has started several processes.
        TaskFailed: a worker died again and again; names its job. The same call goes on.
        KeyboardInterrupt: running jobs have been saved.
    """
    refuse_launched("leaderboard.run", "start it without a launcher; workers=N starts processes of its own")
    found = board if isinstance(board, Board) else load_board(board)
    _check_only(found, only)
    if budget is not None and not budget >= 0:
        raise ValueError(f"budget = {budget} must be a number of hours, 0 or more")
    place = engine or parallel.Engine()
    if workers is not None:
        place = parallel.Engine.of(place.model_dump() | {"workers": workers})
    if device is not None and engine is None:  # a job that fails begins anew: none may fail for a word that is wrong
        pick_device(device)
    folder = found.results if results is None else Path(results)
    say = say or (_say if sys.stderr.isatty() else lambda _: None)
    deadline = None if budget is None else time.time() + 3600 * budget
    summary = Summary()
    planned: dict[Path, Pending] = {}
    for sheet in found.sheets:
        for each in _planned_jobs(found, sheet, folder, only, values, summary):
            work = each.store.work(each.job)
            # a job that two sheets ask for is done once, with the metrics of both
            first = planned.setdefault(work, each)
            metrics = tuple(dict.fromkeys((*first.job.metrics, *each.job.metrics)))
            planned[work] = replace(first, job=replace(first.job, metrics=metrics))
    todo = [each for each in planned.values() if not each.is_done]
    names = {each.name for each in todo}
    summary.kept = [each.name for each in planned.values() if each.name not in names]
    say(f"board {found.name}: {len(todo)} to do, {len(summary.kept)} done before; records in {folder / found.name}")
    places: dict[Status, list[str]] = {"done": summary.made, "kept": summary.kept, "failed": summary.failed}
    left, n_ended = todo, 0
    with _one_thread():
        for waits in (False, True):  # first what no other run of the board works on
            pieces = [parallel.Piece(each.name, replace(each, waits=waits)) for each in left]
            by_name, left = {each.name: each for each in left}, []
            for name, status, why in parallel.map(run_job, pieces, (device, deadline), place, ordered=False):
                if status == "busy":
                    left.append(by_name[name])
                    continue
                n_ended += 1
                places.get(status, summary.left).append(name)
                if status == "failed":
                    summary.reasons[name] = why
                say(f"[{n_ended}/{len(todo)}] {status}: {name}{f': {why}' if why else ''}")
    for sheet in found.sheets:
        shown = _shown(found, sheet)
        try:
            if not update_comparisons(open_sheet(found, sheet, folder)).is_compared:
                say(f"{shown}: not compared, as values of users of some records are not here; --values makes them")
        except ProtocolMismatch as error:
            summary.mixed.append(f"{shown}: {error}")
    return summary


@contextmanager
def _one_thread() -> Iterator[None]:
    """As workers have it: the number of threads may change last digits."""
    before = torch.get_num_threads()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _planned_jobs(
    board: Board, sheet: SheetSpec, folder: Path, only: Sequence[str], values: bool, summary: Summary
) -> list[Pending]:
    """The jobs of one sheet, done or not; those that cannot run are added to the summary."""
    entries = [entry for entry in sheet.models if not only or _matches(entry, only)]
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
    for entry in there:
        check_study(sheet, entry, hashes.tuning)
    # the first seed of every model before the second of any, so that an interrupted board still compares all models,
    # and of a seed a fold of every model before the next one of any
    planned.sort(key=lambda pair: ((pair[0].seeds or sheet.seeds).index(pair[1].seed), pair[1].fold or 0))
    store, hours = Store(board.folder_of(sheet, folder).resolve()), sheet.budget_hours
    return [
        Pending(f"{shown} / {entry.name} / {named(job.repeat)}", job, store, hashes, hours, values)
        for entry, job in planned
    ]


def _shown(board: Board, sheet: SheetSpec) -> str:
    """A sheet's data set in the names of its jobs, with the sheet's name where several have the data set."""
    names = [data_name(each.dataset) for each in board.sheets]
    return sheet.dataset if names.count(data_name(sheet.dataset)) == 1 else f"{sheet.dataset} ({sheet.name})"


def _check_only(board: Board, only: Sequence[str]) -> None:
    """Check that each name is a model or an entry of some sheet, whether its data is available or not."""
    entries = [entry for sheet in board.sheets for entry in sheet.models]
    for name in only:
        if not any(_matches(entry, (name,)) for entry in entries):
            names = ", ".join(dict.fromkeys(entry.name for entry in entries))
            raise ValueError(f"only = {name} names no model of board {board.name!r}; there are {names}")


def _matches(entry: EntrySpec, only: Sequence[str]) -> bool:
    """Whether an entry is asked for, by its name or by its model."""
    return entry.name in only or registry.key(entry.model) in map(registry.key, only)


def _say(message: str) -> None:
    tell(f"[{time.strftime('%H:%M:%S')}] {message}")
