"""One job of a board: train, test under every protocol in one pass, and measure the cost.

``python -m recgraph.leaderboard.worker`` reads the orders of one job and runs it, see :mod:`recgraph.workers.pool`.
Each job has its own process, so that peak memory is measured for the job alone and a killed job affects no other.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recgraph.data.catalog import load_node_task
from recgraph.data.disk import DiskError, told
from recgraph.data.files import remove_folder, replace_text
from recgraph.evaluate.metrics.names import import_all
from recgraph.evaluate.node_results import NodeResults
from recgraph.evaluate.results import Result, Results, by_group, history_groups, popularity_groups, save_users
from recgraph.leaderboard.job import TITLES, Job, digest
from recgraph.leaderboard.plan import data_hash_of, hashes_of_folds
from recgraph.leaderboard.store import Record, Store
from recgraph.memory import lacks_memory
from recgraph.runs.fit import train
from recgraph.runs.record import SELECTION, Measured
from recgraph.runs.run import NodeRun, Run
from recgraph.runs.settings import DataConfig
from recgraph.workers.pool import BUSY, DONE, FAILED, INTERRUPTED, run_worker

__all__ = ["failure_record", "train_and_test"]

#: maximum number of points of a learning curve in a record
_POINTS = 300
_BY_POPULARITY = ("head", "mixed", "tail", "cold")


class FailedTest(Exception):
    """A test that failed, with the error as its cause: the training before it is done."""


def train_and_test(job: Job, store: Store, device: str | None = None, folds: Sequence[str] = ()) -> Record:
    """Run a job, or resume one that was stopped, and return its record; values of users are written to the store.

    Args:
        folds: the hash of the split of each fold as the run of the board found them.

    Raises:
        FailedTest: any error of the test.
        Exception: any error of the training.
    """
    inputs = job.inputs
    run = _train(job, store.work(job) / "run", device)
    try:
        return {**_test(run, job, store, device, folds), **({"inputs": inputs} if inputs else {})}
    except Exception as error:
        raise FailedTest from error


def _test(run: Run | NodeRun, job: Job, store: Store, device: str | None, folds: Sequence[str]) -> Record:
    chosen = run.record.selection or run.record
    with Measured() as cost:
        found = _evaluate(run, job)
    record = {
        "model": job.model,
        "dataset": job.dataset,
        "seed": job.seed,
        "identity": job.identity,
        "settings": job.settings,
        **_fold(job),
        "data_hash": _data_hash(run, job, folds),
        **(_node_scores(found) if isinstance(found, NodeResults) else _user_scores(found)),
        "training": _training_record(run.record.to_json()),
        "inference": {"seconds": cost.seconds, "cpu_seconds": cost.cpu_seconds},
        "peak_memory_mb": max(cost.to_dict()["peak_memory_mb"], _peak_memory(run.record.to_json())),
        "n_parameters": run.record["n_parameters"],
        "curve": curve(chosen["history"], chosen.get("best_epoch")),
        "device": device or "auto",
        "provenance": run.record["provenance"],
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
    if isinstance(run, Run) and isinstance(found, Results):
        record["data"] = {name: run.record["data"][name] for name in ("split", "split_hash", "n_users", "n_items")}
        record["groups"] = _groups(run, found, job)
        for result in found:
            save_users(result, store.users(job, result.protocol.seen))
    else:
        record["data"] = run.record["data"]
    return record


def _train(job: Job, folder: Path, device: str | None) -> Run | NodeRun:
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


def _evaluate(run: Run | NodeRun, job: Job) -> Results | NodeResults:
    return run.evaluate(cutoffs=job.cutoffs, metrics=job.metric_names) if isinstance(run, Run) else run.evaluate()


def _fold(job: Job) -> dict[str, int]:
    return {} if job.fold is None else {"fold": job.fold}


def _data_hash(run: Run | NodeRun, job: Job, folds: Sequence[str]) -> str:
    """The same hash as that of :func:`recgraph.leaderboard.plan.load_data_hashes`."""
    if isinstance(run, Run):
        data = run.record["data"]
        split_hash = data["split_hash"]
        if job.fold is not None:
            if split_hash not in folds:  # the log has changed since; else no fold of it has
                assert run.split is not None
                whole = run.split.unseal("tell the splits of all folds by their hashes")
                folds = hashes_of_folds(whole, DataConfig.of(data["settings"]))
            split_hash = digest(folds)
        return data_hash_of(split_hash, data.get("features") or {})
    # of all splits: a run that has read labels is not measured on each
    return digest([run.record["data"]["graph_hash"], load_node_task(job.dataset).hash])


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


def _training_record(record: Record) -> dict[str, Any]:
    """The cost of a training, building the model (its graph, its views) included, and its best epoch.

    Of a model that was fitted twice, the cost is that of both trainings, and all else of the one that chose.
    """
    chosen = record["selection"] if record.get("selection") else record
    costs = [record["cost"], record["preparation"], *([chosen["cost"]] if chosen is not record else [])]
    return {
        "seconds": sum(cost["seconds"] for cost in costs),
        "cpu_seconds": sum(cost["cpu_seconds"] for cost in costs),
        "epochs": len(chosen["history"]),
        "best_epoch": chosen.get("best_epoch"),
        "best": chosen.get("best"),
        "selected_by": chosen["training"]["metric"] if chosen["history"] else None,
        "select_seen": chosen["training"]["select_seen"] if chosen["history"] else None,
    }


def _peak_memory(record: Record) -> float:
    """The peak memory of a run's trainings, which another process than that of the test may have made."""
    chosen = record["selection"] if record.get("selection") else record
    return max(float(cost.get("peak_memory_mb") or 0.0) for cost in (record["cost"], chosen["cost"]))


