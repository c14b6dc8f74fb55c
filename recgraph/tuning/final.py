"""The end of a study: the best and the default configuration are trained with several seeds and tested once."""

from __future__ import annotations

import datetime as dt
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recgraph.data.imprint import replace_json, replace_parquet
from recgraph.data.split import SealedSplit, Split
from recgraph.evaluate.metrics.names import DEFAULT_METRICS, split_metric
from recgraph.evaluate.results import Results
from recgraph.evaluate.significance import over_users
from recgraph.parallel import Engine
from recgraph.rng import derive
from recgraph.runs.run import Run
from recgraph.texts import tell
from recgraph.tuning.objectives import SECONDS
from recgraph.tuning.plan import Plan
from recgraph.tuning.trial import fit, save_split
from recgraph.tuning.trials import Trials
from recgraph.tuning.worker import WorkerFailed, cannot_be_trained, run_processes
from recgraph.workers.heartbeat import Expiry, Heartbeat
from recgraph.workers.process import Process, this_process

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

__all__ = ["UNSEALED", "Training", "best_trial", "outcomes", "test_rows", "test_the_best", "train"]


@dataclass(frozen=True)
class Training:
    """A training of one configuration with one seed.

    Attributes:
        of: ``"tuned"`` or ``"default"``.
        number: from 0, of those with the same settings.
        settings: of the model and of training.
        seed: of the training.
        folder: of its run, or None.
    """

    of: str
    number: int
    settings: Mapping[str, Any]
    seed: int
    folder: Path | None

    @property
    def name(self) -> str:
        return f"{self.of}-{self.number}"

    @property
    def is_done(self) -> bool:
        return self.folder is not None and (self.folder / "record.json").exists()


def train(
    plan: Plan,
    trainings: Sequence[Training],
    split: Split | SealedSplit,
    workers: int,
    progress: bool | None,
    engine: Engine | None = None,
) -> dict[str, list[Run]]:
    """Do the trainings that are not done yet.

    Args:
        plan: of the study.
        trainings: of all configurations and seeds.
        split: of the study.
        workers: 1 trains in this process; more train as many at a time in processes that hold no test data.
        progress: print a line for each training; None: on a terminal.
        engine: where the processes run; None: this machine.

    Returns:
        ``"tuned"`` or ``"default"`` -> its runs; none has been tested.

    Raises:
        KeyboardInterrupt: they are saved, and resumed the next time.
        ValueError: a folder holds a training of other settings.
        WorkerFailed: a process ended with an error.
    """
    missing = {training.name: training for training in trainings if not training.is_done}
    if missing and (engine is not None or (workers > 1 and len(missing) > 1)):
        orders = {
            name: {"training": {"settings": each.settings, "seed": each.seed, "folder": str(each.folder)}}
            for name, each in missing.items()
        }
        run_processes(
            plan,
            save_split(plan, split),
            workers,
            orders,
            n_done=lambda: sum(each.is_done for each in missing.values()),
            n_wanted=len(missing),
            on_start=lambda name: _print(missing[name], progress),
            engine=engine,
        )
    runs: dict[str, list[Run]] = {}
    for training in trainings:
        if not training.is_done:
            _print(training, progress)
        # one that is done is opened, if its settings are these
        run = fit(plan, training.settings, split, training.seed, training.folder)
        runs.setdefault(training.of, []).append(run)
    return runs


def _print(training: Training, progress: bool | None) -> None:
    if progress or (progress is None and sys.stderr.isatty()):
        tell(f"last trainings: {training.of}, seed {training.number + 1}")


#: the study's attribute with the results of each test
UNSEALED = "unsealed"
#: the file of a study's folder with the last of them
RESULT = "result.json"
#: the study's attribute with the heartbeat of the process that tests
_TESTER = "tester"


def best_trial(study: Study) -> FrozenTrial | None:
    """The best complete trial; with several objectives, of the Pareto front the best in the first one.

    Of equal ones it is the first: a storage that named another each time would have each of them tested.
    """
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    front = study.best_trials if complete and len(study.directions) > 1 else complete
    sign = 1 if study.directions[0].name == "MAXIMIZE" else -1
    return max(front, key=lambda trial: (sign * trial.values[0], -trial.number), default=None)


