"""``run``: run the jobs of a board that have no record yet: train, test under every protocol, measure the cost."""

from __future__ import annotations

import datetime as dt
import math
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from recgraph import parallel, registry
from recgraph.config import checked
from recgraph.data.catalog.cards import data_name
from recgraph.evaluate.nodes import NodeResults
from recgraph.evaluate.results import (
    ProtocolMismatch,
    Result,
    Results,
    by_group,
    history_groups,
    popularity_groups,
    save_users,
)
from recgraph.files import remove_folder
from recgraph.leaderboard.board import Board, EntrySpec, SheetSpec, load_board
from recgraph.leaderboard.plan import (
    TITLES,
    DataHashes,
    Job,
    Record,
    Store,
    check_entries,
    check_study,
    digest,
    jobs_of,
    load_data_hashes,
    named,
)
from recgraph.leaderboard.sheet import open_sheet, update_comparisons
from recgraph.pages import print_note
from recgraph.ranks import refuse_launched
from recgraph.registry import import_all
from recgraph.train.config import pick_device
from recgraph.train.fit import train
from recgraph.train.record import SELECTION, Measured, provenance
from recgraph.train.run import NodeRun, Run

__all__ = ["Summary", "run"]

#: maximum number of points of a learning curve in a record
_POINTS = 300
_BY_POPULARITY = ("head", "mixed", "tail", "cold")
#: kept: another run of the board has done it; busy: another run works on it; left: its time is over
Status = Literal["done", "kept", "failed", "left", "busy"]


