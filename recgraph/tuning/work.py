"""The workers of a study: each runs trials until all are finished, and takes over those of workers that died.

A worker holds a lock beside the study, which the operating system frees however it ends, and names it in its trials. A
trial that runs although its worker's lock is free lost its worker: whoever asks for the next trial fails it, and queues
its parameters again. Optuna's heartbeats do the same for workers of other machines on one database.
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from recgraph import parallel
from recgraph.data.split import SealedSplit, Split
from recgraph.files import locked
from recgraph.pages import print_note
from recgraph.tuning.objectives import make_pruner, make_sampler
from recgraph.tuning.plan import Plan
from recgraph.tuning.report import best_trial
from recgraph.tuning.storage import JOURNAL, RETRIES, StudyStorage, naming_storage, open_storage, retry
from recgraph.tuning.trial import keep_result, run_trial, save_split

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

#: the attribute of a trial with the machine and the lock of its worker
_WORKER = "worker"
#: seconds between two requests for a trial where all that are wanted run
_POLL = 0.5


def load_study(plan: Plan, storage: StudyStorage) -> Study:
    """The study of a plan, which must exist."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = make_pruner(plan.pruner, plan.max_epochs)
    return optuna.load_study(study_name=plan.study, storage=storage.optuna, pruner=pruner)


def n_finished(study: Study) -> int:
    """How many trials are complete or pruned."""
    return sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in study.get_trials(deepcopy=False))


def run_trials(
    plan: Plan, storage: StudyStorage, split: Split | SealedSplit, engine: parallel.Engine, progress: bool
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
    pieces = (parallel.Piece(f"worker {number} of study {plan.study}", number) for number in range(engine.size))
    for _ in parallel.map(_worker, pieces, shared, engine, ordered=False):
        pass


def _worker(shared: tuple[Plan, str, Path, bool], number: int) -> None:
    """A worker of a study that is kept in a folder."""
    plan, url, split, progress = shared
    assert plan.folder is not None
    storage = open_storage(url)
    try:
        with ExitStack() as held, naming_storage(url):
            while True:
                lock = plan.folder.resolve() / "workers" / f"{number}.lock"
                try:
                    held.enter_context(locked(lock, wait=False))
                    break
                except BlockingIOError:  # another command on the same folder has a worker of that number
                    number += 1
            _work(plan, storage, SealedSplit.load(split).without_test(), str(lock), progress)
    finally:
        storage.close()


def _work(plan: Plan, storage: StudyStorage, split: SealedSplit, lock: str, progress: bool) -> None:
    """Run trials until the study has its number of finished ones.

    Args:
        split: without its test part.
        lock: that this worker holds.
    """
    from optuna.trial import TrialState

    study, me = load_study(plan, storage), f"{platform.node()}:{lock}"
    while n_finished(study) < plan.n_trials:
        # what is counted and what is asked for are one step: the study ends with its exact number of trials
        with ExitStack() as held:
            held.enter_context(storage.exclusive())
            for trial in study.get_trials(states=(TrialState.RUNNING,)):
                if _is_gone(trial, me, storage):
                    # parameters that were lost before they were drawn are drawn by the next trial
                    if _has_all(plan, trial) or "fixed_params" in trial.system_attrs:
                        retry(RETRIES)(study, trial)
                    storage.optuna.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            states = Counter(trial.state.name for trial in study.get_trials(deepcopy=False))
            if states["COMPLETE"] + states["PRUNED"] + states["RUNNING"] < plan.n_trials:
                _run_one(plan, study, storage, split, me, held)
                if progress:
                    print_note(f"[{time.strftime('%H:%M:%S')}] {_summary(plan, study)}")
                continue
        time.sleep(_POLL)


def _run_one(plan: Plan, study: Study, storage: StudyStorage, split: SealedSplit, me: str, held: ExitStack) -> None:
    """Ask for a trial, with its parameters, before ``held`` is left, and run it.

    Raises:
        KeyboardInterrupt: the trial's training was saved and its parameters wait in the queue.
        Exception: an error that is not the configuration's fault; its trial has failed.
    """
    import optuna

    ids: list[int] = []
    raised: list[BaseException] = []

    def objective(trial: Trial) -> list[float]:
        ids.append(trial._trial_id)
        trial.set_user_attr(_WORKER, me)
        for dimension in plan.space.dimensions.values():
            dimension.suggest(trial)
        held.close()
        try:
            return run_trial(plan, trial, split)
        except BaseException as error:
            if not isinstance(error, optuna.TrialPruned):
                raised.append(error)
            if isinstance(error, OSError | KeyboardInterrupt):  # its training goes on when the study does
                retry(None)(study, storage.optuna.get_trial(trial._trial_id))
            raise

    # those that take the place of another have its parameters: an interrupted study draws what it would have drawn
    own = [trial for trial in study.get_trials(deepcopy=False) if "failed_trial" not in trial.system_attrs]
    drawn = sum(_has_all(plan, trial) for trial in own)
    study.sampler = make_sampler(plan.sampler, plan.seed, plan.space, drawn)
    try:
        study.optimize(objective, n_trials=1)
    except Exception:
        # its heartbeats stood still, and another worker has taken the trial over
        if raised or not ids or not storage.optuna.get_trial(ids[0]).state.is_finished():
            raise
        return
    keep_result(plan, storage.optuna.get_trial(ids[0]))


def _has_all(plan: Plan, trial: FrozenTrial) -> bool:
    """Whether all parameters of a trial are drawn."""
    return plan.space.dimensions.keys() <= trial.params.keys()


def _is_gone(trial: FrozenTrial, me: str, storage: StudyStorage) -> bool:
    """Whether a trial runs although its worker has ended, as far as this machine can tell."""
    worker = trial.user_attrs.get(_WORKER)
    if worker is None or worker == me:  # a worker names itself under the lock that is held here, and this one runs none
        return True
    node, _, lock = worker.partition(":")
    if not Path(lock).exists() or (node != platform.node() and not storage.url.startswith(JOURNAL)):
        return False
    try:
        with locked(Path(lock), wait=False):
            return True
    except BlockingIOError:
        return False


def _summary(plan: Plan, study: Study) -> str:
    """One line: how far the study is, and its best trial."""
    states = Counter(trial.state.name for trial in study.get_trials(deepcopy=False))
    text = f"{states['COMPLETE'] + states['PRUNED']}/{plan.n_trials} finished ({states['PRUNED']} pruned)"
    if states["FAIL"]:
        text += f", {states['FAIL']} failed and replaced"
    best = best_trial(study)
    return text if best is None else f"{text}, best {plan.metrics[0]} {best.values[0]:.4f} (trial {best.number})"
