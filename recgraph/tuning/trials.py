"""The trials of a study: each is run once, those of workers that died are replaced, and their number is exact."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recgraph.tuning.plan import Plan
from recgraph.tuning.samplers import GONE, make_pruner, make_sampler
from recgraph.tuning.storage import StudyStorage
from recgraph.workers.heartbeat import Expiry, Heartbeat, OwnershipLost

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial, TrialState

__all__ = ["HEARTBEAT", "Counts", "Trials", "load_study"]

#: the attribute of a trial with its heartbeat; it is called so in all studies
HEARTBEAT = "lease"
#: how often the same parameters are tried again after a worker died with them
_RETRIES = 3
_NOT_BEGUN = "its worker ended before it began"
#: the attribute of a trial that goes on with another's parameters: that trial's number
_GOES_ON_WITH = "failed_trial"
#: attributes of a trial whose parameters were queued: those of a trial that was given back, or a user's
_FIXED = "fixed_params"
_QUEUED = frozenset({_GOES_ON_WITH, _FIXED})


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


def load_study(plan: Plan, storage: StudyStorage) -> Study:
    """The study of a plan, which must exist."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = make_pruner(plan.pruner, plan.max_epochs)
    return optuna.load_study(study_name=plan.study, storage=storage.optuna, pruner=pruner)


class Trials:
    """The trials of a study, as one process sees them.

    Args:
        study: loaded from the storage.
        storage: with its lock.
        plan: what is tuned.
        expiry: of the heartbeats of others.
    """

    def __init__(self, study: Study, storage: StudyStorage, plan: Plan, expiry: Expiry | None = None) -> None:
        self.study, self.storage, self.plan = study, storage, plan
        self._expiry = expiry or Expiry(plan.grace)

    def counts(self) -> Counts:
        names = Counter(trial.state.name.lower() for trial in self.study.get_trials(deepcopy=False))
        return Counts(names["complete"], names["pruned"], names["running"], names["waiting"], names["fail"])

    def ask(self, worker: str) -> tuple[Trial, Heartbeat] | None:
        """A trial to run, with its heartbeat; None where all that are wanted run or have run.

        Args:
            worker: the name of who asks, different for those who ask at the same time.
        """
        with self.storage.exclusive():
            self._replace_expired()
            counts = self.counts()
            if counts.finished + counts.running >= self.plan.n_trials:
                return None
            n_drawn = sum(map(_has_own, self.study.get_trials(deepcopy=False)))
            self.study.sampler = make_sampler(self.plan.sampler, self.plan.seed, self.plan.space, n_drawn, worker)
            trial = self.study.ask(self.plan.space.distributions)
            return trial, Heartbeat(lambda values: _write(trial, values), self.plan.interval)

    def tell(self, trial: Trial, state: TrialState, values: Sequence[float] | None = None, reason: str = "") -> bool:
        """Record how a trial ended; False where others have failed it before."""
        with self.storage.exclusive():
            if self._frozen(trial).state.is_finished():
                return False
            if reason:
                trial.set_user_attr("reason", reason)
            self.study.tell(trial, values, state)
            return True

    def give_back(self, trial: Trial, reason: str) -> None:
        """Fail a trial that this process does not finish, and queue its parameters for a trial that resumes it."""
        with self.storage.exclusive():
            frozen = self._frozen(trial)
            if not frozen.state.is_finished():
                self._fail(frozen, reason, None)

    def replace_expired(self) -> int:
        """Fail and replace the trials whose worker is gone; how many there were."""
        with self.storage.exclusive():
            return self._replace_expired()

    def _replace_expired(self) -> int:
        from optuna.trial import TrialState

        count = 0
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            heartbeat = trial.user_attrs.get(HEARTBEAT)
            # workers write a trial's first heartbeat under the lock that is held here: one without it lost its worker
            # before that. Queued parameters are a user's, or those of a trial that trained already: they wait again
            if heartbeat is None:
                queued = not _QUEUED.isdisjoint(trial.system_attrs)
                self._fail(trial, _NOT_BEGUN, _RETRIES if queued else 0)
                count += 1
            elif self._expiry.has_expired(trial.number, heartbeat):
                self._fail(trial, GONE, _RETRIES)
                count += 1
        return count

    def _fail(self, trial: FrozenTrial, reason: str, retries: int | None) -> None:
        """Fail a trial and queue another one with its parameters, unless workers died more than ``retries`` times."""
        from optuna.trial import TrialState

        self.storage.optuna.set_trial_user_attr(trial._trial_id, "reason", reason)
        trials = {each.number: each for each in self.study.get_trials()}
        # those that were interrupted are in the history, too, and are no reason to give parameters up
        tried = [*trial.system_attrs.get("retry_history", []), trial.number]
        reasons = [trials[number].user_attrs.get("reason") for number in tried if number in trials]
        deaths = sum(why in (GONE, _NOT_BEGUN) for why in reasons)
        # queued first: a kill in between leaves a trial that runs, which the next look finds, and no parameters lost
        queued = any(trial.number in each.system_attrs.get("retry_history", []) for each in trials.values())
        if not queued and (retries is None or deaths <= retries):
            self._queue(trials[trial.number])
        self.storage.optuna.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def _queue(self, failed: FrozenTrial) -> None:
        """Queue a trial that goes on where this one stopped."""
        from optuna.exceptions import ExperimentalWarning
        from optuna.storages import RetryHeartbeatStaleTrialCallback

        failed.user_attrs = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)(self.study, failed)

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self.storage.optuna.get_trial(trial._trial_id)


def _has_own(trial: FrozenTrial) -> bool:
    """Whether a trial has parameters of its own, which were not lost with it. Only these trials count for the seed of
    the next draw, so that an interrupted study draws what it would have drawn without the interruption."""
    is_lost = trial.user_attrs.get("reason") == _NOT_BEGUN and _FIXED not in trial.system_attrs
    return not is_lost and _GOES_ON_WITH not in trial.system_attrs


def _write(trial: Trial, heartbeat: dict[str, Any]) -> None:
    from optuna.exceptions import UpdateFinishedTrialError

    try:
        trial.set_user_attr(HEARTBEAT, heartbeat)
    except UpdateFinishedTrialError:
        raise OwnershipLost from None
