"""The end of a study: the best and the default configuration, trained with several seeds and tested once."""

from __future__ import annotations

import datetime as dt
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recgraph.data.files import replace_parquet, replace_text
from recgraph.data.split import SealedSplit, Split
from recgraph.evaluate.evaluator import METRICS, split_metric
from recgraph.evaluate.results import Results
from recgraph.evaluate.significance import over_users
from recgraph.rng import derive
from recgraph.run import Run
from recgraph.train.processes import Process, this_process
from recgraph.tuning.last_trainings import Training, train
from recgraph.tuning.lease import Lease, Watch
from recgraph.tuning.objectives import SECONDS
from recgraph.tuning.plan import Plan
from recgraph.tuning.trials import Trials

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

__all__ = ["UNSEALED", "best_trial", "test_the_best"]

#: the study's attribute that lists what was tested, each time that it was
UNSEALED = "unsealed"
_CLAIM = "tester"


def best_trial(study: Study) -> FrozenTrial | None:
    """The best complete trial; with several objectives, of the Pareto front the best in the first one."""
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    if not complete:
        return None
    if len(study.directions) == 1:
        return study.best_trial
    sign = 1 if study.directions[0].name == "MAXIMIZE" else -1
    return max(study.best_trials, key=lambda trial: sign * trial.values[0])


def test_the_best(
    plan: Plan, trials: Trials, split: Split | SealedSplit, n_seeds: int, workers: int, progress: bool | None
) -> dict[str, Any] | None:
    """Train the best and the default configuration with ``n_seeds`` seeds, then unseal and evaluate them once.

    As many are trained at once as there are ``workers``. What was tested before is not tested again. Of several
    processes on one study one does it.

    Returns:
        What the study records; None where no trial is complete, or where another process is at it.
    """
    study = trials.study
    best = best_trial(study)
    if best is None:
        return None
    before: list[dict[str, Any]] = study.user_attrs.get(UNSEALED, [])
    for told in before:
        if told["trial"] == best.number and told["n_seeds"] >= n_seeds:
            return told
    lease = _claim(plan, trials)
    if lease is None:
        return None
    with lease:
        configurations = {"tuned": plan.space.settings(best.params)}
        if plan.space.default() != best.params:
            configurations["default"] = dict(plan.space.fixed)
        trainings = []
        for name, settings in configurations.items():
            place = f"trial-{best.number:04d}" if name == "tuned" else name
            for number in range(n_seeds):
                folder = plan.folder / "final" / place / f"seed-{number}" if plan.folder else None
                trainings.append(Training(name, number, settings, derive(plan.seed, "final", number) % 2**31, folder))
        runs = train(plan, trainings, split, workers, progress)
        # everything is chosen and trained: now, and only now, the test part
        found = {name: _test(plan, those) for name, those in runs.items()}
        entry: dict[str, Any] = {
            "trial": best.number,
            "n_seeds": n_seeds,
            "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "reason": f"the best of {trials.counts().finished} trials is chosen",
            "split_hash": split.hash,
            "settings": configurations,
            "results": {name: _spreads(results) for name, results in found.items()},
            "comparison": _compare(found, plan.selecting),
        }
    with trials.storage.exclusive():
        study.set_user_attr(UNSEALED, [*study.user_attrs.get(UNSEALED, []), entry])
        study.set_user_attr(_CLAIM, None)
    if plan.folder is not None:
        told = {**entry, "recgraph": study.user_attrs["recgraph"], "source": plan.source}
        replace_text(json.dumps(told, indent=1), plan.folder / "result.json")
    return entry


def _claim(plan: Plan, trials: Trials) -> Lease | None:
    """The right to test, until it is given up or its holder is gone; None where another process has it."""
    watch = Watch(plan.grace)
    before: dict[str, Any] | None = None
    while True:
        with trials.storage.exclusive():
            held: dict[str, Any] | None = trials.study.user_attrs.get(_CLAIM)
            if held is None or Process.of(held) == this_process() or watch.is_lost(_CLAIM, held):
                return Lease(lambda value: trials.study.set_user_attr(_CLAIM, value), plan.interval)
        if Process.of(held).is_here or (before is not None and held != before):
            where = f"process {held['pid']} of {held['host'].split('/')[0]}"
            print(f"{where} is testing the best configuration", file=sys.stderr, flush=True)
            return None
        before = held
        time.sleep(min(1.0, plan.interval))


def _test(plan: Plan, runs: list[Run]) -> list[Results]:
    """Evaluate all runs of one configuration on test; the users' values are kept beside each run.

    What was tuned for is always measured, beside the default metrics and cut-offs.
    """
    names = [plan.selecting] if plan.objective is not None else [*plan.metrics, plan.selecting]
    wanted = [split_metric(name) for name in names if name != SECONDS]
    cutoffs = tuple(sorted({5, 10, 20, *(k for _, k in wanted)}))
    metrics = tuple(dict.fromkeys((*METRICS, *(name for name, _ in wanted))))
    found = [run.evaluate("test", cutoffs=cutoffs, metrics=metrics) for run in runs]
    for run, results in zip(runs, found, strict=True):
        if run.folder is not None:
            _keep_users(results, run.folder)
    return found


def _compare(found: dict[str, list[Results]], metric: str) -> dict[str, Any] | None:
    """The tuned against the default configuration, paired over users with the mean over seeds of each.

    Returns:
        seen-item convention -> difference, interval, p-value of the t-test, users; None where there is one
        configuration, or the metric is not measured on test.
    """
    if len(found) < 2 or metric not in found["tuned"][0][0].per_user:
        return None
    told: dict[str, Any] = {}
    for result in found["tuned"][0]:
        seen = result.protocol.seen
        tuned, default = ([results[result.hash] for results in found[name]] for name in ("tuned", "default"))
        difference = over_users(default, tuned, metric)
        told[seen] = {
            "metric": metric,
            "difference": difference.difference,
            "low": difference.interval.low,
            "high": difference.interval.high,
            "confidence": difference.interval.confidence,
            "p": difference.p_values["t"],
            "n_users": difference.n,
        }
    return told


def _spreads(found: list[Results]) -> dict[str, Any]:
    """seen-item convention -> metric -> mean and deviation over seeds."""
    return {result.protocol.seen: _spread([results[result.hash].metrics for results in found]) for result in found[0]}


def _keep_users(results: Results, folder: Path) -> None:
    for result in results:
        replace_parquet(result.users_frame(), folder / f"test_users_{result.protocol.seen}.parquet")


def _spread(metrics: list[dict[str, float]]) -> dict[str, dict[str, float | None]]:
    """metric -> its mean and standard deviation over seeds; of one seed there is no deviation."""
    return {
        name: {
            "mean": float(np.mean([values[name] for values in metrics])),
            "std": float(np.std([values[name] for values in metrics], ddof=1)) if len(metrics) > 1 else None,
        }
        for name in metrics[0]
    }
