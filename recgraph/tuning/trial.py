"""One trial of a study: the same training as ``recgraph train``, reported epoch by epoch, without test data."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recgraph.config import ConfigError, distribute
from recgraph.data.split import SealedSplit, Split, without_test_data
from recgraph.files import NonFinite, read_object, remove_folder, replacing_folder, write_json
from recgraph.train import fit as experiment
from recgraph.train.observers import Observer
from recgraph.train.run import Run
from recgraph.tuning.objectives import blocks_of_users, measure
from recgraph.tuning.plan import Plan

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.trial import FrozenTrial

#: what a training writes in order to be resumed; the best configuration is trained again after the search
_FOR_RESUMING = ("checkpoints", "bundle", "best.safetensors")


class Reporter(Observer):
    """Reports each validation to the study, and ends a training that is pruned.

    It ends it at the start of the next epoch, when all other observers have seen the last one.

    Args:
        trial: that runs.
        metric: that is reported.
    """

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
        if self._metric in row:
            epoch = int(row["epoch"])
            if epoch not in self._reported:
                self._trial.report(float(row[self._metric]), epoch)
            if self._trial.should_prune():
                self._pruned_at = epoch


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
    there = read_object(folder / "split.json")["hash"]
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
        InUse: another process trains into the folder.
    """
    shared = distribute(settings, plan.space.parts)
    training = {**shared.get("training", {}), "metric": plan.selecting} if plan.is_trained else {}
    if folder is not None and folder.exists() and not (folder / "config.json").exists():
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


def run_trial(plan: Plan, trial: Trial, split: SealedSplit) -> list[float]:
    """Train a trial's configuration.

    Returns:
        A value for each objective.

    Raises:
        TrialPruned: the pruner ended it, it cannot be trained, or an objective is not a number or infinite.
        ValueError: an objective of one's own returned no numbers, or more or fewer than there are metrics.
        SealedTestError: something reached for test data.
    """
    import optuna

    by_epoch = plan.pruner not in ("none", "wilcoxon") and plan.can_prune
    observers = (Reporter(trial, plan.selecting),) if by_epoch else ()
    folder = folder_of(plan, trial.storage.get_trial(trial._trial_id))
    try:
        with without_test_data("a trial of a study runs"):
            run = fit(plan, plan.space.settings(trial.params), split, plan.seed, folder, observers)
            if plan.pruner == "wilcoxon":
                blocks_of_users(trial, run, split, plan.selecting, plan.seed)
            values = plan.objective(run) if plan.objective is not None else measure(plan.metrics, run, split)
        return _checked(values, plan.metrics)
    except Exception as error:
        if not (isinstance(error, optuna.TrialPruned) or cannot_be_trained(error)):
            raise
        trial.set_user_attr("reason", f"{error}" or type(error).__name__)
        raise optuna.TrialPruned from error


def cannot_be_trained(error: BaseException) -> bool:
    """Whether an error is the configuration's fault: it is not possible, diverges, or does not fit into memory."""
    import torch

    no_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
    return isinstance(error, NonFinite | ConfigError) or no_memory


def _checked(values: Any, metrics: Sequence[str]) -> list[float]:
    """One value for each objective, as Optuna takes them."""
    import optuna

    numbers = [float(value) for value in (values if isinstance(values, Sequence) else [values])]
    if len(numbers) != len(metrics):
        raise ValueError(f"the objective returned {len(numbers)} values for {', '.join(metrics)}; return one for each")
    for name, value in zip(metrics, numbers, strict=True):
        if not math.isfinite(value):
            raise optuna.TrialPruned(f"{name} is {'not a number' if math.isnan(value) else f'infinite ({value})'}")
    return numbers


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
    write_json(result, folder / "trial.json")