@dataclass
class Summary:
    """The names of a board's jobs, ``dataset / entry / seed``, by outcome.

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
        ValueError: there is no such board, model or device, or the budget is below 0.
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
    if say is None:
        clock = "%H:%M:%S"
        say = (lambda line: print_note(f"[{time.strftime(clock)}] {line}")) if sys.stderr.isatty() else lambda _: None
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
    entries = [entry for sheet in board.sheets for entry in sheet.models]
    for name in only:
        if not any(_matches(entry, (name,)) for entry in entries):
            names = ", ".join(dict.fromkeys(entry.name for entry in entries))
            raise ValueError(f"only = {name} names no model of board {board.name!r}; there are {names}")


def _matches(entry: EntrySpec, only: Sequence[str]) -> bool:
    return entry.name in only or registry.key(entry.model) in map(registry.key, only)


@dataclass(frozen=True)
class Pending:
    """A job of a board, to be run unless it has a record of the current data.

    ``hours``: the most that it may take; ``values``: its values of users are required, too; ``waits``: for another run
    that works on it.
    """

    name: str
    job: Job
    store: Store
    hashes: DataHashes
    hours: float | None = None
    values: bool = False
    waits: bool = False

    @property
    def is_done(self) -> bool:
        return self.store.is_done(self.job, self.hashes.data, self.values)


class OutOfTime(Exception):
    """A job took longer than its board allows."""


def run_job(shared: tuple[str | None, float | None], pending: Pending) -> tuple[str, Status, str]:
    """Run a job, under the lock of its record, unless it is done by now: its name, how it ended, and why it failed."""
    device, deadline = shared
    job, store = pending.job, pending.store
    hours_left = math.inf if deadline is None else (deadline - time.time()) / 3600
    if hours_left <= 0:
        return pending.name, "left", ""
    try:
        with store.lock(job, pending.waits):
            if pending.is_done:
                return pending.name, "kept", ""
            hours = math.inf if pending.hours is None else pending.hours
            return pending.name, *_run_locked(pending, device, min(hours, hours_left), hours <= hours_left)
    except BlockingIOError:
        return pending.name, "busy", ""


def _run_locked(pending: Pending, device: str | None, hours: float, fails_late: bool) -> tuple[Status, str]:
    job, store = pending.job, pending.store
    is_trained = False
    with suppress(OSError):  # of Linux: the peak of memory is counted from here on
        Path("/proc/self/clear_refs").write_text("5")
    try:
        with _limited(hours):
            import_all(job.imports)
            run = _train(pending, device)
            is_trained = True
            record = _test(run, pending, device)
        store.save(job, record)
    except Exception as error:
        if isinstance(error, OutOfTime) and not fails_late:
            return "left", ""
        # what is trained is kept, and where the disk or the memory gave out the training goes on from its checkpoint
        restart = isinstance(error, OutOfTime) or not (is_trained or isinstance(error, OSError | MemoryError))
        store.save_failure(job, failure_record(job, error), restart)
        return "failed", f"{type(error).__name__}: {error}"
    return "done", ""


@contextmanager
def _limited(hours: float) -> Iterator[None]:
    """End the block with OutOfTime after some time as Ctrl-C would, so that a training is saved."""
    if math.isinf(hours) or threading.current_thread() is not threading.main_thread():
        yield
        return
    rung: list[bool] = []

    def ring(*_: object) -> None:
        rung.append(True)
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 3600 * hours)
    try:
        yield
    except KeyboardInterrupt:
        if rung:
            raise OutOfTime(f"not done after {hours:.3g} hours, the board's budget_hours of one training") from None
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _train(pending: Pending, device: str | None) -> Run | NodeRun:
    """Train, or resume; a training of other data or other item vectors begins anew."""
    job = pending.job
    folder = pending.store.work(job) / digest([pending.hashes.data, job.inputs])
    for other in folder.parent.glob("*"):
        if other != folder:
            remove_folder(other)
    if (folder / "record.json").is_file():
        return Run.open(folder)
    resume = any((place / "config.json").is_file() for place in (folder, folder / SELECTION))
    return train(
        job.model,
        job.dataset,
        folder,
        settings=job.settings,
        seed=job.seed,
        device=device,
        resume=resume,
        progress=False,
        fit_on=None if job.fit_on == "train" else job.fit_on,
        refit=job.refit,
    )


def _test(run: Run | NodeRun, pending: Pending, device: str | None) -> Record:
    job, data = pending.job, run.record["data"]
    made_with = data["graph_hash" if isinstance(run, NodeRun) else "split_hash"]
    if made_with != pending.hashes.splits[job.fold or 0]:
        raise ValueError(f"dataset {job.dataset!r} has changed since the board began: run the board again")
    made = run.record.to_json()
    # of a model that was fitted twice all but the cost is of the training that chose
    chosen = made.get("selection") or made
    costs = [made["cost"], made["preparation"], *([chosen["cost"]] if chosen is not made else [])]
    with Measured() as cost:
        found = run.evaluate(cutoffs=job.cutoffs, metrics=job.metric_names) if isinstance(run, Run) else run.evaluate()
    # another process than that of the test may have trained
    peaks = [cost.to_dict()["peak_memory_mb"], *(float(each.get("peak_memory_mb") or 0.0) for each in costs)]
    record = {
        **_described(job),
        "data_hash": pending.hashes.data,
        **(_node_scores(found) if isinstance(found, NodeResults) else _user_scores(found)),
        "training": {
            "seconds": sum(each["seconds"] for each in costs),
            "cpu_seconds": sum(each["cpu_seconds"] for each in costs),
            "epochs": len(chosen["history"]),
            "best_epoch": chosen.get("best_epoch"),
            "best": chosen.get("best"),
            "selected_by": chosen["training"]["metric"] if chosen["history"] else None,
            "select_seen": chosen["training"]["select_seen"] if chosen["history"] else None,
        },
        "inference": {"seconds": cost.seconds, "cpu_seconds": cost.cpu_seconds},
        "peak_memory_mb": max(peaks),
        "n_parameters": made["n_parameters"],
        "curve": curve(chosen["history"], chosen.get("best_epoch")),
        "device": device or "auto",
        "provenance": made["provenance"],
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "data": data,
        **({"inputs": job.inputs} if job.inputs else {}),
    }
    if isinstance(run, Run) and isinstance(found, Results):
        record["data"] = {name: data[name] for name in ("split", "split_hash", "n_users", "n_items")}
        record["groups"] = _groups(run, found, job)
        for result in found:
            save_users(result, pending.store.users(job.stem, result.protocol.seen))
    return record


def _user_scores(found: Results) -> dict[str, Any]:
    protocols = {TITLES[result.protocol.seen]: result.to_dict() for result in found}
    scores = {title: result.pop("metrics") for title, result in protocols.items()}
    return {"scores": scores, "protocols": protocols}


def _node_scores(found: NodeResults) -> dict[str, Any]:
    scores: dict[str, dict[str, float]] = {}
    for row in found.rows():
        title = {"linear": "{} labels a class", "logistic": "{} labels, logistic regression"}.get(
            row["probe"], "k-means"
        )
        values = {name: row[name] for name in row if name not in ("probe", "labels") and row[name] is not None}
        scores[title.format(row["labels"])] = values
    protocol = {"protocol": found.protocol.model_dump(mode="json"), "protocol_hash": found.hash}
    return {"scores": scores, "protocols": dict.fromkeys(scores, protocol)}


def _groups(run: Run, found: Results, job: Job) -> dict[str, Any]:
    assert run.split is not None
    split = run.split.unseal("group the users of the test part")
    cases, counts = split.test, split.fit_part(job.fit_on).item_counts()
    labels = {"history": history_groups(cases), "popularity": popularity_groups(cases, counts)}
    return {
        kind: {TITLES[each.protocol.seen]: _group_metrics(each, of) for each in found} for kind, of in labels.items()
    }


def _group_metrics(result: Result, labels: list[str]) -> dict[str, dict[str, float]]:
    """The metrics of each group: ``"1-4"`` before ``"20+"``, the head before the tail."""

    def order(group: str) -> int:
        return _BY_POPULARITY.index(group) if group in _BY_POPULARITY else int(re.split("[-+]", group)[0])

    rows = {row.pop("group"): row for row in by_group(result, labels).iter_rows(named=True)}
    return {group: rows[group] for group in sorted(rows, key=order)}


def curve(history: list[dict[str, Any]], best: int | None) -> dict[str, list[float | None]]:
    """Columns of a training's log, at most about ``_POINTS`` epochs of it."""
    columns = dict.fromkeys(name for row in history for name in row)
    names = [name for name in columns if name in ("epoch", "seconds", "loss") or "@" in name]
    step = max(1, math.ceil(len(history) / _POINTS))
    last = len(history) - 1
    rows = [row for i, row in enumerate(history) if i % step == 0 or i == last or row["epoch"] == best]
    return {name: [row.get(name) for row in rows] for name in names}


#: paths of packages on this machine, which are removed from tracebacks in records
_PATHS = re.compile(rf'(?<=")(?:[^"\n]*/site-packages|{re.escape(str(Path(__file__).resolve().parents[2]))})/')


def failure_record(job: Job, error: Exception) -> Record:
    """The record of a failure, without paths of this machine."""
    return {
        **_described(job),
        "error": type(error).__name__,
        "message": str(error),
        "traceback": _PATHS.sub("", "".join(traceback.format_exception(error))),
        "provenance": provenance(),
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


def _described(job: Job) -> Record:
    names = ("model", "dataset", "seed", "identity", "settings", *(() if job.fold is None else ("fold",)))
    return {name: getattr(job, name) for name in names}
