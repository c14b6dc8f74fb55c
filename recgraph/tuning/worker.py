"""Workers of a study: in this process or in others they run trials until all are finished, or train once at its end.

``python -m recgraph.tuning.worker`` reads its orders, see :mod:`recgraph.workers.pool`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recgraph.config import ConfigError
from recgraph.data.sealing import without_test_data
from recgraph.data.split import SealedSplit
from recgraph.finite import NonFinite, lacks_memory
from recgraph.parallel import Engine
from recgraph.tuning.plan import Plan
from recgraph.tuning.storage import open_storage
from recgraph.tuning.trial import fit, keep_result, run_trial
from recgraph.tuning.trials import Trials, load_study
from recgraph.workers.heartbeat import Heartbeat, OwnershipLost
from recgraph.workers.pool import DONE, Outcome, Task, run_worker
from recgraph.workers.ray_pool import pool_on

if TYPE_CHECKING:
    from optuna import Trial

__all__ = ["WorkerFailed", "cannot_be_trained", "run_processes", "work"]

#: seconds between two requests for a trial where all that are wanted run
_POLL = 0.5
#: kills of workers in a row, without anything done in between, after which no more are started
_MOST_KILLS = 6


class WorkerFailed(RuntimeError):
    """A worker ended with an error, or workers are killed without getting anything done."""


def run_processes(
    plan: Plan,
    split: Path,
    size: int,
    orders: Mapping[str, Mapping[str, Any]],
    n_done: Callable[[], int],
    n_wanted: int,
    on_start: Callable[[str], None] = lambda _: None,
    engine: Engine | None = None,
) -> None:
    """Have worker processes follow orders; a worker that is killed is started again until all is done.

    Args:
        plan: of the study; it has a folder.
        split: folder of the split without its test part.
        size: how many workers at a time.
        orders: a worker's name -> what it is to do.
        n_done: how much is done; called when a worker was killed.
        n_wanted: how much is to be done.
        on_start: called with the name of a worker before it is started.
        engine: where the processes run; None: this machine.

    Raises:
        KeyboardInterrupt: every worker has saved its training.
        WorkerFailed: names the error and the log.
    """
    assert plan.folder is not None
    kills = before = 0

    def ended(task: Task, outcome: Outcome) -> bool:
        nonlocal kills, before
        if outcome.status == "interrupted":
            raise KeyboardInterrupt
        if outcome.status == "failed":
            raise WorkerFailed(f"worker {task.name} failed: {outcome.message}; see {task.log}")
        if outcome.status == "done":
            return False
        done = n_done()
        kills, before = (kills + 1 if done == before else 1), done
        if kills > _MOST_KILLS:
            raise WorkerFailed(f"workers are killed and nothing gets done; see {task.log}")
        return done < n_wanted

    common = {"plan": plan.to_dict(), "split": str(split)}
    folder = plan.folder / "workers"
    tasks = [Task(name, {**common, **each}, folder / f"{name}.log") for name, each in orders.items()]
    threads = engine.threads if engine is not None and engine.name != "local" else max(1, (os.cpu_count() or 1) // size)
    pool = pool_on(engine, "recgraph.tuning.worker", size, threads)
    pool.run(tasks, ended, lambda task: on_start(task.name))


def work(plan: Plan, trials: Trials, split: SealedSplit, name: str) -> None:
    """Run trials until the study has its number of finished ones.

    Args:
        plan: what is tuned.
        trials: of the study.
        split: without its test part.
        name: of this worker, different for those who work at the same time.

    Raises:
        KeyboardInterrupt: the trial's training was saved and its parameters wait in the queue.
        Exception: an error that is not the configuration's fault; its trial has failed.
    """
    while trials.counts().finished < plan.n_trials:
        asked = trials.ask(name)
        if asked is not None:
            trial, heartbeat = asked
            with heartbeat:  # until the trial is told: other threads of this process would take it over
                _run(plan, trials, trial, heartbeat, split)
        else:
            time.sleep(_POLL)


def _run(plan: Plan, trials: Trials, trial: Trial, heartbeat: Heartbeat, split: SealedSplit) -> None:
    """Run one trial and record how it ended."""
    import optuna
    from optuna.trial import TrialState

    values = None
    try:
        values = run_trial(plan, trial, split, heartbeat)
        state, reason = TrialState.COMPLETE, ""
    except OwnershipLost:
        return
    except KeyboardInterrupt:
        trials.give_back(trial, "interrupted")
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, OSError):  # a full disk, say: its parameters are tried when the study goes on
            with suppress(Exception):  # where the storage is on it, the trial is replaced then
                trials.give_back(trial, reason)
            raise
        if not isinstance(error, optuna.TrialPruned) and not cannot_be_trained(error):
            trials.tell(trial, TrialState.FAIL, reason=reason)
            raise
        # a configuration that is worse, or cannot be trained
        state, reason = TrialState.PRUNED, f"{error}" or type(error).__name__
    if trials.tell(trial, state, values, reason):
        keep_result(plan, trials.storage.optuna.get_trial(trial._trial_id))


def cannot_be_trained(error: BaseException) -> bool:
    """Whether an error is the configuration's fault: it is not possible, diverges, or does not fit into memory."""
    return isinstance(error, NonFinite | ConfigError) or lacks_memory(error)


def follow(orders: dict[str, Any]) -> int:
    """Do what the orders of a worker process say -> its exit code."""
    plan, split = Plan.from_dict(orders["plan"]), SealedSplit.load(orders["split"]).without_test()
    if "training" in orders:
        training = orders["training"]
        with without_test_data("the best configuration of a study is trained"):
            fit(plan, training["settings"], split, training["seed"], Path(training["folder"]))
    else:
        storage = open_storage(orders["storage"])
        work(plan, Trials(load_study(plan, storage), storage, plan), split, orders["name"])
    return DONE


if __name__ == "__main__":
    sys.exit(run_worker(follow))
