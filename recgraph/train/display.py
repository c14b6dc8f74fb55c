"""What a training shows while it works: a bar on a terminal or in a notebook, lines elsewhere, and log records."""

from __future__ import annotations

import importlib
import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from recgraph.texts import for_html as escape
from recgraph.texts import tell
from recgraph.train.callbacks import Observer

__all__ = [
    "EpochLog",
    "EpochText",
    "NotebookBar",
    "ProgressBar",
    "ProgressLines",
    "duration",
    "in_notebook",
    "progress_observer",
]

_log = logging.getLogger("recgraph.train")

Row = Mapping[str, Any]


def duration(seconds: float) -> str:
    """A duration in words: ``"0.2 s"``, ``"12 s"``, ``"6 min"``, ``"2.5 h"``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook (IPython is not imported to find out)."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return shell is not None and hasattr(shell, "kernel")


class EpochText:
    """The line of text of an epoch: loss, the metric that selects, the best so far, time and an estimate.

    Args:
        metric: what selects the best epoch.
        max_epochs: of the training.
        may_stop: whether it may end early, so that the estimate is the most that it may take.
        history: rows of epochs that a resumed training has made before.
    """

    def __init__(self, metric: str, max_epochs: int, may_stop: bool, history: Iterable[Row] = ()) -> None:
        self._metric, self._max_epochs, self._may_stop = metric, max_epochs, may_stop
        self._best: tuple[float, int] | None = None
        for row in history:
            self.add(row)

    def add(self, row: Row) -> str:
        """Take in the row of an epoch -> its line."""
        best = row.get("best")
        if best is not None and (self._best is None or best != self._best[0]):
            self._best = (best, row["epoch"])
        parts = [f"loss {row['loss']:.4f}"]
        if self._metric != "loss" and self._metric in row:
            parts.append(f"{self._metric} {row[self._metric]:.4f}")
        if self._best is not None:
            parts.append(f"best {self._best[0]:.4f} (epoch {self._best[1]})")
        epoch, seconds = row["epoch"], row["seconds"]
        parts.append(duration(seconds))
        if epoch < self._max_epochs:
            most = "at most " if self._may_stop else "about "
            parts.append(f"{most}{duration(seconds / epoch * (self._max_epochs - epoch))} left")
        return f"epoch {epoch}/{self._max_epochs}: {', '.join(parts)}"


class EpochLog(Observer):
    """A record at level INFO for each epoch, with its row as ``record.row``."""

    def __init__(self, text: EpochText) -> None:
        self._text = text

    def end_epoch(self, row: Row) -> None:
        line = self._text.add(row)
        _log.info("%s", line, extra={"row": dict(row)})


class ProgressLines(Observer):
    """Plain lines on the standard error stream, for pipes and files.

    There is one for the first epoch, one for the last, and in between one an epoch, but none within ``every`` seconds
    of the line before. Within an epoch there is a line whenever nothing was told for ``silence`` seconds.

    Args:
        text: of an epoch.
        max_epochs: of the training.
        every: the fewest seconds between the lines of two epochs.
        silence: the seconds without a line after which an epoch that still runs tells how far it is.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        text: EpochText,
        max_epochs: int,
        every: float = 5.0,
        silence: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._text, self._max_epochs = text, max_epochs
        self._every, self._silence, self._clock = every, silence, clock
        self._told: float | None = None
        self._pending = ""
        self._began = clock()
        self._epoch = self._batch = self._n_batches = 0

    def start_epoch(self, epoch: int, n_batches: int, done: int) -> None:
        self._epoch, self._batch, self._n_batches = epoch, done, n_batches

    def advance(self) -> None:
        self._batch += 1

    def step(self, terms: Mapping[str, float], speed: float) -> None:
        if self._clock() - (self._began if self._told is None else self._told) >= self._silence:
            means = ", ".join(f"{name} {value:.4f}" for name, value in terms.items())
            where = f"batch {self._batch:,} of {self._n_batches:,}"
            self._tell(f"epoch {self._epoch + 1}/{self._max_epochs}: {where}, {means}, {speed:,.0f} targets/s")

    def end_epoch(self, row: Row) -> None:
        self._pending = self._text.add(row)
        if self._told is None or self._clock() - self._told >= self._every:
            self._tell(self._pending)
            self._pending = ""

    def close(self) -> None:
        if self._pending:
            self._tell(self._pending)
            self._pending = ""

    def _tell(self, line: str) -> None:
        self._told = self._clock()
        tell(line)


