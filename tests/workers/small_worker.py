"""A worker process that does what its orders say: nothing, sleep, fail, be busy, or end by a signal the first time."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from recgraph.workers.pool import BUSY, DONE, run_worker


def follow(orders: dict[str, Any]) -> int:
    act = orders["act"]
    if act == "fail":
        raise ValueError("it cannot be")
    if act == "share" and not orders["waits"]:
        return BUSY
    if act == "sleep":
        Path(orders["mark"]).touch()
        time.sleep(600)
    if act == "die once" and not Path(orders["mark"]).exists():
        Path(orders["mark"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return DONE


if __name__ == "__main__":
    sys.exit(run_worker(follow))
