"""The Wilcoxon pruner's values: the metric of blocks of validation users, one after the other.

That pruner pairs instances between a trial and the best one, so it wants values that differ by instance and not by
epoch. It saves what is left of the evaluation of a fitted model, not training: it is for models that fit fast and
rank many users (EASE, ItemKNN).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from recgraph.data.part import Cases
from recgraph.data.split import SealedSplit
from recgraph.evaluate.evaluator import evaluate, split_metric
from recgraph.rng import numpy_generator
from recgraph.run import Run

if TYPE_CHECKING:
    from optuna import Trial

__all__ = ["N_BLOCKS", "blocks_of_users"]

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
        found = evaluate(run.model, cases, seen=(seen,), cutoffs=(k,), metrics=(name,), fit_part=split.train)
        trial.report(found[0][f"{name}@{k}"], number)
        if number + 1 < len(blocks) and trial.should_prune():
            raise optuna.TrialPruned(f"pruned after {number + 1} of {len(blocks)} blocks of users")


def _rows(cases: Cases, rows: torch.Tensor) -> Cases:
    if cases.grades is not None:
        raise ValueError("pruner = 'wilcoxon' does not know graded truth; use another pruner")
    return Cases(cases.users[rows], cases.history.take(rows), cases.truth.take(rows), cases.n_items)
