"""A team of worker processes that take trials: replaced when they die."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

from recgraph.tuning.crew import POLL, Crew
from recgraph.tuning.plan import Plan
from recgraph.tuning.trials import Trials

__all__ = ["Team"]


class Team(Crew):
    """Worker processes on one study.

    Args:
        plan: what is tuned; it has a folder.
        trials: of the study, for replacing those of workers that die.
        split: folder of the split without its test part.
        size: how many workers.
    """

    def __init__(self, plan: Plan, trials: Trials, split: Path, size: int) -> None:
        super().__init__(plan, split, size)
        self._trials = trials
        # teams of several machines draw different trials; a team on a file draws the same when it is started again
        shared = trials.storage.url.startswith("postgres")
        self._place = f"{platform.node()}:{os.getpid()}" if shared else "team"

    def run(self) -> None:
        """Work until the study is done.

        Raises:
            KeyboardInterrupt: every worker has saved its training and given its trial back.
            WorkerFailed: names the error and the log.
        """
        try:
            for number in range(self._size):
                self._hire(f"{number}")
            while self._workers:
                for name, was_done in self._ended():
                    if not was_done:
                        self._replace(name)
                time.sleep(POLL)
        finally:
            was_cut_short = bool(self._workers)
            self._stop()
            if was_cut_short:
                self._trials.reap()

    def _hire(self, name: str) -> None:
        # the storage may hold a password: not on the command line, not on disk
        self._start(name, storage=self._trials.storage.url, name=f"{self._place}/{name}")

    def _replace(self, name: str) -> None:
        self._trials.reap()
        finished = self._trials.counts().finished
        self._count_death(name, finished)
        if finished < self._plan.n_trials:
            self._hire(name)