def curve(history: list[dict[str, Any]], best: int | None) -> dict[str, list[float | None]]:
    """Columns of a training's log: epoch, seconds, loss and validation metrics, at most about ``_POINTS`` epochs."""
    names = [name for name in _columns(history) if name in ("epoch", "seconds", "loss") or "@" in name]
    step = max(1, math.ceil(len(history) / _POINTS))
    last = len(history) - 1
    rows = [row for i, row in enumerate(history) if i % step == 0 or i == last or row["epoch"] == best]
    return {name: [row.get(name) for row in rows] for name in names}


def _columns(history: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in history for name in row))


#: paths of packages on this machine, which are removed from tracebacks in records
_PATHS = re.compile(rf'(?<=")(?:[^"\n]*/site-packages|{re.escape(str(Path(__file__).resolve().parents[2]))})/')


def failure_record(job: Job, error: str, message: str, trace: str = "") -> Record:
    """The record of a failure, without paths of this machine."""
    from recgraph.runs.record import provenance

    return {
        "model": job.model,
        "dataset": job.dataset,
        "seed": job.seed,
        **_fold(job),
        "identity": job.identity,
        "settings": job.settings,
        "error": error,
        "message": message,
        "traceback": _PATHS.sub("", trace),
        "provenance": provenance(),
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


def run_job(job: Job, store: Store, data_hash: str, values: bool, device: str | None, folds: Sequence[str] = ()) -> int:
    """Run a job, which this process has locked, unless another one has done it meanwhile; returns the exit code."""
    if store.is_done(job, data_hash, values):
        return DONE
    try:
        import_all(job.modules)
        _leave_other_data(job, store, data_hash)
        store.save(job, train_and_test(job, store, device, folds))
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        is_trained = isinstance(error, FailedTest)
        cause = error.__cause__ if is_trained and isinstance(error.__cause__, Exception) else error
        trace = "".join(traceback.format_exception(cause))
        record = failure_record(job, type(cause).__name__, str(cause), trace)
        store.save_failure(job, record, restart=not (is_trained or _is_of_machine(cause)))
        return FAILED
    return DONE


def _leave_other_data(job: Job, store: Store, data_hash: str) -> None:
    """Remove an unfinished training of data, or of item vectors, that are others by now: it cannot be resumed."""
    mark, run = store.work(job) / "data", store.work(job) / "run"
    state = digest([data_hash, job.inputs])
    if run.exists() and mark.is_file() and mark.read_text(encoding="utf-8") != state:
        remove_folder(run)  # the log beside it is open
    mark.parent.mkdir(parents=True, exist_ok=True)
    replace_text(state, mark)


def _is_of_machine(error: Exception) -> bool:
    """Whether the disk or the memory gave out: the training goes on from its checkpoint when there is more."""
    of_disk = isinstance(error, DiskError) or (isinstance(error, OSError) and told(error) is not None)
    return of_disk or lacks_memory(error)


def run_orders(orders: dict[str, Any]) -> int:
    """Run the job of a worker process's orders; returns the exit code."""
    job, store = Job.from_dict(orders["job"]), Store(Path(orders["folder"]))
    try:
        with store.lock(job, wait=orders["waits"]):
            own = orders["data_hash"], orders["values"], orders["device"], orders["folds"]
            return run_job(job, store, *own)
    except BlockingIOError:
        return BUSY


if __name__ == "__main__":
    sys.exit(run_worker(run_orders))
