"""The trials of a study: asked for, told and failed so that each runs once and their number is exact."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from recgraph.tuning.lease import Lease, Watch
from recgraph.tuning.plan import Plan
from recgraph.tuning.samplers import make_sampler
from recgraph.tuning.storage import StudyStorage

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial, TrialState

__all__ = ["Counts", "Trials"]

#: how often the same parameters are tried again after a worker has died over them
_RETRIES = 3


@dataclass(frozen=True)
class Counts:
    """How many trials of a study are in which state."""

    complete: int = 0
    pruned: int = 0
    running: int = 0
    waiting: int = 0
    failed: int = 0

    @property
    def finished(self) -> int:
        return self.complete + self.pruned


class Trials:
    """The trials of a study, as one process sees them.

    Args:
        study: loaded from the storage.
        storage: with its lock.
        plan: what is tuned.
        watch: remembers the leases of others.
    """

    def __init__(self, study: Study, storage: StudyStorage, plan: Plan, watch: Watch | None = None) -> None:
        self.study, self.storage, self.plan = study, storage, plan
        self._watch = watch or Watch(plan.grace)

    def counts(self) -> Counts:
        names = Counter(trial.state.name.lower() for trial in self.study.get_trials(deepcopy=False))
        return Counts(names["complete"], names["pruned"], names["running"], names["waiting"], names["fail"])

    def next(self, worker: str) -> tuple[Trial, Lease] | None:
        """A trial to run with its lease; None where all that are wanted run or have run.

        Args:
            worker: the name of who asks, different for those who ask at the same time.
        """
        with self.storage.exclusive():
            self._reap()
            counts = self.counts()
            if counts.finished + counts.running >= self.plan.n_trials:
                return None
            n_made = len(self.study.get_trials(deepcopy=False))
            self.study.sampler = make_sampler(self.plan.sampler, self.plan.seed, self.plan.space, n_made, worker)
            trial = self.study.ask(self.plan.space.distributions)
            return trial, Lease(lambda lease: trial.set_user_attr("lease", lease), self.plan.interval)

    def tell(self, trial: Trial, state: TrialState, values: Sequence[float] | None = None, reason: str = "") -> bool:
        """Record how a trial ended; False where it was taken from us before."""
        with self.storage.exclusive():
            if self._frozen(trial).state.is_finished():
                return False
            if reason:
                trial.set_user_attr("reason", reason)
            self.study.tell(trial, values, state)
            return True

    def give_back(self, trial: Trial, reason: str) -> None:
        """Fail a trial that we do not finish, and queue its parameters: whoever takes them goes on with it."""
        with self.storage.exclusive():
            frozen = self._frozen(trial)
            if not frozen.state.is_finished():
                self._fail(frozen, reason, None)

    def reap(self) -> int:
        """Fail and replace the trials whose worker is gone; how many there were."""
        with self.storage.exclusive():
            return self._reap()

    def _reap(self) -> int:
        from optuna.trial import TrialState

        lost = 0
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            lease = trial.user_attrs.get("lease")
            # a trial gets its lease under the lock that we hold: without one, its worker died in between
            if lease is None:
                self._fail(trial, "its worker ended before it began", 0)
                lost += 1
            elif self._watch.is_lost(trial.number, lease):
                self._fail(trial, "its worker is gone", _RETRIES)
                lost += 1
        return lost

    def _fail(self, trial: FrozenTrial, reason: str, retries: int | None) -> None:
        """Fail a trial and put another one with its parameters in the queue, at most ``retries`` times."""
        from optuna.exceptions import ExperimentalWarning
        from optuna.storages import RetryHeartbeatStaleTrialCallback
        from optuna.trial import TrialState

        self.storage.optuna.set_trial_user_attr(trial._trial_id, "reason", reason)
        self.storage.optuna.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        if retries == 0:
            return
        again = next(t for t in self.study.get_trials() if t.number == trial.number)
        again.user_attrs = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            RetryHeartbeatStaleTrialCallback(max_retry=retries, inherit_intermediate_values=True)(self.study, again)

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self.storage.optuna.get_trial(trial._trial_id)