class ProgressBar(Observer):
    """A live bar on the standard error stream: terms, the last metric, targets a second, time left of the epoch."""

    def __init__(self, metric: str, max_epochs: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        console = Console(stderr=True)
        self._bar = Progress(*columns, TextColumn("{task.fields[note]}", markup=False), transient=True, console=console)
        self._metric, self._max_epochs = metric, max_epochs
        self._task: TaskID | None = None
        self._result = ""
        self._bar.start()

    def start_epoch(self, epoch: int, n_batches: int, done: int) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        title = f"epoch {epoch + 1}/{self._max_epochs}"
        self._task = self._bar.add_task(title, total=n_batches, completed=done, note=self._result)

    def step(self, terms: Mapping[str, float], speed: float) -> None:
        if self._task is not None:
            text = " ".join(f"{name} {value:.4f}" for name, value in terms.items())
            self._bar.update(self._task, note=f"{text}  {self._result}  {speed:,.0f}/s")

    def advance(self) -> None:
        if self._task is not None:
            self._bar.advance(self._task)

    def end_epoch(self, row: Row) -> None:
        value, best = row.get(self._metric), row.get("best")
        if value is not None:
            self._result = f"{self._metric} {value:.4f}" + ("" if best is None else f" (best {best:.4f})")

    def close(self) -> None:
        self._bar.stop()


class NotebookBar(Observer):
    """A bar in the output of a notebook's cell, with the line of the last epoch; it needs IPython alone.

    Args:
        text: of an epoch.
        max_epochs: of the training.
        every: the fewest seconds between two updates within an epoch.
        clock: seconds, monotonic.
    """

    def __init__(
        self, text: EpochText, max_epochs: int, every: float = 0.2, clock: Callable[[], float] = time.monotonic
    ) -> None:
        shown: Any = importlib.import_module("IPython.display")
        self._text, self._max_epochs, self._every, self._clock = text, max_epochs, every, clock
        self._epoch = self._batch = self._n_batches = 0
        self._line = self._terms = ""
        self._shown = clock()
        self._html = shown.HTML
        self._handle = shown.display(shown.HTML(self._bar()), display_id=True)

    def start_epoch(self, epoch: int, n_batches: int, done: int) -> None:
        self._epoch, self._batch, self._n_batches = epoch, done, n_batches

    def advance(self) -> None:
        self._batch += 1
        if self._clock() - self._shown >= self._every:
            self._show()

    def step(self, terms: Mapping[str, float], speed: float) -> None:
        means = ", ".join(f"{name} {value:.4f}" for name, value in terms.items())
        self._terms = f"epoch {self._epoch + 1}: {means}, {speed:,.0f} targets/s"

    def end_epoch(self, row: Row) -> None:
        self._line, self._terms = self._text.add(row), ""
        self._show()

    def close(self) -> None:
        self._terms = ""
        self._show()

    def _show(self) -> None:
        self._shown = self._clock()
        self._handle.update(self._html(self._bar()))

    def _bar(self) -> str:
        done = self._epoch + (self._batch / self._n_batches if self._n_batches else 0)
        bar = f'<progress max="{self._max_epochs}" value="{min(done, self._max_epochs):.3f}"></progress>'
        lines = "<br>".join(escape(line) for line in (self._line, self._terms) if line)
        return f'<div style="font:13px/1.5 system-ui,sans-serif">{bar} {lines}</div>'


def progress_observer(
    progress: bool | None, metric: str, max_epochs: int, may_stop: bool, history: Iterable[Row] = ()
) -> Observer | None:
    """What shows a training.

    Args:
        progress: False: nothing; None: a bar on a terminal and in a notebook, elsewhere nothing; True: elsewhere lines.
        metric: what selects the best epoch.
        max_epochs, may_stop, history: see :class:`EpochText`.
    """
    if progress is False:
        return None
    text = EpochText(metric, max_epochs, may_stop, history)
    if in_notebook():
        return NotebookBar(text, max_epochs)
    if sys.stderr.isatty():
        return ProgressBar(metric, max_epochs)
    return ProgressLines(text, max_epochs) if progress else None
