"""What looks on while a model is trained: the log as JSON lines, trackers, a bar or lines; and
SIGINT.
"""

from __future__ import annotations

import json
import logging
import math
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

from recgraph.files import write_text
from recgraph.pages import print_note
from recgraph.train.config import TrainConfig

_log = logging.getLogger("recgraph.train")
Row = Mapping[str, Any]


class Observer:
    """Base of all callbacks; each method does nothing. The trainer calls them; they do not change
    the training.

    An exception that one raises ends the training.
    """

    def begin(self, record: Mapping[str, Any], folder: Path | None) -> None:
        """The training begins; ``record`` is what identifies the run: model, settings, seed,
        data.
        """

    def start_epoch(self, epoch: int, n_batches: int, done: int) -> None:
        """An epoch begins; ``done`` of its batches were made before the training was resumed."""

    def step(self, terms: Mapping[str, float], speed: float) -> None:
        """Called every few batches with the mean terms of the epoch so far and the targets a
        second.
        """

    def advance(self) -> None:
        """One batch was made."""

    def end_epoch(self, row: Row) -> None:
        """An epoch ended; ``row`` is its line of the log."""

    def close(self) -> None:
        """Training ended, for whatever reason."""


class JsonLines(Observer):
    """One JSON object an epoch, appended to a file."""

    def __init__(self, path: Path, history: Sequence[Row] = ()) -> None:
        """Write the epochs of a resumed training's checkpoint first: the file may have fewer or
        more.
        """
        write_text("".join(json.dumps(row) + "\n" for row in history), path)
        self._file = path.open("a", encoding="utf-8")

    def end_epoch(self, row: Row) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class Tracked(Observer):
    """Settings and the rows of epochs in TensorBoard, MLflow or Weights & Biases, by accelerate's
    trackers (extra ``track``). The services are set by their own environment variables."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tracker: Any = None

    def begin(self, record: Mapping[str, Any], folder: Path | None) -> None:
        from accelerate import tracking

        data = record["data"]
        title = f"{record['model']} on {data.get('dataset') or data.get('split') or 'a graph'}"
        try:
            if self._name == "tensorboard":
                # each run has a folder of its own, as two in one are drawn as one
                stamp = f"{record['model']}-{datetime.now().strftime('%Y%m%d-%H%M%S-%f')}"
                place = (
                    (Path("runs", "tensorboard"), stamp)
                    if folder is None
                    else (folder, "tensorboard")
                )
                self._tracker = tracking.TensorBoardTracker(place[1], place[0])
            elif self._name == "mlflow":
                self._tracker = tracking.MLflowTracker("recgraph", run_name=title)
            else:
                self._tracker = tracking.WandBTracker("recgraph", name=title)
            self._tracker.start()
        except ImportError as error:
            raise ValueError(
                f"{self._name} needs the extra: pip install 'recgraph[track]'"
            ) from error
        if self._name != "tensorboard":
            self._tracker.store_init_configuration(flat(record))

    def end_epoch(self, row: Row) -> None:
        values = {
            # MLflow allows no @ in names
            re.sub(r"[^\w.\- :/]", "_", name.replace("@", "_at_"))
            if self._name == "mlflow"
            else name: float(value)
            for name, value in row.items()
            if isinstance(value, int | float) and name != "epoch"
        }
        try:
            self._tracker.log(values, step=int(row["epoch"]))
        except Exception as error:  # a service may be away, and the record has all that it is told
            _log.warning("epoch %d not told to %s: %s", row["epoch"], self._name, error)

    def close(self) -> None:
        if self._tracker is not None:
            self._tracker.finish()


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings with dotted names; a list stays a value."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, Mapping) and value
        found |= flat(value, f"{before}{name}.") if nested else {f"{before}{name}": value}
    return found


class TrainingInterrupted(KeyboardInterrupt):
    """Training stopped on request after a complete step."""

    def __init__(self, epoch: int, batch: int, saved: Path | None) -> None:
        self.saved = saved
        state = (
            f"saved in {saved}; go on with resume=True (--resume)"
            if saved
            else "nothing was saved (no folder)"
        )
        super().__init__(f"interrupted in epoch {epoch + 1} after {batch} batches; {state}")


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Within the block the first SIGINT sets the event, and a second one interrupts at once."""
    found = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if found.is_set():
            signal.default_int_handler(number, frame)
        found.set()

    if threading.current_thread() is not threading.main_thread():  # no other can handle signals
        yield found
        return
    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield found
    finally:
        signal.signal(signal.SIGINT, previous)


