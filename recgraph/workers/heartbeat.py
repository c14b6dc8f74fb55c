"""Heartbeats: a process renews a sign of life with what it works on; without one, others take the work over.

Optuna's heartbeats exist on database storages only, miss a trial whose worker ended before its first one, and wait
for the grace period even where the process is known to be gone. These are the same on every storage: a mapping with
the process and a counter. One has expired when its process is gone from the observer's own machine or, of another
machine, when the counter has stood still for the grace period by the observer's clock; so machines' clocks need not
agree. A process also knows which of its own heartbeats have ended: in a notebook it lives on where a storage failed.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from recgraph.workers.process import Process, this_process

__all__ = ["GRACE", "INTERVAL", "Expiry", "Heartbeat", "OwnershipLost"]

#: seconds between two heartbeats, and without one before that of another machine has expired
INTERVAL, GRACE = 15.0, 60.0
_log = logging.getLogger(__name__)

Values = dict[str, Any]
#: the heartbeats of this process that have not ended
_renewed: set[str] = set()


class OwnershipLost(RuntimeError):
    """Others have taken over what this process worked on."""


class Heartbeat:
    """Writes a first heartbeat, and renews it from a thread within a ``with`` block.

    Args:
        write: puts the heartbeat where others see it; raises :class:`OwnershipLost` where others have taken over.
        interval: seconds between two heartbeats.

    Attributes:
        is_lost: whether others have taken over.
    """

    def __init__(self, write: Callable[[Values], None], interval: float = INTERVAL) -> None:
        self._write, self._interval = write, interval
        self._process, self._token = this_process(), secrets.token_hex(8)
        _renewed.add(self._token)
        self._ended = threading.Event()
        self._beat = 0
        self.is_lost = False
        self._thread = threading.Thread(target=self._renew, name="heartbeat", daemon=True)
        try:
            self._put()
        except BaseException:
            _renewed.discard(self._token)
            raise

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        _renewed.discard(self._token)

    def check(self) -> None:
        """Raise :class:`OwnershipLost` where others have taken over."""
        if self.is_lost:
            raise OwnershipLost

    def _put(self) -> None:
        self._write({**self._process.to_dict(), "token": self._token, "beat": self._beat})

    def _renew(self) -> None:
        while not self._ended.wait(self._interval):
            self._beat += 1
            try:
                self._put()
            except OwnershipLost:
                self.is_lost = True
                return
            except Exception as error:  # a storage may be away for a while; the next heartbeat tries again
                _log.warning("heartbeat not written: %s", error)


class Expiry:
    """Which heartbeats have expired, as one observer sees it; it remembers when it saw each change.

    Args:
        grace: seconds without a change after which a heartbeat of another machine has expired.
        clock: seconds, monotonic.
    """

    def __init__(self, grace: float = GRACE, clock: Callable[[], float] = time.monotonic) -> None:
        self._grace, self._clock = grace, clock
        self._seen: dict[Any, tuple[Values, float]] = {}

    def has_expired(self, name: Any, heartbeat: Values) -> bool:
        """Whether the heartbeat of that name has expired."""
        process = Process.of(heartbeat)
        if process == this_process() and "token" in heartbeat:
            return heartbeat["token"] not in _renewed
        if process.is_here:
            return process.is_gone
        now = self._clock()
        before, since = self._seen.get(name, (None, now))
        if heartbeat != before:
            self._seen[name] = (heartbeat, now)
            return False
        return now - since > self._grace
