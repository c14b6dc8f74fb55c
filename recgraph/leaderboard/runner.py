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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

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
        counts = ", ".join(
            f"{len(names)} {outcome}" for outcome, names in vars(self).items() if names
        )
        failed = [f"failed: {name}: {why}" for name, why in self.failed.items()]
        return "\n".join(
            [counts or "nothing to do", *failed, *(f"not at hand: {name}" for name in self.missing)]
        )


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
    found = board if isinstance(board, Board) else load_board(board)
    entries = [entry for sheet in found.sheets for entry in sheet.models]
    for name in only:
        if not any(_matches(entry, [name]) for entry in entries):
            names = ", ".join(dict.fromkeys(entry.name for entry in entries))
            raise ValueError(
                f"only = {name} names no model of board {found.name!r}; there are {names}"
            )
    place_of_work = engine or parallel.Engine()
    if workers is not None:
        place_of_work = parallel.Engine.of(place_of_work.model_dump() | {"workers": workers})
    if (
        device is not None and engine is None
    ):  # a job that fails begins anew: none may fail for a word that is wrong
        pick_device(device)
    summary = Summary()
    todo: dict[Path, tuple[str, Job, DataHashes]] = {}
    for sheet in found.sheets:
        planned = [
            (entry, jobs)
            for entry, jobs in plan_of(found, sheet, results)
            if not only or _matches(entry, only)
        ]
        try:
            hashes = load_data_hashes(sheet) if planned else DataHashes("", "")
        except OSError as error:
            summary.missing.append(f"{sheet.name}: {error}")
            continue
        # the first seed of every model before the second of any, so that an interrupted board still
        # compares all models
        placed = [
            (place, entry.name, job) for entry, jobs in planned for place, job in enumerate(jobs)
        ]
        for _, entry, job in sorted(placed, key=lambda each: each[0]):
            # a job that two sheets ask for is done once, with the metrics of both
            name = f"{sheet.name} / {entry} / seed {job.seed}"
            first, same, own = todo.setdefault(job.work, (name, job, hashes))
            todo[job.work] = (
                first,
                replace(same, metrics=tuple(dict.fromkeys((*same.metrics, *job.metrics)))),
                own,
            )
    summary.kept = [name for name, job, hashes in todo.values() if job.is_done(hashes.data, values)]
    pieces = [
        parallel.Piece(each[0], each) for each in todo.values() if each[0] not in summary.kept
    ]
    _log.info("board %s: %d to do, %d done before", found.name, len(pieces), len(summary.kept))
    if pieces:
        _log.info("unsealed: each job reads its test part, once it is trained")
    places = {"done": summary.made, "kept": summary.kept, "busy": summary.busy}
    ended = parallel.map(run_job, pieces, (device, values), place_of_work, ordered=False)
    for n_ended, (name, status, why) in enumerate(ended, 1):
        if status == "failed":
            summary.failed[name] = why
        else:
            places[status].append(name)
        _log.info("[%d/%d] %s: %s%s", n_ended, len(pieces), status, name, f": {why}" if why else "")
    for sheet in found.sheets:
        if not update_comparisons(open_sheet(found, sheet, results)).is_compared:
            text = "%s: not compared, as values of users of some records are not here; --values makes them"
            _log.info(text, sheet.name)
    return summary


@contextmanager
def _alike() -> Iterator[None]:
    """One thread, as their number may change last digits, and no warning that test data is read:
    the board says so.
    """
    threads, loggers = torch.get_num_threads(), [logging.getLogger(name) for name in _UNSEALING]
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _matches(entry: EntrySpec, only: Sequence[str]) -> bool:
    return entry.name in only or registry.key(entry.model) in map(registry.key, only)


def run_job(
    shared: tuple[str | None, bool], piece: tuple[str, Job, DataHashes]
) -> tuple[str, Status, str]:
    """Run a job, under the lock of its record, unless it is done by now: its name, how it ended,
    and why it failed.
    """
    (device, values), (name, job, hashes) = shared, piece
    try:
        with locked(job.folder / ".work" / f"{job.stem}.lock", wait=False), _alike():
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
    return train(
        job.model,
        job.dataset,
        folder,
        settings=job.settings,
        seed=job.seed,
        device=device,
        resume=any((place / "config.json").is_file() for place in (folder, folder / SELECTION)),
        progress=False,
        fit_on=None if job.fit_on == "train" else job.fit_on,
        refit=job.refit,
    )


