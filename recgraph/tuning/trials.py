"""The trials of a study, and the workers that run them, which take over those of workers that died.

A worker holds a lock beside the study, which the operating system frees however it ends, and names
it in its trials. A trial that runs although its worker's lock is free lost its worker: whoever
takes the next trial fails it, and queues its parameters again. Optuna's heartbeats do the same for
workers of other machines on one database.
"""

from __future__ import annotations

import math
import platform
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recgraph import parallel
from recgraph.config import ConfigError
from recgraph.data.split import SealedSplit, Split, without_test_data
from recgraph.files import locked, read_object, remove_folder, replacing_folder, write_json
from recgraph.models.base import NonFinite
from recgraph.pages import print_note
from recgraph.train import fit as experiment
from recgraph.train.config import distribute
from recgraph.train.observers import Observer
from recgraph.train.run import Run
from recgraph.tuning.objectives import make_pruner, make_sampler, measure
from recgraph.tuning.plan import Plan
from recgraph.tuning.report import best_trial
from recgraph.tuning.storage import (
    JOURNAL,
    RETRIES,
    StudyStorage,
    naming_storage,
    open_storage,
    retry,
)

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

#: the attribute of a trial with the machine and the lock of its worker
_WORKER = "worker"
#: seconds between two requests for a trial where all that are wanted run
_POLL = 0.5


# -- one trial


class Reporter(Observer):
    """Reports each validation to the study, and ends a training that is pruned at the start of the
    next epoch, when all other observers have seen the last one."""

    def __init__(self, trial: Trial, metric: str) -> None:
        self._trial, self._metric = trial, metric
        # a trial that replaces another one has its values from before
        self._reported = {*trial.storage.get_trial(trial._trial_id).intermediate_values}
        self._pruned_at: int | None = None

    def start_epoch(self, epoch: int, n_batches: int, done: int) -> None:
        import optuna

        if self._pruned_at is not None:
            raise optuna.TrialPruned(f"pruned after epoch {self._pruned_at}")

    def end_epoch(self, row: Mapping[str, Any]) -> None:
        if self._metric not in row:
            return
        epoch = int(row["epoch"])
        if epoch not in self._reported:
            self._trial.report(float(row[self._metric]), epoch)
        if self._trial.should_prune():
            self._pruned_at = epoch


def folder_of(plan: Plan, trial: FrozenTrial) -> Path | None:
    """A trial's folder. A trial that replaces a failed one has the folder of the first of them, and
    resumes there.
    """
    if plan.folder is None:
        return None
    number = int(trial.system_attrs.get("failed_trial", trial.number))
    return plan.folder / "trials" / f"{number:04d}"


def save_split(plan: Plan, split: Split | SealedSplit) -> Path:
    """The folder of the study's split without its test part, which is written where it is not there
    yet.
    """
    assert plan.folder is not None
    folder = plan.folder / "split"
    if not (folder / "split.json").exists():
        with replacing_folder(folder) as new:
            split.sealed().save(new)
    saved = read_object(folder / "split.json")["hash"]
    if saved != split.hash:
        raise ValueError(
            f"{folder} holds the split {saved[:12]}, not {split.hash[:12]}; give the study a new folder"
        )
    return folder


def fit(
    plan: Plan,
    settings: Mapping[str, Any],
    split: Split | SealedSplit,
    seed: int,
    folder: Path | None,
    observers: tuple[Observer, ...] = (),
) -> Run:
    """Fit one configuration, or resume it from a folder that holds an unfinished training of it;
    InUse: another process trains into the folder."""
    by_part = distribute(settings, plan.space.parts)
    resume = False
    if folder is not None:
        resume = (folder / "config.json").exists()
        if not resume:  # it ended before it began
            shutil.rmtree(folder, ignore_errors=True)
    return experiment.fit(
        plan.model(**by_part["model"]),
        split,
        seed=seed,
        out=folder,
        device=plan.device,
        resume=resume,
        progress=False,
        observers=observers,
        source=plan.source,
        **by_part.get("items", {}),
        **by_part.get("training", {}) | plan.selection,
    )


