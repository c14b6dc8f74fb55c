"""``run``: run the jobs of a board that have no record yet: train, test under every protocol,
measure the cost.
"""

from __future__ import annotations

import datetime as dt
import logging
import math
import os
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import polars as pl
import torch

from recgraph import parallel, registry
from recgraph.config import checked
from recgraph.evaluate.nodes import NodeResults
from recgraph.evaluate.results import (
    Results,
    by_group,
    history_groups,
    popularity_groups,
    save_users,
)
from recgraph.files import locked, remove_folder
from recgraph.leaderboard.board import Board, EntrySpec, load_board
from recgraph.leaderboard.plan import (
    TITLES,
    DataHashes,
    Job,
    Record,
    load_data_hashes,
    plan_of,
    users_file,
)
from recgraph.leaderboard.sheet import open_sheet, update_comparisons
from recgraph.ranks import refuse_launched
from recgraph.registry import import_all
from recgraph.train.config import pick_device
from recgraph.train.fit import train
from recgraph.train.record import SELECTION, measured, provenance
from recgraph.train.run import NodeRun, Run

__all__ = ["Summary", "run"]

#: maximum number of points of a learning curve in a record
_POINTS = 100
#: its columns, beside metrics of the validation part
_LOGGED = ("epoch", "seconds", "loss")
#: loggers that warn of the reading of test data
_UNSEALING = ("recgraph.data.split", "recgraph.train.run")
#: groups of users in the order of their table
_GROUPS = ("0", "1-4", "5-19", "20+", "head", "mixed", "tail", "cold")
#: kept: it was done by now; busy: another run of the board works on it
Status = Literal["done", "kept", "failed", "busy"]
_log = logging.getLogger(__name__)


@dataclass
class Summary:
    """The names of a board's jobs, ``dataset / entry / seed``, by outcome.

    Attributes:
        kept: done before this run, or beside it by another run of the board.
        made: done in this run.
        failed: name -> the error, which the page shows.
        busy: another run of the board works on it.
        missing: data sets that are not available, with the reason.
    """

    kept: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    busy: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = []
        for outcome, names in vars(self).items():
            if names:
                counts.append(f"{len(names)} {outcome}")
        lines = [", ".join(counts) or "nothing to do"]
        lines += [f"failed: {name}: {reason}" for name, reason in self.failed.items()]
        lines += [f"not at hand: {name}" for name in self.missing]
        return "\n".join(lines)


@checked
def run(
    board: str | Path | Board,
    *,
    results: str | Path | None = None,
    workers: int | None = None,
    only: Sequence[str] = (),
    values: bool = False,
    device: str | None = None,
    engine: parallel.Engine | None = None,
) -> Summary:
    """Run every job of a board that has no record, and compare the entries.

    A run may be killed at any time: the same call keeps what is done, resumes an interrupted
    training from its last checkpoint and tries again what failed. Several runs of one board, on
    machines that share the folder of records, divide its jobs. What happens is logged.

    Args:
        board: a name, a folder, a TOML file, or a board.
        results: the folder of records; by default ``results`` beside the board's folder.
        workers: jobs at a time, each in a process; by default 1, in this process, or as many as an
            engine has.
        only: names of models or entries to run; by default all.
        values: also repeat jobs without values of users here (as those from git), which comparisons
            need.
        device: e.g. ``"cpu"``; None: CUDA where available, else the CPU.
        engine: where jobs run; machines of a cluster share records and data. None: this machine.

    Raises:
        ValueError: there is no such board, model or device.
        TaskFailed: a worker died again and again; names its job.
        ProtocolMismatch: records of one table were made in different ways.
    """
    refuse_launched(
        "leaderboard.run", "start it without a launcher; workers=N starts processes of its own"
    )
    board = load_board(board)
    _check_names(board, only)
    place = engine or parallel.Engine()
    if workers is not None:
        place = parallel.Engine.of(place.model_dump() | {"workers": workers})
    if engine is None:
        pick_device(device)  # a job that fails begins anew: none may fail for a word that is wrong
    summary = Summary()
    pieces = []
    for name, job, hashes in _jobs(board, results, only, summary):
        if job.is_done(hashes.data, values):
            summary.kept.append(name)
        else:
            pieces.append(parallel.Piece(name, (name, job, hashes)))
    _log.info("board %s: %d to do, %d done before", board.name, len(pieces), len(summary.kept))
    if pieces:
        _log.info("unsealed: each job reads its test part, once it is trained")
    outcomes = {"done": summary.made, "kept": summary.kept, "busy": summary.busy}
    ended = parallel.map(run_job, pieces, (device, values), place, ordered=False)
    for n_ended, (name, status, reason) in enumerate(ended, 1):
        text = name
        if status == "failed":
            summary.failed[name] = reason
            text = f"{name}: {reason}"
        else:
            outcomes[status].append(name)
        _log.info("[%d/%d] %s: %s", n_ended, len(pieces), status, text)
    for sheet in board.sheets:
        if not update_comparisons(open_sheet(board, sheet, results)).is_compared:
            text = "%s: not compared, as values of users of some records are not here; --values makes them"
            _log.info(text, sheet.name)
    return summary


