"""One trial of a study: the same training as ``recgraph train``, reported epoch by epoch, without test data."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recgraph.data.files import remove_folder, replacing_folder, sweep
from recgraph.data.imprint import load_json, replace_json
from recgraph.data.sealing import without_test_data
from recgraph.data.split import SealedSplit, Split
from recgraph.runs import fit as experiment
from recgraph.runs.run import Run
from recgraph.train.callbacks import Observer
from recgraph.tuning.objectives import blocks_of_users, measure
from recgraph.tuning.plan import Plan
from recgraph.workers.heartbeat import Heartbeat, OwnershipLost
from recgraph.workers.lock import FolderInUse, hold

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.trial import FrozenTrial

__all__ = ["fit", "folder_of", "keep_result", "keep_results", "run_trial", "save_split"]

#: what a training writes in order to be resumed; the best configuration is trained again after the search
_FOR_RESUMING = ("checkpoints", "bundle", "best.safetensors")
#: states of trials that are not tried again
_FINISHED = ("COMPLETE", "PRUNED")
#: seconds between two attempts to get a folder that another process has
_POLL = 15.0
_log = logging.getLogger(__name__)


class Reporter(Observer):
    """Reports each validation to the study, and ends a training that is pruned or that others have taken over.

    It ends it at the start of the next epoch, when all other observers have seen the last one.

    Args:
        trial: that runs.
        metric: that is reported.
        reports: whether epochs are reported at all.
        heartbeat: of the trial.
    """

    def __init__(self, trial: Trial, metric: str, reports: bool, heartbeat: Heartbeat) -> None:
        self._trial, self._metric, self._reports, self._heartbeat = trial, metric, reports, heartbeat
        # a trial that replaces another one has its values from before
        self._reported = set(trial.storage.get_trial(trial._trial_id).intermediate_values)
        self._pruned_at: int | None = None

    def start_epoch(self, epoch: int, n_batches: int, done: int) -> None:
        import optuna

        if self._pruned_at is not None:
            raise optuna.TrialPruned(f"pruned after epoch {self._pruned_at}")
        self._heartbeat.check()

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
            raise OwnershipLost from None


def folder_of(plan: Plan, trial: FrozenTrial) -> Path | None:
    """A trial's folder. A trial that replaces a failed one has the folder of the first of them, and resumes there."""
    if plan.folder is None:
        return None
    return plan.folder / "trials" / f"{int(trial.system_attrs.get('failed_trial', trial.number)):04d}"


def save_split(plan: Plan, split: Split | SealedSplit) -> Path:
    """The folder of the study's split without its test part, which is written where it is not there yet.

    Raises:
        ValueError: it holds another split.
    """
    assert plan.folder is not None
    folder = plan.folder / "split"
    if not (folder / "split.json").exists():
        with replacing_folder(folder) as new:
            split.sealed().save(new)
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
    """Fit one configuration, or resume it from a folder that holds an unfinished training of it.

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


def run_trial(plan: Plan, trial: Trial, split: SealedSplit, heartbeat: Heartbeat) -> list[float]:
    """Train a trial's configuration.

    Returns:
        A value for each objective.

    Raises:
        TrialPruned: the pruner ended it, or an objective is not a number or infinite.
        ValueError: an objective of one's own returned no numbers, or more or fewer than there are metrics.
        SealedTestError: something reached for test data.
        OwnershipLost: others have taken the trial over.
    """
    by_epoch = plan.pruner != "wilcoxon" and plan.can_prune
    reporter = Reporter(trial, plan.selecting, by_epoch, heartbeat)
    folder = folder_of(plan, trial.storage.get_trial(trial._trial_id))
    settings = plan.space.settings(trial.params)
    with without_test_data("a trial of a study runs"):
        run = None
        while run is None:
            try:
                run = fit(plan, settings, split, plan.seed, folder, (reporter,))
            except FolderInUse as error:
                # a process of another machine that has lost the trial ends when it notices, at the end of an epoch
                _log.warning("trial %d waits: %s", trial.number, error)
                time.sleep(_POLL)
                heartbeat.check()
        if plan.pruner == "wilcoxon":
            blocks_of_users(trial, run, split, plan.selecting, plan.seed)
        values = plan.objective(run) if plan.objective is not None else measure(plan.metrics, run, split)
        return _checked(values, plan.metrics)


def _checked(values: Any, metrics: Sequence[str]) -> list[float]:
    """One value for each objective, as Optuna takes them."""
    import optuna

    is_sequence = isinstance(values, Sequence) and not isinstance(values, str)
    try:
        numbers = [float(value) for value in (values if is_sequence else [values])]
    except (TypeError, ValueError):
        wanted = "a number for each of " if len(metrics) > 1 else "a number, "
        raise ValueError(f"the objective returned {values!r}; return {wanted}{', '.join(metrics)}") from None
    if len(numbers) != len(metrics):
        raise ValueError(f"the objective returned {len(numbers)} values for {', '.join(metrics)}; return one for each")
    for name, value in zip(metrics, numbers, strict=True):
        if not math.isfinite(value):
            raise optuna.TrialPruned(f"{name} is {'not a number' if math.isnan(value) else f'infinite ({value})'}")
    return numbers


def keep_results(plan: Plan, trials: Sequence[FrozenTrial]) -> None:
    """Do for finished trials what their process was killed before it did, see :func:`keep_result`."""
    for trial in trials:
        folder = folder_of(plan, trial)
        if trial.state.name in _FINISHED and folder is not None and folder.is_dir():
            sweep(folder)
            if not (folder / "trial.json").exists():
                keep_result(plan, trial)


def keep_result(plan: Plan, trial: FrozenTrial) -> None:
    """Write ``trial.json`` into a finished trial's folder, and remove what was there for resuming it."""
    folder = folder_of(plan, trial)
    if folder is None:
        return
    for path in (folder / name for name in _FOR_RESUMING):
        if path.is_dir():
            remove_folder(path)
        else:
            path.unlink(missing_ok=True)
    result: dict[str, Any] = {
        "study": plan.study,
        "number": trial.number,
        "state": trial.state.name.lower(),
        "values": dict(zip(plan.metrics, trial.values, strict=False)) if trial.values else None,
        "params": trial.params,
        "reason": trial.user_attrs.get("reason", ""),
    }
    replace_json(result, folder / "trial.json")
