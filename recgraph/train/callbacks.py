"""Callbacks of the trainer: the log as JSON lines, TensorBoard; and SIGINT during training."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Self

from recgraph.data.disk import naming
from recgraph.data.files import replace_text


class Observer:
    """Base of all callbacks; each method does nothing. The trainer calls them; they do not change the training.

    An exception that one raises ends the training.
    """

    def begin(self, record: Mapping[str, Any], folder: Path | None) -> None:
        """The training begins.

        Args:
            record: what identifies the run: model, settings, seed, data.
            folder: of the run, or None.
        """

    def start_epoch(self, epoch: int, n_batches: int, done: int) -> None:
        """An epoch begins; ``done`` of its batches were made before the training was resumed."""

    def step(self, terms: Mapping[str, float], speed: float) -> None:
        """Called every few batches with the mean terms of the epoch so far and the targets a second."""

    def advance(self) -> None:
        """One batch was made."""

    def end_epoch(self, row: Mapping[str, Any]) -> None:
        """An epoch ended; ``row`` is its line of the log."""

    def close(self) -> None:
        """Training ended, for whatever reason."""


class JsonLines(Observer):
    """One JSON object an epoch, appended to a file."""

    def __init__(self, path: Path, history: Sequence[Mapping[str, Any]] = ()) -> None:
        """Write the epochs of a resumed training's checkpoint first: the file may have fewer or more."""
        replace_text("".join(json.dumps(row) + "\n" for row in history), path)
        self._path = path
        with naming(path):
            self._file = path.open("a", encoding="utf-8")

    def end_epoch(self, row: Mapping[str, Any]) -> None:
        with naming(self._path):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def close(self) -> None:
        with naming(self._path):
            self._file.close()


class TensorBoard(Observer):
    """Scalars of every epoch for TensorBoard (extra ``track``)."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError("tensorboard = true needs the extra: pip install 'recgraph[track]'") from error
        self._writer = SummaryWriter(str(folder))

    def end_epoch(self, row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            if isinstance(value, int | float) and name != "epoch":
                self._writer.add_scalar(name, value, row["epoch"])

    def close(self) -> None:
        self._writer.close()


class TrainingInterrupted(KeyboardInterrupt):
    """Training stopped on request after a complete step."""

    def __init__(self, epoch: int, batch: int, saved: Path | None) -> None:
        self.saved = saved
        kept = f"saved in {saved}; go on with resume=True (--resume)" if saved else "nothing was saved (no folder)"
        super().__init__(f"interrupted in epoch {epoch + 1} after {batch} batches; {kept}")


class Interrupt:
    """Context in which the first SIGINT only sets :attr:`asked`, and a second one interrupts at once."""

    def __init__(self) -> None:
        self.asked = False
        self._previous: Any = None

    def __enter__(self) -> Self:
        # only the main thread can handle signals; elsewhere the application's own handler stays
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
