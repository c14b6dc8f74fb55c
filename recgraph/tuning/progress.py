"""The table of a running study: the best trial, trials that run, the last that ended, the time that is left."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from recgraph.texts import for_terminal, tell
from recgraph.train.callbacks import duration
from recgraph.tuning.plan import Plan
from recgraph.tuning.trials import Trials

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial
    from rich.table import Table

__all__ = ["ProgressTable", "summary"]

#: seconds between two readings of the trials, and how many ended trials the table has
_EVERY = 1.0
_LAST = 8


def _value(trial: FrozenTrial) -> str:
    return ", ".join(f"{value:.4f}" for value in trial.values or ())


def _best(plan: Plan, trials: list[FrozenTrial]) -> FrozenTrial | None:
    """The complete trial that is best in the first objective."""
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    sign = 1 if plan.directions[0] == "maximize" else -1
    return max(complete, key=lambda trial: (sign * trial.values[0], -trial.number), default=None)


def summary(plan: Plan, trials: list[FrozenTrial]) -> str:
    """One line: how far the study is, its best trial, the time that is left."""
    finished = [trial for trial in trials if trial.state.name in ("COMPLETE", "PRUNED")]
    running = [trial for trial in trials if trial.state.name == "RUNNING"]
    pruned = sum(trial.state.name == "PRUNED" for trial in finished)
    failed = sum(trial.state.name == "FAIL" for trial in trials)
    parts = [f"{len(finished)}/{plan.n_trials} finished ({pruned} pruned)", f"{len(running)} running"]
    if failed:
        parts.append(f"{failed} failed and replaced")
    best = _best(plan, trials)
    if best is not None:
        parts.append(f"best {plan.metrics[0]} {best.values[0]:.4f} (trial {best.number})")
    seconds = [trial.duration.total_seconds() for trial in finished if trial.duration is not None]
    if seconds and len(finished) < plan.n_trials:
        left = sum(seconds) / len(seconds) * (plan.n_trials - len(finished)) / max(1, len(running))
        parts.append(f"about {duration(left)} left")
    return ", ".join(parts)


def _row(trial: FrozenTrial) -> tuple[str, str, str, str, str]:
    last = trial.last_step
    epoch = "" if last is None else f"{last}"
    value = _value(trial) or ("" if last is None else f"{trial.intermediate_values[last]:.4f}")
    params = ", ".join(
        f"{name}={round(held, 6) if isinstance(held, float) else held}" for name, held in trial.params.items()
    )
    return f"{trial.number}", trial.state.name.lower(), epoch, value, params


def table(plan: Plan, trials: list[FrozenTrial]) -> Table:
    """The best trial, all that run and the last that ended."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title = Text(for_terminal(f"{plan.study}: {summary(plan, trials)}"))
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("trial", "state", "epoch", ", ".join(plan.metrics), "parameters"):
        shown.add_column(Text(for_terminal(name)), overflow="fold" if name == "parameters" else "ellipsis")
    best = _best(plan, trials)
    ended = [trial for trial in trials if trial.state.is_finished() and trial is not best][-_LAST:]
    running = [trial for trial in trials if trial.state.name == "RUNNING"]
    for trial in [*([best] if best else []), *ended, *running]:
        number, state, *rest = _row(trial)
        shown.add_row(*(Text(for_terminal(cell)) for cell in (number, "best" if trial is best else state, *rest)))
    return shown


class ProgressTable:
    """Shows the table on a terminal while a block runs; elsewhere a line whenever a trial has ended.

    Args:
        trials: read once a second, from a thread.
        shown: None: on a terminal the table, elsewhere nothing; False: nothing; True: at least lines.
    """

    def __init__(self, plan: Plan, trials: Trials, shown: bool | None) -> None:
        self._plan, self._trials = plan, trials
        self._live = sys.stderr.isatty() and shown is not False
        self._lines = bool(shown) and not self._live
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._last = ""

    def __enter__(self) -> Self:
        if self._live or self._lines:
            self._thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        if not self._live:
            self._until_ended(self._print)
            return
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(stderr=True), auto_refresh=False) as live:
            self._until_ended(lambda found: live.update(table(self._plan, found), refresh=True))

    def _until_ended(self, show: Callable[[list[FrozenTrial]], None]) -> None:
        while True:
            ended = self._ended.is_set()
            try:
                show(self._trials.storage.optuna.get_all_trials(self._trials.study._study_id))
            except Exception as error:  # a storage may be away for a moment; the study goes on without the table
                self._last = f"{error}"
            if ended:
                return
            self._ended.wait(_EVERY)

    def _print(self, found: list[FrozenTrial]) -> None:
        key = f"{sum(trial.state.is_finished() for trial in found)}"
        if key != self._last:
            self._last = key
            tell(f"[{time.strftime('%H:%M:%S')}] {summary(self._plan, found)}")