def _test(run: Run | NodeRun, job: Job, hashes: DataHashes, device: str | None) -> Record:
    data = run.record["data"]
    if data["graph_hash" if isinstance(run, NodeRun) else "split_hash"] != hashes.split:
        raise ValueError(
            f"dataset {job.dataset!r} has changed since the board began: run the board again"
        )
    made = run.record.to_json()
    # of a model that was fitted twice all but the cost is of the training that chose
    chosen = made.get("selection") or made
    costs = [made["cost"], made["preparation"], *([chosen["cost"]] if chosen is not made else [])]
    with measured() as cost:
        found = (
            run.evaluate(cutoffs=job.cutoffs, metrics=job.metric_names)
            if isinstance(run, Run)
            else run.evaluate()
        )
    # another process than that of the test may have trained
    peaks = [
        cost.peak_memory_mb or 0.0,
        *(float(each.get("peak_memory_mb") or 0.0) for each in costs),
    ]
    if isinstance(found, NodeResults):
        scores, protocols = _node_scores(found)
    else:
        protocols = {TITLES[result.protocol.seen]: result.to_dict() for result in found}
        scores = {title: result.pop("metrics") for title, result in protocols.items()}
    record = {
        **job.described,
        "data_hash": hashes.data,
        "scores": scores,
        "protocols": protocols,
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
    }
    if isinstance(run, Run) and isinstance(found, Results):
        assert run.split is not None
        split = run.split.unseal("group the users of the test part")
        counts = split.fit_part(job.fit_on).item_counts()
        groups = {
            "history": history_groups(split.test),
            "popularity": popularity_groups(split.test, counts),
        }
        record["groups"] = {kind: _group_metrics(found, labels) for kind, labels in groups.items()}
        record["data"] = {
            name: data[name] for name in ("split", "split_hash", "n_users", "n_items", "times")
        }
        for result in found:
            save_users(result, users_file(job.folder, job.stem, result.protocol.seen))
    return record


def _node_scores(found: NodeResults) -> tuple[dict[str, Any], dict[str, Any]]:
    """Title -> its scores, and title -> its protocol."""
    titles = {"linear": "{} labels a class", "logistic": "{} labels, logistic regression"}
    scores = {
        titles.get(row["probe"], "k-means").format(row["labels"]): {
            name: row[name]
            for name in row
            if name not in ("probe", "labels") and row[name] is not None
        }
        for row in found.rows()
    }
    protocol = {"protocol": found.protocol.model_dump(mode="json"), "protocol_hash": found.hash}
    return scores, dict.fromkeys(scores, protocol)


def _group_metrics(found: Results, labels: list[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Title -> group -> its metrics."""
    groups = {}
    for result in found:
        rows = {row.pop("group"): row for row in by_group(result, labels).iter_rows(named=True)}
        groups[TITLES[result.protocol.seen]] = {
            group: rows[group] for group in _GROUPS if group in rows
        }
    return groups


def curve(history: list[dict[str, Any]], best: int | None) -> dict[str, list[float | None]]:
    """Columns of a training's log, at most about ``_POINTS`` epochs of it."""
    columns = dict.fromkeys(name for row in history for name in row)
    names = [name for name in columns if name in ("epoch", "seconds", "loss") or "@" in name]
    step, last = max(1, math.ceil(len(history) / _POINTS)), len(history) - 1
    rows = [
        row for i, row in enumerate(history) if i % step == 0 or i == last or row["epoch"] == best
    ]
    return {name: [row.get(name) for row in rows] for name in names}


def failure_record(job: Job, error: Exception) -> Record:
    """The record of a failure; in the traceback, paths of packages begin with the package."""
    own, lines = (
        str(Path(__file__).resolve().parents[2]),
        "".join(traceback.format_exception(error)),
    )
    return {
        **job.described,
        "error": type(error).__name__,
        "message": str(error),
        "traceback": re.sub(rf'(?<=")([^"\n]*/site-packages|{re.escape(own)})/', "", lines),
        "provenance": provenance(),
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