def duration(seconds: float) -> str:
    """A duration in words: ``"0.2 s"``, ``"12 s"``, ``"6 min"``, ``"2.5 h"``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class EpochLines(Observer):
    """A line of text an epoch: loss, the metric that selects, the best so far, time and an
    estimate.

    Each is a log record at level INFO, with the epoch's row as ``record.row``. With ``shows`` they
    also go to the standard error stream, for pipes and files: the first, the last, and none within
    ``every`` seconds of one before; before them, how many epochs there may be.
    """

    def __init__(
        self,
        config: TrainConfig,
        history: Iterable[Row] = (),
        shows: bool = False,
        every: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metric, self._max_epochs, self._patience = (
            config.metric,
            config.max_epochs,
            config.patience,
        )
        self._shows, self._every, self._clock = shows, every, clock
        self._shown_at, self._pending = -math.inf, ""
        self._best: tuple[float, int] | None = None
        for row in history:
            self.line(row)

    def begin(self, record: Mapping[str, Any], folder: Path | None) -> None:
        if self._shows and self._patience is None:
            print_note(f"{record['model']}: {self._max_epochs} epochs")
        elif self._shows:
            stops = f"it stops when {self._metric} was no better {self._patience} times in a row (patience)"
            print_note(
                f"{record['model']}: at most {self._max_epochs} epochs (max_epochs); {stops}"
            )

    def line(self, row: Row) -> str:
        """The line of an epoch, the next one."""
        best, epoch, seconds = row.get("best"), row["epoch"], row["seconds"]
        if best is not None and (self._best is None or best != self._best[0]):
            self._best = (best, epoch)
        parts = [f"loss {row['loss']:.4f}"]
        if self._metric != "loss" and self._metric in row:
            parts.append(f"{self._metric} {row[self._metric]:.4f}")
        if self._best is not None:
            parts.append(f"best {self._best[0]:.4f} (epoch {self._best[1]})")
        parts.append(duration(seconds))
        if epoch < self._max_epochs:
            most = "about " if self._patience is None else "at most "
            parts.append(f"{most}{duration(seconds / epoch * (self._max_epochs - epoch))} left")
        return f"epoch {epoch}/{self._max_epochs}: {', '.join(parts)}"

    def end_epoch(self, row: Row) -> None:
        self._pending = self.line(row)
        _log.info("%s", self._pending, extra={"row": dict(row)})
        if self._clock() - self._shown_at >= self._every:
            self.close()

    def close(self) -> None:
        if self._shows and self._pending:
            self._shown_at = self._clock()
            print_note(self._pending)
        self._pending = ""


class ProgressBar(Observer):
    """A live bar, on the standard error stream or in the output of a notebook's cell: terms, the
    last metric, targets a second, time left of the epoch."""

    def __init__(self, config: TrainConfig) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        title, note = (
            TextColumn("{task.description}", markup=False),
            TextColumn("{task.fields[note]}", markup=False),
        )
        columns = (title, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), note)
        self._bar = Progress(*columns, transient=True, console=Console(stderr=True))
        self._metric, self._max_epochs = config.metric, config.max_epochs
        self._task, self._result = self._bar.add_task("", total=None, note=""), ""
        self._bar.start()

    def start_epoch(self, epoch: int, n_batches: int, done: int) -> None:
        title = f"epoch {epoch + 1}/{self._max_epochs}"
        self._bar.reset(
            self._task, total=n_batches, completed=done, description=title, note=self._result
        )

    def step(self, terms: Mapping[str, float], speed: float) -> None:
        text = " ".join(f"{name} {value:.4f}" for name, value in terms.items())
        self._bar.update(self._task, note=f"{text}  {self._result}  {speed:,.0f}/s")

    def advance(self) -> None:
        self._bar.advance(self._task)

    def end_epoch(self, row: Row) -> None:
        value, best = row.get(self._metric), row.get("best")
        if value is not None:
            self._result = f"{self._metric} {value:.4f}" + (
                "" if best is None else f" (best {best:.4f})"
            )

    def close(self) -> None:
        self._bar.stop()


def shows_bar() -> bool:
    """Whether this process has a terminal, or is the kernel of a notebook (IPython is not imported
    to find out).
    """
    ipython = sys.modules.get("IPython")
    shell = (
        ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    )
    return sys.stderr.isatty() or (shell is not None and hasattr(shell, "kernel"))
