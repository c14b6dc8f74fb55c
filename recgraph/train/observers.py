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
from recgraph.train.record import DataRecord, duration

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
        try:
            self._tracker = self._make_tracker(record, folder)
            self._tracker.start()
        except ImportError as error:
            raise ValueError(
                f"{self._name} needs the extra: pip install 'recgraph[track]'"
            ) from error
        if self._name != "tensorboard":
            self._tracker.store_init_configuration(flat(record))

    def _make_tracker(self, record: Mapping[str, Any], folder: Path | None) -> Any:
        from accelerate import tracking

        if self._name == "tensorboard":
            if folder is not None:
                return tracking.TensorBoardTracker("tensorboard", folder)
            # a folder of its own: two runs in one are drawn as one
            run = f"{record['model']}-{datetime.now().strftime('%Y%m%d-%H%M%S-%f')}"
            return tracking.TensorBoardTracker(run, Path("runs", "tensorboard"))
        title = f"{record['model']} on {DataRecord(**record['data']).title}"
        if self._name == "mlflow":
            return tracking.MLflowTracker("recgraph", run_name=title)
        return tracking.WandBTracker("recgraph", name=title)

    def end_epoch(self, row: Row) -> None:
        values = dict(row)
        epoch = values.pop("epoch")
        if self._name == "mlflow":  # which allows no @ in names
            values = {
                re.sub(r"[^\w.\- :/]", "_", name.replace("@", "_at_")): value
                for name, value in values.items()
            }
        try:
            self._tracker.log(values, step=epoch)
        except Exception as error:  # a service may be away, and the record has all of it
            _log.warning("epoch %d is not in %s: %s", epoch, self._name, error)

    def close(self) -> None:
        if self._tracker is not None:
            self._tracker.finish()


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings with dotted names; a list stays a value."""
    settings: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            settings |= flat(value, f"{before}{name}.")
        else:
            settings[f"{before}{name}"] = value
    return settings


class TrainingInterrupted(KeyboardInterrupt):
    """Training stopped on request after a complete step."""

    def __init__(self, epoch: int, batch: int, saved: Path | None) -> None:
        self.saved = saved
        state = "nothing was saved (no folder)"
        if saved is not None:
            state = f"saved in {saved}; go on with resume=True (--resume)"
        super().__init__(f"interrupted in epoch {epoch + 1} after {batch} batches; {state}")


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Within the block the first SIGINT sets the event, and a second one interrupts at once."""
    interrupted = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if interrupted.is_set():
            signal.default_int_handler(number, frame)
        interrupted.set()

    if threading.current_thread() is not threading.main_thread():  # no other can handle signals
        yield interrupted
        return
    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous)


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
        self._metric = config.metric
        self._max_epochs = config.max_epochs
        self._patience = config.patience
        self._shows = shows
        self._every = every
        self._clock = clock
        self._shown_at = -math.inf
        self._pending = ""
        self._best: float | None = None
        self._best_epoch = 0
        for row in history:
            self.line(row)

    def begin(self, record: Mapping[str, Any], folder: Path | None) -> None:
        if not self._shows:
            return
        if self._patience is None:
            print_note(f"{record['model']}: {self._max_epochs} epochs")
        else:
            print_note(
                f"{record['model']}: at most {self._max_epochs} epochs (max_epochs); it stops when "
                f"{self._metric} was no better {self._patience} times in a row (patience)"
            )

    def line(self, row: Row) -> str:
        """The line of an epoch, the next one."""
        epoch, seconds = row["epoch"], row["seconds"]
        best = row.get("best", self._best)
        if best != self._best:
            self._best, self._best_epoch = best, epoch
        parts = [f"loss {row['loss']:.4f}"]
        if self._metric != "loss" and self._metric in row:
            parts.append(f"{self._metric} {row[self._metric]:.4f}")
        if self._best is not None:
            parts.append(f"best {self._best:.4f} (epoch {self._best_epoch})")
        parts.append(duration(seconds))
        if epoch < self._max_epochs:
            left = duration(seconds / epoch * (self._max_epochs - epoch))
            parts.append(f"{'about' if self._patience is None else 'at most'} {left} left")
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

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            transient=True,
            console=Console(stderr=True),
        )
        self._metric = config.metric
        self._max_epochs = config.max_epochs
        self._task = self._bar.add_task("", total=None, note="")
        self._result = ""
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
        if "best" in row:
            self._result = f"{self._metric} {row[self._metric]:.4f} (best {row['best']:.4f})"

    def close(self) -> None:
        self._bar.stop()


def shows_bar() -> bool:
    """Whether this process has a terminal, or is the kernel of a notebook (IPython is not imported
    to find out).
    """
    if sys.stderr.isatty():
        return True
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
