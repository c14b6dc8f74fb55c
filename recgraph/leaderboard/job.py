"""One job of a board, where it runs: train, test under every protocol in one pass, and measure the cost."""

from __future__ import annotations

import datetime as dt
import math
import re
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recgraph.evaluate.node_results import NodeResults
from recgraph.evaluate.results import Result, Results, by_group, history_groups, popularity_groups, save_users
from recgraph.files import remove_folder
from recgraph.imports import import_all
from recgraph.leaderboard.plan import TITLES, DataHashes, Job, digest
from recgraph.leaderboard.store import Record, Store
from recgraph.runs.fit import train
from recgraph.runs.record import SELECTION, Measured, provenance
from recgraph.runs.run import NodeRun, Run

__all__ = ["Pending", "Status", "failure_record", "run_job"]

#: maximum number of points of a learning curve in a record
_POINTS = 300
_BY_POPULARITY = ("head", "mixed", "tail", "cold")
#: kept: another run of the board has done it; busy: another run works on it; left: its time is over
Status = Literal["done", "kept", "failed", "left", "busy"]


@dataclass(frozen=True)
class Pending:
    """A job of a board, to be run unless it has a record of the current data.

    Attributes:
        name: for messages.
        hashes: of the current data.
        hours: the most that it may take, or None.
        values: whether its values of users are required, too, see :meth:`recgraph.leaderboard.store.Store.is_done`.
        waits: for another run that works on it.
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
        """Whether it has a record by now."""
        return self.store.is_done(self.job, self.hashes.data, self.values)


class OutOfTime(Exception):
    """A job took longer than its board allows."""


def run_job(shared: tuple[str | None, float | None], pending: Pending) -> tuple[str, Status, str]:
    """Run a job, under the lock of its record, unless it is done by now.

    Args:
        shared: the device, and the time of day after which nothing is done.

    Returns:
        name of the job, how it ended, and why it failed.
    """
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
    except OutOfTime:
        if not fails_late:
            return "left", ""
        error: Exception = OutOfTime(f"not done after {hours:.3g} hours, the board's budget_hours of one training")
        store.save_failure(job, failure_record(job, error))
        return "failed", f"{type(error).__name__}: {error}"
    except Exception as error:
        # what is trained is kept, and where the disk or the memory gave out the training goes on from its checkpoint
        restart = not (is_trained or isinstance(error, OSError | MemoryError))
        store.save_failure(job, failure_record(job, error), restart)
        return "failed", f"{type(error).__name__}: {error}"
    return "done", ""


@contextmanager
def _limited(hours: float) -> Iterator[None]:
    """End the block after some time as Ctrl-C would, so that a training is saved.

    Raises:
        OutOfTime: it was ended.
    """
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
            raise OutOfTime from None
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _train(pending: Pending, device: str | None) -> Run | NodeRun:
    """Train, or resume a training that was stopped; one of other data or other item vectors begins anew."""
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
    """The record of a training; values of users are written to the store."""
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
    """Kind of groups -> title of a table -> group -> its size and metrics."""
    assert run.split is not None
    split = run.split.unseal("group the users of the test part")
    cases, counts = split.test, split.fit_part(job.fit_on).item_counts()
    labels = {"history": history_groups(cases), "popularity": popularity_groups(cases, counts)}
    return {
        kind: {TITLES[each.protocol.seen]: _group_metrics(each, of) for each in found} for kind, of in labels.items()
    }


def _group_metrics(result: Result, labels: list[str]) -> dict[str, dict[str, float]]:
    rows = {row.pop("group"): row for row in by_group(result, labels).iter_rows(named=True)}
    return dict(sorted(rows.items(), key=lambda row: _group_order(row[0])))


def _group_order(group: str) -> tuple[int, str]:
    """A sort key of groups: ``"1-4"`` before ``"20+"``, the head before the tail."""
    if group in _BY_POPULARITY:
        return _BY_POPULARITY.index(group), group
    return int(group.partition("-")[0].rstrip("+")), group


def curve(history: list[dict[str, Any]], best: int | None) -> dict[str, list[float | None]]:
    """Columns of a training's log: epoch, seconds, loss and validation metrics, at most about ``_POINTS`` epochs."""
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
    fold = {} if job.fold is None else {"fold": job.fold}
    fields = {name: getattr(job, name) for name in ("model", "dataset", "seed", "identity", "settings")}
    return {**fields, **fold}
