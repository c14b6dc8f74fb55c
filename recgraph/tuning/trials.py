"""One trial: the same training as ``recgraph train``, watched epoch by epoch, without test data.

The trials of a study: asked for, told and failed so that each runs once and their number is exact.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recgraph.data.files import load_json
from recgraph.data.sealing import without_test_data
from recgraph.data.split import SealedSplit, Split
from recgraph.runs import fit as experiment
from recgraph.runs.run import Run
from recgraph.train.callbacks import Observer
from recgraph.train.lock import FolderInUse, hold
from recgraph.tuning.lease import Lease, Orphan, Watch
from recgraph.tuning.objectives import blocks_of_users, measure
from recgraph.tuning.plan import Plan
from recgraph.tuning.samplers import make_sampler
from recgraph.tuning.storage import StudyStorage

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.trial import FrozenTrial
if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial, TrialState

__all__ = ["Attendant", "Counts", "LeaseLost", "Trials", "fit", "folder_of", "run_trial", "save_split", "tidy"]


# What a training leaves that is only of use to go on with it: weights are made again for the best configuration.
_HEAVY = ("checkpoints", "bundle", "best.safetensors")
#: seconds between two attempts to get a folder that another process has
_POLL = 15.0
_log = logging.getLogger(__name__)


class LeaseLost(RuntimeError):
    """Others hold this worker's trial for lost and have replaced it."""


class Attendant(Observer):
    """Ends a training when whoever asked for it is gone, as if Ctrl-C had been pressed: it saves and stops."""

    def __init__(self, orphan: Orphan) -> None:
        self._orphan = orphan

    def advance(self) -> None:
        if self._orphan.is_one:
            os.kill(os.getpid(), signal.SIGINT)


class Reporter(Observer):
    """Reports each validation to the study, and ends the training where the pruner says so, or another has its trial.

    It ends it at the start of the next epoch, when all other observers have seen the last one.
    """

    def __init__(self, trial: Trial, metric: str, reports: bool, lease: Lease) -> None:
        self._trial, self._metric, self._reports, self._lease = trial, metric, reports, lease
        # of a trial that goes on where a lost one stopped
        self._reported = set(trial.storage.get_trial(trial._trial_id).intermediate_values)
        self._pruned_at: int | None = None

    def start_epoch(self, epoch: int, n_batches: int, done: int) -> None:
        import optuna

        if self._pruned_at is not None:
            raise optuna.TrialPruned(f"pruned after epoch {self._pruned_at}")
        if self._lease.lost:
            raise LeaseLost

    def end_epoch(self, row: Mapping[str, Any]) -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        if not self._reports or self._metric not in row:
            return
        epoch = int(row["epoch"])
        try:
            if epoch not in self._reported:
                self._trial.report(float(row[self._metric]), epoch)
            if self._trial.should_prune():
                self._pruned_at = epoch
        except UpdateFinishedTrialError:
            raise LeaseLost from None


def folder_of(plan: Plan, trial: FrozenTrial) -> Path | None:
    """Where a trial is kept. One that goes on where a lost one stopped keeps the folder of that."""
    if plan.folder is None:
        return None
    return plan.folder / "trials" / f"{int(trial.system_attrs.get('failed_trial', trial.number)):04d}"


def save_split(plan: Plan, split: Split | SealedSplit) -> Path:
    """Where the study keeps its split without the test part; it is made where it is not there yet.

    Raises:
        ValueError: another split is kept there.
    """
    assert plan.folder is not None
    folder = plan.folder / "split"
    if not (folder / "split.json").exists():
        split.sealed().save(folder)
    there = load_json(folder / "split.json")["hash"]
    if there != split.hash:
        raise ValueError(f"{folder} holds the split {there[:12]}, not {split.hash[:12]}; give the study a new folder")
    return folder


def fit(
    plan: Plan,
    settings: Mapping[str, Any],
    split: Split | SealedSplit,
    seed: int,
    folder: Path | None,
    observers: tuple[Observer, ...] = (),
) -> Run:
    """Fit one configuration; a folder that holds an unfinished training of it is gone on with.

    Raises:
        FolderInUse: another process trains into the folder.
    """
    shared = plan.space.shared(settings)
    training = {**shared.get("training", {}), "metric": plan.selecting} if plan.is_trained else {}
    if folder is not None and folder.exists() and not (folder / "config.json").exists():
        with hold(folder):
            if not (folder / "config.json").exists():
                shutil.rmtree(folder)  # ended before it began
    return experiment.fit(
        plan.model(**shared["model"]),
        split,
        seed=seed,
        out=folder,
        device=plan.device,
        resume=folder is not None and folder.exists(),
        progress=False,
        observers=observers,
        source=plan.source,
        **shared.get("items", {}),
        **training,
    )


def run_trial(
    plan: Plan, trial: Trial, settings: Mapping[str, Any], split: SealedSplit, lease: Lease, orphan: Orphan
) -> list[float]:
    """Train a trial's configuration.

    Returns:
        A value for each objective.

    Raises:
        TrialPruned: the pruner ended it, or an objective is not a number.
        ValueError: an objective of one's own returned more or fewer values than there are metrics.
        SealedTestError: something reached for test data.
        LeaseLost: the trial is no longer ours.
    """
    by_epoch = plan.pruner != "wilcoxon" and plan.can_prune
    observers = (Reporter(trial, plan.selecting, by_epoch, lease), Attendant(orphan))
    folder = folder_of(plan, trial.storage.get_trial(trial._trial_id))
    with without_test_data("a trial of a study runs"):
        run = None
        while run is None:
            try:
                run = fit(plan, settings, split, plan.seed, folder, observers)
            except FolderInUse as error:
                # whoever has lost the trial, on another machine, ends when it notices: at the latest with its epoch
                _log.warning("trial %d waits: %s", trial.number, error)
                _wait(lease, orphan)
        if plan.pruner == "wilcoxon":
            blocks_of_users(trial, run, split, plan.selecting, plan.seed)
        found = plan.objective(run) if plan.objective is not None else measure(plan.metrics, run, split)
        return _values(found, plan.metrics)


def _wait(lease: Lease, orphan: Orphan) -> None:
    time.sleep(_POLL)
    if lease.lost:
        raise LeaseLost
    if orphan.is_one:
        raise KeyboardInterrupt


def _values(found: float | Sequence[float], metrics: Sequence[str]) -> list[float]:
    """One value for each objective, as Optuna takes them."""
    import optuna

    values = [float(value) for value in (found if isinstance(found, Sequence) else [found])]
    if len(values) != len(metrics):
        raise ValueError(f"the objective returned {len(values)} values for {', '.join(metrics)}; return one for each")
    for name, value in zip(metrics, values, strict=True):
        if math.isnan(value):
            raise optuna.TrialPruned(f"{name} is not a number")
    return values


def tidy(folder: Path | None) -> None:
    """Remove what a finished trial needs no more; its log, its record and its configuration stay."""
    for name in _HEAVY if folder is not None else ():
        assert folder is not None
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


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
