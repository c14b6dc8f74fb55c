"""The trainings after the search, of the best and of the default configuration: one after the other or at once."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recgraph.data.split import SealedSplit, Split
from recgraph.run import Run
from recgraph.tuning.crew import POLL, Crew
from recgraph.tuning.plan import Plan
from recgraph.tuning.trial import fit, save_split

__all__ = ["Training", "train"]


@dataclass(frozen=True)
class Training:
    """One of them.

    Attributes:
        of: ``"tuned"`` or ``"default"``.
        number: from 0, of those with the same settings.
        settings: of the model and of training.
        seed: of the training.
        folder: of its run, or None.
    """

    of: str
    number: int
    settings: Mapping[str, Any]
    seed: int
    folder: Path | None

    @property
    def name(self) -> str:
        return f"{self.of}-{self.number}"

    @property
    def is_done(self) -> bool:
        return self.folder is not None and (self.folder / "record.json").exists()


class _Trainings(Crew):
    """Processes that each train once; one that is killed is started again and goes on from its last checkpoint."""

    def run(self, trainings: Sequence[Training], progress: bool | None) -> None:
        waiting, at_work = [*trainings], {training.name: training for training in trainings}
        try:
            while waiting or self._workers:
                while waiting and len(self._workers) < self._size:
                    training = waiting.pop(0)
                    _say(training, progress)
                    told = {"settings": training.settings, "seed": training.seed, "folder": str(training.folder)}
                    self._start(training.name, training=told)
                for name, was_done in self._ended():
                    if not was_done:
                        self._count_death(name, sum(training.is_done for training in trainings))
                        waiting.insert(0, at_work[name])
                time.sleep(POLL)
        finally:
            self._stop()


def train(
    plan: Plan, trainings: Sequence[Training], split: Split | SealedSplit, workers: int, progress: bool | None
) -> dict[str, list[Run]]:
    """Make the trainings that are not done yet.

    Args:
        workers: 1 trains in this process; more, so many at a time in others, that hold no test data.

    Returns:
        the runs by what they are of; none has been tested.

    Raises:
        KeyboardInterrupt: they are saved, and gone on with the next time.
        ValueError: a folder holds a training of other settings.
        WorkerFailed: a process ended with an error.
    """
    open_ones = [training for training in trainings if not training.is_done]
    if workers > 1 and len(open_ones) > 1:
        _Trainings(plan, save_split(plan, split), workers).run(open_ones, progress)
    runs: dict[str, list[Run]] = {}
    for training in trainings:
        if not training.is_done:
            _say(training, progress)
        # one that is done is opened, if its settings are these
        run = fit(plan, training.settings, split, training.seed, training.folder)
        runs.setdefault(training.of, []).append(run)
    return runs


def _say(training: Training, progress: bool | None) -> None:
    if progress or (progress is None and sys.stderr.isatty()):
        print(f"last trainings: {training.of}, seed {training.number + 1}", file=sys.stderr, flush=True)
