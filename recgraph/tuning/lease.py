"""Leases: who runs a trial, renewed while it runs, and who does so no more.

Optuna's heartbeats exist on database storages only, miss a trial whose worker ended before its first beat, and wait
for the grace period even where the process can be seen to be gone. So the lease is our own, the same on every
storage: an attribute of the trial with the process and a counter. An observer holds a lease for lost when its process
is gone from the observer's own machine or, of another machine, when the counter has stood still for the grace period
by the observer's own clock; so the machines' clocks need not agree.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from recgraph.train.processes import Process, this_process

__all__ = ["GRACE", "INTERVAL", "Lease", "Orphan", "Watch"]

#: seconds between two renewals, and without one before a lease of another machine is lost
INTERVAL, GRACE = 15.0, 60.0
_log = logging.getLogger(__name__)

Values = dict[str, Any]


class Lease:
    """Holds a lease for a block and renews it from a thread.

    Args:
        write: puts the lease where others see it; may raise.
        interval: seconds between renewals.

    Attributes:
        lost: whether a renewal said that the lease is no longer ours.
    """

    def __init__(self, write: Callable[[Values], None], interval: float = INTERVAL) -> None:
        self._write, self._interval = write, interval
        self._process = this_process()
        self._ended = threading.Event()
        self._beat = 0
        self.lost = False
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._put()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def _put(self) -> None:
        self._write({**self._process.to_dict(), "beat": self._beat})

    def _renew(self) -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        while not self._ended.wait(self._interval):
            self._beat += 1
            try:
                self._put()
            except UpdateFinishedTrialError:
                self.lost = True
                return
            except Exception as error:  # a storage may be away for a while; the next renewal tries again
                _log.warning("lease not renewed: %s", error)


class Watch:
    """Tells which leases are lost; one observer's memory.

    Args:
        grace: seconds without a renewal after which a lease of another machine is lost.
        clock: seconds, only ever forward.
    """

    def __init__(self, grace: float = GRACE, clock: Callable[[], float] = time.monotonic) -> None:
        self._grace, self._clock = grace, clock
        self._seen: dict[Any, tuple[Values, float]] = {}

    def is_lost(self, name: Any, lease: Values) -> bool:
        """Whether the lease of that name is lost, as far as can be seen from here."""
        process = Process.of(lease)
        if process.is_here:
            return process.is_gone
        now = self._clock()
        before, since = self._seen.get(name, (None, now))
        if lease != before:
            self._seen[name] = (lease, now)
            return False
        return now - since > self._grace


class Orphan:
    """Notices that the process which started this one is gone.

    Args:
        parent: its number, from itself: it may be gone before this process can ask. None: nobody's child, never one.
    """

    def __init__(self, parent: int | None = None) -> None:
        self._parent = parent

    @property
    def is_one(self) -> bool:
        return self._parent is not None and os.getppid() != self._parent