def run_trial(plan: Plan, trial: Trial, split: SealedSplit) -> list[float]:
    """Train a trial's configuration.

    Returns:
        A value for each objective.

    Raises:
        TrialPruned: the pruner ended it, it cannot be trained, or an objective is not a number or
            infinite.
        ValueError: an objective of one's own returned more or fewer numbers than there are metrics.
        SealedTestError: something reached for test data.
    """
    import optuna

    observers: tuple[Observer, ...] = ()
    if plan.can_prune and plan.pruner != "none":
        observers = (Reporter(trial, plan.selecting),)
    folder = folder_of(plan, trial.storage.get_trial(trial._trial_id))
    settings = plan.space.settings(trial.params)
    try:
        with without_test_data("a trial of a study runs"):
            run = fit(plan, settings, split, plan.seed, folder, observers)
            if plan.objective is None:
                values: Any = measure(plan.metrics, run, split)
            else:
                values = plan.objective(run)
        return _checked(values, plan.metrics)
    except optuna.TrialPruned as error:
        trial.set_user_attr("reason", str(error))
        raise
    except Exception as error:
        if not cannot_be_trained(error):
            raise
        trial.set_user_attr("reason", str(error) or type(error).__name__)
        raise optuna.TrialPruned from error


def cannot_be_trained(error: BaseException) -> bool:
    """Whether an error is the configuration's fault: it is not possible, diverges, or does not fit
    into memory.
    """
    import torch

    types = NonFinite | ConfigError | MemoryError | torch.OutOfMemoryError
    return isinstance(error, types) or "allocate memory" in str(error)


def _checked(values: Any, metrics: Sequence[str]) -> list[float]:
    """One value for each objective, as Optuna takes them."""
    import optuna

    numbers: list[float] = np.atleast_1d(np.asarray(values, dtype=float)).tolist()
    if len(numbers) != len(metrics):
        raise ValueError(
            f"the objective returned {len(numbers)} values for {', '.join(metrics)}; return one for each"
        )
    for name, value in zip(metrics, numbers, strict=True):
        if not math.isfinite(value):
            raise optuna.TrialPruned(f"{name} is {value}, no finite number")
    return numbers


def keep_result(plan: Plan, trial: FrozenTrial) -> None:
    """Write ``trial.json`` into a finished trial's folder, and remove what was there for resuming
    it: the best configuration is trained again after the search.
    """
    folder = folder_of(plan, trial)
    if folder is None:
        return
    remove_folder(folder / "checkpoints")
    remove_folder(folder / "bundle")
    (folder / "best.safetensors").unlink(missing_ok=True)
    result: dict[str, Any] = {
        "study": plan.study,
        "number": trial.number,
        "state": trial.state.name.lower(),
        "values": dict(zip(plan.metrics, trial.values, strict=True)) if trial.values else None,
        "params": trial.params,
        "reason": trial.user_attrs.get("reason", ""),
    }
    write_json(result, folder / "trial.json")


# -- the workers


def load_study(plan: Plan, storage: StudyStorage) -> Study:
    """The study of a plan, which must exist."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = make_pruner(plan.pruner, plan.max_epochs)
    return optuna.load_study(study_name=plan.study, storage=storage.optuna, pruner=pruner)


def n_finished(study: Study) -> int:
    """How many trials are complete or pruned."""
    from optuna.trial import TrialState

    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def run_trials(
    plan: Plan,
    storage: StudyStorage,
    split: Split | SealedSplit,
    engine: parallel.Engine,
    progress: bool,
) -> None:
    """Run trials until the study is done, in this process or in several others."""
    if n_finished(load_study(plan, storage)) >= plan.n_trials:
        return
    if plan.folder is None:
        _work(plan, storage, split.sealed().without_test(), "", progress)
        return
    shared = plan, storage.url, save_split(plan, split), progress
    if engine.name == "local" and engine.size == 1:
        _worker(shared, 0)
        return
    pieces = [
        parallel.Piece(f"worker {number} of study {plan.study}", number)
        for number in range(engine.size)
    ]
    list(parallel.map(_worker, pieces, shared, engine, ordered=False))


def _worker(shared: tuple[Plan, str, Path, bool], number: int) -> None:
    """A worker of a study that is kept in a folder."""
    plan, url, split_folder, progress = shared
    assert plan.folder is not None
    split = SealedSplit.load(split_folder).without_test()
    storage = open_storage(url)
    try:
        with ExitStack() as locks, naming_storage(url):
            for free in count(number):
                lock = plan.folder.resolve() / "workers" / f"{free}.lock"
                # another command on the same folder may have a worker of that number
                with suppress(BlockingIOError):
                    locks.enter_context(locked(lock, wait=False))
                    break
            _work(plan, storage, split, str(lock), progress)
    finally:
        storage.close()


def _work(plan: Plan, storage: StudyStorage, split: SealedSplit, lock: str, progress: bool) -> None:
    """Run trials, on a split without its test part, until the study has its number of finished
    ones.
    """
    from optuna.trial import TrialState

    study = load_study(plan, storage)
    worker = f"{platform.node()}:{lock}"
    taken = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
    while n_finished(study) < plan.n_trials:
        # what is counted and what is asked for are one step: the study ends with its exact number
        # of trials
        with ExitStack() as until_asked:
            until_asked.enter_context(storage.exclusive())
            _replace_lost(plan, study, storage, worker)
            if len(study.get_trials(deepcopy=False, states=taken)) < plan.n_trials:
                _run_one(plan, study, storage, split, worker, until_asked)
                if progress:
                    print_note(f"[{time.strftime('%H:%M:%S')}] {_summary(plan, study)}")
                continue
        time.sleep(_POLL)


def _replace_lost(plan: Plan, study: Study, storage: StudyStorage, worker: str) -> None:
    """Fail the trials that have lost their workers, and queue their parameters again."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if _is_gone(trial, worker, storage):
            # parameters that were lost before they were drawn are drawn by the next trial
            if _has_all(plan, trial) or "fixed_params" in trial.system_attrs:
                retry(RETRIES)(study, trial)
            storage.optuna.set_trial_state_values(trial._trial_id, TrialState.FAIL)


