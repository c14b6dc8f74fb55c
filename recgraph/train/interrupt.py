"""SIGINT during training: finish the step, save, say how to go on."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any, Self


class TrainingInterrupted(KeyboardInterrupt):
    """Training stopped on request after a complete step."""

    def __init__(self, epoch: int, batch: int, saved: Path | None) -> None:
        self.saved = saved
        kept = f"saved in {saved}; go on with resume=True (--resume)" if saved else "nothing was saved (no folder)"
        super().__init__(f"interrupted in epoch {epoch + 1} after {batch} batches; {kept}")


class Interrupt:
    """Within the block the first SIGINT only sets :attr:`asked`; a second one interrupts at once."""

    def __init__(self) -> None:
        self.asked = False
        self._previous: Any = None

    def __enter__(self) -> Self:
        # signals can be handled in the main thread alone; elsewhere the application keeps its own handling
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, _signal: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
