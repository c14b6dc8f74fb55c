"""Objectives by name: which way each is better, and how a fitted run is measured.

The Wilcoxon pruner pairs instances between a trial and the best one, so that it is given the metric of blocks of
validation users, one after the other, and not of epochs. It saves the rest of the evaluation of a fitted model, not
training: it is for models that fit fast and rank many users (EASE, ItemKNN).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch

from recgraph.config import ConfigError
from recgraph.data.part import Cases
from recgraph.data.split import SealedSplit
from recgraph.evaluate.evaluator import evaluate
from recgraph.evaluate.metrics.base import Metric
from recgraph.evaluate.metrics.names import full_name, metric_class, metric_of, split_metric, value_of
from recgraph.rng import numpy_generator
from recgraph.runs.run import Run

if TYPE_CHECKING:
    from optuna import Trial

__all__ = ["N_BLOCKS", "SECONDS", "blocks_of_users", "can_prune", "canonical", "direction", "measure", "selecting"]


#: the objective that is the training time
SECONDS = "train_seconds"
#: the metric that selects the best epoch where no objective can
FALLBACK = "ndcg@10"


def canonical(name: str) -> str:
    """An objective's full name: ``"coverage@20"`` -> ``"catalogue_coverage@20"``.

    Raises:
        ValueError: not ``"train_seconds"`` and not ``metric@k``, or no such metric.
        ConfigError: a metric that needs more than a ranking of the validation part.
    """
    if name == SECONDS:
        return name
    if "features" in metric_class(split_metric(name)[0])().needs:
        raise ConfigError(f"metric {name!r} needs features of items and cannot be tuned for; take another one")
    return full_name(name)


def direction(name: str) -> Literal["minimize", "maximize"]:
    """Which way an objective, by its full name, is better; those that are no metrics are maximised."""
    metric = _metric(name)
    lower = name == SECONDS or (metric is not None and not metric.higher_is_better)
    return "minimize" if lower else "maximize"


def selecting(names: Sequence[str]) -> str:
    """The metric that selects the best epoch of a training: the first objective that is about relevant items.

    One that is not (coverage, novelty) is best for a model that has learnt nothing; one that is better when it is
    lower selects no epoch, either.
    """
    for name in names:
        metric = _metric(name)
        if metric is not None and metric.needs_truth and metric.higher_is_better:
            return name
    return FALLBACK


def can_prune(names: Sequence[str]) -> bool:
    """Whether there is one objective, and a training reports it after each epoch."""
    return [*names] == [selecting(names)]


def measure(names: Sequence[str], run: Run, split: SealedSplit) -> list[float]:
    """The objectives of a fitted run, in its best epoch, on the validation part.

    Args:
        names: full names.
        run: holds the weights of its best epoch.
        split: of the run.
    """
    best = run.record.get("best_epoch")
    measured = dict(run.history[best - 1]) if best is not None else {}
    measured[SECONDS] = run.record["cost"]["seconds"]
    missing = [name for name in names if name not in measured]
    if missing:
        metrics, lengths = (tuple(dict.fromkeys(each)) for each in zip(*map(split_metric, missing), strict=True))
        cutoffs = [k for k in lengths if k is not None] or [1]
        seen = run.record["training"]["select_seen"]
        found = evaluate(run.model, split.valid, seen=(seen,), cutoffs=cutoffs, metrics=metrics, fit_part=split.train)
        measured |= {name: value_of(found[0].metrics, name) for name in missing}
    return [float(measured[name]) for name in names]


def _metric(name: str) -> type[Metric] | None:
    """The metric of a full name; None where it is the name of something else."""
    metric = metric_of(name)
    return metric if metric is not None and ("@" in name or not metric().cut) else None


#: of users, for the Wilcoxon pruner
N_BLOCKS = 20


def blocks_of_users(trial: Trial, run: Run, split: SealedSplit, metric: str, seed: int) -> None:
    """Report the metric of each block of users; the blocks are the same in every trial.

    Raises:
        TrialPruned: the trial is surely worse than the best.
    """
    import optuna

    name, k = split_metric(metric)
    order = torch.from_numpy(numpy_generator(seed, "wilcoxon").permutation(len(split.valid)))
    blocks = [block for block in order.chunk(N_BLOCKS) if len(block)]
    for number, block in enumerate(blocks):
        cases = _rows(split.valid, block.sort().values)
        seen = run.record["training"]["select_seen"]
        found = evaluate(run.model, cases, seen=(seen,), cutoffs=(k or 1,), metrics=(name,), fit_part=split.train)
        trial.report(value_of(found[0].metrics, metric), number)
        if number + 1 < len(blocks) and trial.should_prune():
            raise optuna.TrialPruned(f"pruned after {number + 1} of {len(blocks)} blocks of users")


def _rows(cases: Cases, rows: torch.Tensor) -> Cases:
    if cases.grades is not None:
        raise ValueError("pruner = 'wilcoxon' does not know graded truth; use another pruner")
    return cases.take(rows)