def _run_one(
    plan: Plan,
    study: Study,
    storage: StudyStorage,
    split: SealedSplit,
    worker: str,
    until_asked: ExitStack,
) -> None:
    """Ask for a trial, with its parameters, before ``until_asked`` is left, and run it.

    Raises:
        KeyboardInterrupt: the trial's training was saved and its parameters wait in the queue.
        Exception: an error that is not the configuration's fault; its trial has failed.
    """
    import optuna

    ids: list[int] = []
    errors: list[BaseException] = []

    def objective(trial: Trial) -> list[float]:
        ids.append(trial._trial_id)
        trial.set_user_attr(_WORKER, worker)
        for dimension in plan.space.dimensions.values():
            dimension.suggest(trial)
        until_asked.close()
        try:
            return run_trial(plan, trial, split)
        except optuna.TrialPruned:
            raise
        except BaseException as error:
            errors.append(error)
            # its training goes on when the study does
            if isinstance(error, OSError | KeyboardInterrupt):
                retry(None)(study, storage.optuna.get_trial(trial._trial_id))
            raise

    # those that take the place of another have its parameters: an interrupted study draws what it
    # would have drawn
    drawn = sum(
        _has_all(plan, trial) and "failed_trial" not in trial.system_attrs
        for trial in study.get_trials(deepcopy=False)
    )
    study.sampler = make_sampler(plan.sampler, plan.seed, plan.space, drawn)
    try:
        study.optimize(objective, n_trials=1)
    except Exception:
        # its heartbeats stood still, and another worker has taken the trial over
        if errors or not ids or not storage.optuna.get_trial(ids[0]).state.is_finished():
            raise
        return
    keep_result(plan, storage.optuna.get_trial(ids[0]))


def _has_all(plan: Plan, trial: FrozenTrial) -> bool:
    """Whether all parameters of a trial are drawn."""
    return plan.space.dimensions.keys() <= trial.params.keys()


def _is_gone(trial: FrozenTrial, worker: str, storage: StudyStorage) -> bool:
    """Whether a trial runs although its worker has ended, as far as this machine can tell."""
    owner = trial.user_attrs.get(_WORKER)
    # a worker names itself under the lock that is held here, and this one runs none
    if owner in (None, worker):
        return True
    node, _, lock = owner.partition(":")
    is_shared = node == platform.node() or storage.url.startswith(JOURNAL)
    if not is_shared or not Path(lock).exists():
        return False
    try:
        with locked(Path(lock), wait=False):
            return True
    except BlockingIOError:
        return False


def _summary(plan: Plan, study: Study) -> str:
    """One line: how far the study is, and its best trial."""
    states = Counter(trial.state.name for trial in study.get_trials(deepcopy=False))
    text = f"{n_finished(study)}/{plan.n_trials} finished ({states['PRUNED']} pruned)"
    if states["FAIL"]:
        text += f", {states['FAIL']} failed and replaced"
    best = best_trial(study)
    if best is not None:
        text += f", best {plan.metrics[0]} {best.values[0]:.4f} (trial {best.number})"
    return text
