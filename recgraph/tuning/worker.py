"""A worker: takes trials of a study until all are finished, or trains once for its end.

``python -m recgraph.tuning.worker`` reads its orders.
"""

from __future__ import annotations

import json
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from recgraph.config import ConfigError
from recgraph.data.files import replace_text
from recgraph.data.sealing import without_test_data
from recgraph.data.split import SealedSplit
from recgraph.train.trainer import NonFiniteLoss
from recgraph.tuning.lease import Lease, Orphan
from recgraph.tuning.plan import Plan
from recgraph.tuning.samplers import make_pruner
from recgraph.tuning.storage import StudyStorage, open_storage
from recgraph.tuning.trials import Attendant, LeaseLost, Trials, fit, folder_of, run_trial, tidy

if TYPE_CHECKING:
    from optuna import Study, Trial

__all__ = ["load_study", "work"]

_POLL = 0.5
#: exit codes of a worker: its work is done, it failed, it was interrupted
DONE, FAILED, INTERRUPTED = 0, 1, 130


def load_study(plan: Plan, storage: StudyStorage) -> Study:
    """The study of a plan, which must be there."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = make_pruner(plan.pruner, plan.max_epochs)
    return optuna.load_study(study_name=plan.study, storage=storage.optuna, pruner=pruner)


def work(plan: Plan, trials: Trials, split: SealedSplit, name: str, orphan: Orphan | None = None) -> None:
    """Run trials until the study has its number of finished ones.

    Args:
        name: of this worker, different for those who work at the same time.
        orphan: says that whoever asked for the work is gone; the work then ends as if Ctrl-C had been pressed.

    Raises:
        KeyboardInterrupt: the trial's training was saved and its parameters wait in the queue.
        Exception: an error that is not the configuration's fault; its trial has failed.
    """
    orphan = orphan or Orphan()
    while trials.counts().finished < plan.n_trials:
        if orphan.is_one:
            raise KeyboardInterrupt
        taken = trials.next(name)
        if taken is not None:
            _run(plan, trials, *taken, split, orphan)
        else:
            time.sleep(_POLL)


def _run(plan: Plan, trials: Trials, trial: Trial, lease: Lease, split: SealedSplit, orphan: Orphan) -> None:
    """Run one trial and tell how it ended."""
    import optuna
    from optuna.trial import TrialState

    values = None
    try:
        settings = plan.space.settings(trial.params)
        with lease:
            values = run_trial(plan, trial, settings, split, lease, orphan)
        state, reason = TrialState.COMPLETE, ""
    except (optuna.TrialPruned, NonFiniteLoss, ConfigError, MemoryError, torch.OutOfMemoryError) as error:
        # a configuration that is worse, diverges, cannot be or does not fit
        state, reason = TrialState.PRUNED, f"{error}" or type(error).__name__
    except LeaseLost:
        return
    except KeyboardInterrupt:
        trials.give_back(trial, "interrupted")
        raise
    except Exception as error:
        trials.tell(trial, TrialState.FAIL, reason=f"{type(error).__name__}: {error}")
        raise
    if trials.tell(trial, state, values, reason):
        _describe(plan, trials, trial)


def _describe(plan: Plan, trials: Trials, trial: Trial) -> None:
    """Write ``trial.json`` into a finished trial's folder and take out what is only of use while it runs."""
    frozen = trials.storage.optuna.get_trial(trial._trial_id)
    folder = folder_of(plan, frozen)
    if folder is None:
        return
    tidy(folder)
    told: dict[str, Any] = {
        "study": plan.study,
        "number": frozen.number,
        "state": frozen.state.name.lower(),
        "values": dict(zip(plan.metrics, frozen.values, strict=False)) if frozen.values else None,
        "params": frozen.params,
        "reason": frozen.user_attrs.get("reason", ""),
    }
    replace_text(json.dumps(told, indent=1), folder / "trial.json")


def _train(plan: Plan, orders: dict[str, Any], split: SealedSplit, orphan: Orphan) -> None:
    """One of the last trainings."""
    with without_test_data("the best configuration of a study is trained"):
        fit(plan, orders["settings"], split, orders["seed"], Path(orders["folder"]), (Attendant(orphan),))


def main() -> int:
    """A worker process: one JSON object with its orders on stdin, nothing on stdout, its troubles on stderr."""
    orders = json.load(sys.stdin)
    try:
        # how the team asks us to stop; ignored where a shell has put the command into the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
        plan, orphan = Plan.from_dict(orders["plan"]), Orphan(orders["parent"])
        split = SealedSplit.load(orders["split"]).without_test()
        if "training" in orders:
            _train(plan, orders["training"], split, orphan)
        else:
            storage = open_storage(orders["storage"])
            work(plan, Trials(load_study(plan, storage), storage, plan), split, orders["name"], orphan)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        traceback.print_exc()
        replace_text(f"{type(error).__name__}: {error}", Path(orders["trouble"]))
        return FAILED
    return DONE


if __name__ == "__main__":
    sys.exit(main())
