"""A worker process does one job: ``python -m recgraph.leaderboard.worker`` reads its orders.

A process a job, so that peak memory is that job's, and a job that is killed takes nothing with it.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from recgraph.leaderboard.plan import Job
from recgraph.leaderboard.store import Record, Store
from recgraph.tuning.lease import Orphan

__all__ = ["DONE", "FAILED", "INTERRUPTED", "failure"]

#: exit codes
DONE, FAILED, INTERRUPTED = 0, 1, 130
_POLL = 0.5
#: seconds to save a training once whoever asked for it is gone
_TO_SAVE = 60.0
#: where packages lie on this machine, which no record has to tell
_PATHS = re.compile(rf'(?<=")(?:[^"\n]*/site-packages|{re.escape(str(Path(__file__).resolve().parents[2]))})/')


def failure(job: Job, error: str, message: str, trace: str = "") -> Record:
    """The record of a failure."""
    from recgraph.provenance import provenance

    return {
        "model": job.model,
        "dataset": job.dataset,
        "seed": job.seed,
        "identity": job.identity,
        "settings": job.settings,
        "error": error,
        "message": message,
        "traceback": _PATHS.sub("", trace),
        "provenance": provenance(),
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


def work(job: Job, store: Store, data_hash: str, values: bool, device: str | None) -> int:
    """Do a job unless another process has done it meanwhile; the exit code."""
    from recgraph.leaderboard.perform import perform

    with store.alone(job):
        if store.is_done(job, data_hash, values):
            return DONE
        try:
            store.put(job, perform(job, store, device))
        except KeyboardInterrupt:
            return INTERRUPTED
        except Exception as error:
            store.put_failure(job, failure(job, type(error).__name__, str(error), traceback.format_exc()))
            return FAILED
    return DONE


def _end_with(orphan: Orphan) -> None:
    """Interrupt this process once whoever started it is gone: it saves its training and ends."""
    while not orphan.is_one:
        time.sleep(_POLL)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(_TO_SAVE)
    os._exit(INTERRUPTED)


def main() -> int:
    """One JSON object with the orders on stdin; nothing on stdout."""
    orders: dict[str, Any] = json.load(sys.stdin)
    threading.Thread(target=_end_with, args=(Orphan(orders["parent"]),), daemon=True).start()
    try:
        job, store = Job.from_dict(orders["job"]), Store(Path(orders["folder"]))
        return work(job, store, orders["data_hash"], orders["values"], orders["device"])
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