def _check_names(board: Board, only: Sequence[str]) -> None:
    """Refuse a name that no entry of the board has."""
    entries = [entry for sheet in board.sheets for entry in sheet.models]
    for name in only:
        if not any(_matches(entry, [name]) for entry in entries):
            names = ", ".join(dict.fromkeys(entry.name for entry in entries))
            raise ValueError(
                f"only = {name} names no model of board {board.name!r}; there are {names}"
            )


def _jobs(
    board: Board, results: str | Path | None, only: Sequence[str], summary: Summary
) -> Iterable[tuple[str, Job, DataHashes]]:
    """The jobs of a board, each once, with their names and the hashes of their data; data sets that
    are not available go into the summary.
    """
    by_folder: dict[Path, tuple[str, Job, DataHashes]] = {}
    for sheet in board.sheets:
        jobs: list[tuple[int, str, Job]] = []
        for entry, of_entry in plan_of(board, sheet, results):
            if not only or _matches(entry, only):
                jobs += [(number, entry.name, job) for number, job in enumerate(of_entry)]
        if not jobs:
            continue
        try:
            hashes = load_data_hashes(sheet)
        except OSError as error:
            summary.missing.append(f"{sheet.name}: {error}")
            continue
        # the first seed of every model before the second of any, so that an interrupted board still
        # compares all models
        for _, entry_name, job in sorted(jobs, key=itemgetter(0)):
            # a job that two sheets ask for is done once, with the metrics of both
            name = f"{sheet.name} / {entry_name} / seed {job.seed}"
            first = by_folder.setdefault(job.work, (name, job, hashes))
            metrics = dict.fromkeys((*first[1].metrics, *job.metrics))
            whole = replace(first[1], metrics=tuple(metrics))
            by_folder[job.work] = (first[0], whole, first[2])
    return by_folder.values()


@contextmanager
def _reproducibly() -> Iterator[None]:
    """One thread, as their number may change last digits, and no warning that test data is read:
    the board says so.
    """
    with ExitStack() as before:
        before.callback(torch.set_num_threads, torch.get_num_threads())
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(1)
        for name in _UNSEALING:
            logger = logging.getLogger(name)
            before.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        yield


def _matches(entry: EntrySpec, only: Sequence[str]) -> bool:
    """Whether an entry has one of these names, or is of a model with one of them."""
    return entry.name in only or registry.key(entry.model) in map(registry.key, only)


def run_job(
    shared: tuple[str | None, bool], piece: tuple[str, Job, DataHashes]
) -> tuple[str, Status, str]:
    """Run a job, under the lock of its record, unless it is done by now: its name, how it ended,
    and why it failed.
    """
    (device, values), (name, job, hashes) = shared, piece
    try:
        with locked(job.folder / ".work" / f"{job.stem}.lock", wait=False), _reproducibly():
            if job.is_done(hashes.data, values):
                return name, "kept", ""
            with suppress(OSError):  # of Linux: the peak of memory is counted from here on
                Path("/proc/self/clear_refs").write_text("5")
            is_trained = False
            try:
                import_all(job.imports)
                run = _train(job, hashes, device)
                is_trained = True
                job.save(_test(run, job, hashes, device))
                return name, "done", ""
            except Exception as error:
                # what is trained is kept, and a training that the disk or the memory stopped goes
                # on
                restart = not (is_trained or isinstance(error, OSError | MemoryError))
                job.save_failure(failure_record(job, error), restart)
                return name, "failed", f"{type(error).__name__}: {error}"
    except BlockingIOError:
        return name, "busy", ""


def _train(job: Job, hashes: DataHashes, device: str | None) -> Run | NodeRun:
    """Train, or resume; a training of other data begins anew."""
    folder = job.work / hashes.data
    for other in job.work.glob("*"):
        if other != folder:
            remove_folder(other)
    if (folder / "record.json").is_file():
        return Run.open(folder)
    unfinished = (folder / "config.json", folder / SELECTION / "config.json")
    return train(
        job.model,
        job.dataset,
        folder,
        settings=job.settings,
        seed=job.seed,
        device=device,
        resume=any(map(Path.is_file, unfinished)),
        progress=False,
        fit_on=None if job.fit_on == "train" else job.fit_on,
        refit=job.refit,
    )