def test_the_best(
    plan: Plan,
    trials: Trials,
    split: Split | SealedSplit,
    n_seeds: int,
    workers: int,
    progress: bool | None,
    engine: Engine | None,
) -> dict[str, Any] | None:
    """Train the best and the default configuration with ``n_seeds`` seeds, then unseal and evaluate them once.

    ``workers`` trainings run at a time. What was tested before is not tested again. Of several processes on one study
    one tests.

    Returns:
        What the study records; None where no trial is complete, or where another process tests.
    """
    if best_trial(trials.study) is None:
        return None
    if (tested := _tested(trials.study, n_seeds)) is not None:
        if plan.folder is not None and not (plan.folder / RESULT).exists():
            _write(plan, trials.study, tested)  # a kill came between the study's record and the file
        return tested
    heartbeat = _claim(plan, trials)
    if heartbeat is None:
        return None
    try:
        with heartbeat:
            # another process may have tested while this one waited for the claim
            tested = _tested(trials.study, n_seeds)
            return tested or _train_and_test(plan, trials, split, n_seeds, workers, progress, engine)
    finally:
        _release(trials)


def _tested(study: Study, n_seeds: int) -> dict[str, Any] | None:
    """What the study records of the test of its best configuration, with as many seeds at least; None without one."""
    best = best_trial(study)
    entries: list[dict[str, Any]] = study.user_attrs.get(UNSEALED, [])
    fits = (entry for entry in entries if best and entry["trial"] == best.number and entry["n_seeds"] >= n_seeds)
    return next(fits, None)


def _train_and_test(
    plan: Plan,
    trials: Trials,
    split: Split | SealedSplit,
    n_seeds: int,
    workers: int,
    progress: bool | None,
    engine: Engine | None,
) -> dict[str, Any]:
    """The trainings and their test, recorded in the study; of the process that has the claim."""
    study = trials.study
    best = best_trial(study)
    assert best is not None
    configurations = {"tuned": plan.space.settings(best.params)}
    if plan.space.default() != best.params:
        configurations["default"] = dict(plan.space.fixed)
    trainings = []
    for name, settings in configurations.items():
        place = f"trial-{best.number:04d}" if name == "tuned" else name
        for number in range(n_seeds):
            folder = plan.folder / "final" / place / f"seed-{number}" if plan.folder else None
            trainings.append(Training(name, number, settings, derive(plan.seed, "final", number) % 2**31, folder))
    runs, untrained = _train_all(plan, trainings, split, workers, progress, engine)
    # everything is chosen and trained: now, and only now, the test part
    tested = {name: _test(plan, own) for name, own in runs.items()}
    entry = {
        "trial": best.number,
        "n_seeds": n_seeds,
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "reason": f"the best of {trials.counts().finished} trials is chosen",
        "split_hash": split.hash,
        "settings": configurations,
        "results": {name: _spreads(results) for name, results in tested.items()},
        "comparison": _compare(tested, plan.selecting),
        **untrained,
    }
    with trials.storage.exclusive():
        study.set_user_attr(UNSEALED, [*study.user_attrs.get(UNSEALED, []), entry])
    _write(plan, study, entry)
    return entry


def _train_all(
    plan: Plan,
    trainings: Sequence[Training],
    split: Split | SealedSplit,
    workers: int,
    progress: bool | None,
    engine: Engine | None,
) -> tuple[dict[str, list[Run]], dict[str, str]]:
    """The runs. Where the default configuration cannot be trained, ``default_not_trained`` says why: the search may
    never have tried it."""
    tuned, default = ([each for each in trainings if each.of == name] for name in ("tuned", "default"))
    if default and (engine is not None or workers > 1):
        with suppress(WorkerFailed):  # which training failed, and why, shows below
            train(plan, trainings, split, workers, progress, engine)
    runs = train(plan, tuned, split, workers, progress, engine)
    try:
        return {**runs, **train(plan, default, split, 1, progress)}, {}
    except Exception as error:
        if not cannot_be_trained(error):
            raise
        return runs, {"default_not_trained": f"{error}" or type(error).__name__}


def _write(plan: Plan, study: Study, entry: Mapping[str, Any]) -> None:
    """Write what the study records of a test beside its trainings, too."""
    if plan.folder is not None:
        known = {name: value for name, value in study.user_attrs.items() if name in ("recgraph", "imports")}
        replace_json({**entry, **known, "source": plan.source}, plan.folder / RESULT)


def _claim(plan: Plan, trials: Trials) -> Heartbeat | None:
    """The heartbeat of the one process that tests; None where another process has one that has not expired."""
    expiry = Expiry(plan.grace)
    before: dict[str, Any] | None = None
    while True:
        with trials.storage.exclusive():
            held: dict[str, Any] | None = trials.study.user_attrs.get(_TESTER)
            if held is None or Process.of(held) == this_process() or expiry.has_expired(_TESTER, held):
                return Heartbeat(lambda value: trials.study.set_user_attr(_TESTER, value), plan.interval)
        if Process.of(held).is_here or (before is not None and held != before):
            where = f"process {held['pid']} of {held['host'].split('/')[0]}"
            tell(f"{where} is testing the best configuration")
            return None
        before = held
        time.sleep(min(1.0, plan.interval))


