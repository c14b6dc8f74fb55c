"""Processes that wait in the middle of their work, so that a test need not be there in time."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import FrameType

__all__ = ["Held"]


class Held:
    """Notices SIGINT from now on, which is handled as ever, until another handler takes its place."""

    def __init__(self) -> None:
        self._came = False
        self._before = signal.signal(signal.SIGINT, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._came = True
        if callable(self._before):
            self._before(number, frame)

    def by(self, file: Path) -> None:
        """Wait while a file is there and SIGINT has not come."""
        while file.exists() and not self._came:
            time.sleep(0.01)