def _test(run: Run | NodeRun, job: Job, hashes: DataHashes, device: str | None) -> Record:
    """Test a run, and make its record."""
    made = run.record.to_json()
    data = made["data"]
    if hashes.split not in (data.get("split_hash"), data.get("graph_hash")):
        raise ValueError(
            f"dataset {job.dataset!r} has changed since the board began: run the board again"
        )
    # of a model that was fitted twice all but the cost is of the training that chose
    chosen = made.get("selection") or made
    costs = [made["cost"], made["preparation"]]
    if chosen is not made:
        costs.append(chosen["cost"])
    with measured() as inference:
        if isinstance(run, Run):
            results: Results | NodeResults = run.evaluate(
                cutoffs=job.cutoffs, metrics=job.metric_names
            )
        else:
            results = run.evaluate()
    if isinstance(results, NodeResults):
        scores, protocols = _node_scores(results)
    else:
        protocols = {TITLES[result.protocol.seen]: result.to_dict() for result in results}
        scores = {title: result.pop("metrics") for title, result in protocols.items()}
    # another process than that of the test may have trained
    peaks = [cost.get("peak_memory_mb") or 0.0 for cost in (*costs, inference.to_json())]
    record = {
        **job.described,
        "data_hash": hashes.data,
        "scores": scores,
        "protocols": protocols,
        "training": _training(chosen, costs),
        "inference": {"seconds": inference.seconds, "cpu_seconds": inference.cpu_seconds},
        "peak_memory_mb": float(max(peaks)),
        "n_parameters": made["n_parameters"],
        "curve": curve(chosen["history"], chosen.get("best_epoch")),
        "device": device or "auto",
        "provenance": made["provenance"],
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "data": data,
    }
    if isinstance(run, Run) and isinstance(results, Results):
        names = ("split", "split_hash", "n_users", "n_items", "times")
        record["data"] = {name: data[name] for name in names}
        record["groups"] = _groups(run, results, job)
        for result in results:
            save_users(result, users_file(job.folder, job.stem, result.protocol.seen))
    return record


def _training(chosen: Mapping[str, Any], costs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a record says of the training that chose the weights, with the costs of all."""
    # a model that is fitted in one step selects nothing
    settings = chosen["training"] if chosen["history"] else {}
    return {
        "seconds": sum(cost["seconds"] for cost in costs),
        "cpu_seconds": sum(cost["cpu_seconds"] for cost in costs),
        "epochs": len(chosen["history"]),
        "best_epoch": chosen.get("best_epoch"),
        "best": chosen.get("best"),
        "selected_by": settings.get("metric"),
        "select_seen": settings.get("select_seen"),
    }


def _node_scores(results: NodeResults) -> tuple[dict[str, Any], dict[str, Any]]:
    """Title -> its scores, and title -> its protocol."""
    titles = {"linear": "{} labels a class", "logistic": "{} labels, logistic regression"}
    scores = {}
    for row in results.rows():
        title = titles.get(row.pop("probe"), "k-means").format(row.pop("labels"))
        scores[title] = {name: value for name, value in row.items() if value is not None}
    protocol = {"protocol": results.protocol.model_dump(mode="json"), "protocol_hash": results.hash}
    return scores, dict.fromkeys(scores, protocol)


def _groups(run: Run, results: Results, job: Job) -> dict[str, Any]:
    """Kind of groups of users -> title -> group -> its metrics."""
    assert run.split is not None
    split = run.split.unseal("group the users of the test part")
    counts = split.fit_part(job.fit_on).item_counts()
    groups = {
        "history": history_groups(split.test),
        "popularity": popularity_groups(split.test, counts),
    }
    return {kind: _group_metrics(results, labels) for kind, labels in groups.items()}


def _group_metrics(results: Results, labels: list[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Title -> group -> its metrics."""
    metrics = {}
    for result in results:
        rows = by_group(result, labels).sort(pl.col("group").cast(pl.Enum(_GROUPS)))
        by_name = {row.pop("group"): row for row in rows.iter_rows(named=True)}
        metrics[TITLES[result.protocol.seen]] = by_name
    return metrics


def curve(history: list[dict[str, Any]], best: int | None) -> dict[str, list[float | None]]:
    """Columns of a training's log, at most about ``_POINTS`` epochs of it."""
    columns = dict.fromkeys(chain.from_iterable(history))
    names = [name for name in columns if name in _LOGGED or "@" in name]
    step = max(1, math.ceil(len(history) / _POINTS))
    epochs = {row["epoch"] for row in (*history[::step], *history[-1:])} | {best}
    rows = [row for row in history if row["epoch"] in epochs]
    return {name: [row.get(name) for row in rows] for name in names}


def failure_record(job: Job, error: Exception) -> Record:
    """The record of a failure; in the traceback, paths of packages begin with the package."""
    root = re.escape(str(Path(__file__).resolve().parents[2]))
    lines = "".join(traceback.format_exception(error))
    return {
        **job.described,
        "error": type(error).__name__,
        "message": str(error),
        "traceback": re.sub(rf'(?<=")([^"\n]*/site-packages|{root})/', "", lines),
        "provenance": provenance(),
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