def _release(trials: Trials) -> None:
    """Give up this process's claim: others would believe that the test goes on."""
    with trials.storage.exclusive():
        held: dict[str, Any] | None = trials.study.user_attrs.get(_TESTER)
        if held is not None and Process.of(held) == this_process():
            trials.study.set_user_attr(_TESTER, None)


def _test(plan: Plan, runs: list[Run]) -> list[Results]:
    """Evaluate all runs of one configuration on test, and write the users' values beside each run.

    What was tuned for is always measured, beside the default metrics and cut-offs.
    """
    names = [plan.selecting] if plan.objective is not None else [*plan.metrics, plan.selecting]
    wanted = [split_metric(name) for name in names if name != SECONDS]
    cutoffs = tuple(sorted({5, 10, 20, *(k for _, k in wanted if k is not None)}))
    metrics = tuple(dict.fromkeys((*DEFAULT_METRICS, *(name for name, _ in wanted))))
    found = [run.evaluate("test", cutoffs=cutoffs, metrics=metrics) for run in runs]
    for run, results in zip(runs, found, strict=True):
        if run.folder is not None:
            _keep_users(results, run.folder)
    return found


def _compare(tested: dict[str, list[Results]], metric: str) -> dict[str, Any] | None:
    """The tuned against the default configuration, paired over users with the mean over seeds of each.

    Returns:
        seen-item convention -> difference, interval, p-value of the t-test, users; None where there is one
        configuration, or the metric is not measured on test, or of fewer than two users.
    """
    if len(tested) < 2 or np.isfinite(tested["tuned"][0][0].per_user.get(metric, [])).sum() < 2:
        return None
    comparison: dict[str, Any] = {}
    for result in tested["tuned"][0]:
        seen = result.protocol.seen
        tuned, default = ([results[result.hash] for results in tested[name]] for name in ("tuned", "default"))
        difference = over_users(default, tuned, metric)
        comparison[seen] = {
            "metric": metric,
            "difference": difference.difference,
            "low": difference.interval.low,
            "high": difference.interval.high,
            "confidence": difference.interval.confidence,
            "p": difference.p_values["t"],
            "n_users": difference.n,
        }
    return comparison


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


def _last(study: Study) -> dict[str, Any]:
    """The newest test; empty where the test part is sealed."""
    tested = study.user_attrs.get(UNSEALED)
    return dict(tested[-1]) if tested else {}


def outcomes(study: Study) -> list[str]:
    """Lines with the difference of the tuned and the default configuration on test, its interval and its p-value; or
    why the default configuration was not trained; first, where the test is of an earlier best trial, that it is."""
    last, best, lines = _last(study), best_trial(study), list[str]()
    if last and best is not None and last["trial"] != best.number:
        lines.append(
            f"trial {best.number} is not tested yet (--test-seeds 3 tests it): the test is of trial {last['trial']}"
        )
    if (why := last.get("default_not_trained")) is not None:
        return [*lines, f"the default configuration cannot be trained: {why}"]
    comparison = last.get("comparison") or {}
    return lines + [
        f"test, seen items {'kept' if seen == 'keep' else 'excluded'}: tuned less default {each['metric']} "
        f"{each['difference']:+.4f} ({each['confidence']:.0%} interval {each['low']:+.4f} to {each['high']:+.4f}, "
        f"p = {each['p']:.2g}, {each['n_users']} users): {_conclusion(each)}"
        for seen, each in comparison.items()
    ]


def _conclusion(difference: dict[str, Any]) -> str:
    if difference["p"] >= 1 - difference["confidence"]:
        return "no difference that is more than chance"
    return "the tuned one is better" if difference["difference"] > 0 else "the tuned one is worse"


def test_rows(study: Study) -> list[dict[str, Any]]:
    """One row a test metric: of the best and of the default configuration, means over seeds."""
    results = _last(study).get("results", {})
    rows = []
    for seen, metrics in results.get("tuned", {}).items():
        for name, tuned in metrics.items():
            row = {"metric": name, "seen": seen, "tuned": tuned["mean"], "tuned std": tuned["std"]}
            default = results.get("default")
            if default is not None:
                row |= {"default": default[seen][name]["mean"], "default std": default[seen][name]["std"]}
            rows.append(row)
    return rows
