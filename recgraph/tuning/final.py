"""The end of a study: the best and the default configuration are trained with several seeds and tested once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recgraph import parallel
from recgraph.data.split import SealedSplit, Split, without_test_data
from recgraph.evaluate.metrics import DEFAULT_METRICS, split_metric
from recgraph.evaluate.results import Results
from recgraph.evaluate.significance import over_users
from recgraph.files import write_frame, write_json
from recgraph.pages import print_note
from recgraph.rng import derive
from recgraph.train.run import Run
from recgraph.tuning.objectives import SECONDS
from recgraph.tuning.plan import Plan
from recgraph.tuning.report import UNSEALED, best_trial
from recgraph.tuning.storage import StudyStorage
from recgraph.tuning.trial import cannot_be_trained, fit, save_split
from recgraph.tuning.work import n_finished

if TYPE_CHECKING:
    from optuna import Study

#: the file of a study's folder with the last test
RESULT = "result.json"


@dataclass(frozen=True)
class Training:
    """A training of one configuration, ``"tuned"`` or ``"default"``, with one seed."""

    of: str
    number: int
    settings: Mapping[str, Any]
    seed: int
    folder: Path | None

    @property
    def is_done(self) -> bool:
        return self.folder is not None and (self.folder / "record.json").exists()


def test_the_best(
    plan: Plan,
    study: Study,
    storage: StudyStorage,
    split: Split | SealedSplit,
    n_seeds: int,
    engine: parallel.Engine,
    progress: bool,
) -> None:
    """Train the best and the default configuration with ``n_seeds`` seeds, then unseal and evaluate them once.

    What was tested before is not tested again. Of several processes on one study one tests, and the others wait for it.
    """
    best = best_trial(study)
    if best is None:
        return
    with storage.exclusive("test"):
        tests: list[dict[str, Any]] = study.user_attrs.get(UNSEALED, [])
        fitting = [each for each in tests if each["trial"] == best.number and each["n_seeds"] >= n_seeds]
        if not fitting:
            fitting = [_train_and_test(plan, study, split, n_seeds, engine, progress)]
            study.set_user_attr(UNSEALED, [*tests, *fitting])
        if plan.folder is not None:
            known = {name: value for name, value in study.user_attrs.items() if name in ("recgraph", "imports")}
            write_json({**fitting[0], **known, "source": plan.source}, plan.folder / RESULT)


def _train_and_test(
    plan: Plan, study: Study, split: Split | SealedSplit, n_seeds: int, engine: parallel.Engine, progress: bool
) -> dict[str, Any]:
    """What the study records of a test."""
    best = best_trial(study)
    assert best is not None
    configurations = {"tuned": plan.space.settings(best.params)}
    if plan.space.default() != best.params:
        configurations["default"] = dict(plan.space.fixed)
    runs: dict[str, list[Run]] = {}
    untrained = {}
    for name, settings in configurations.items():
        place = f"trial-{best.number:04d}" if name == "tuned" else name
        trainings = []
        for number in range(n_seeds):
            folder = plan.folder / "final" / place / f"seed-{number}" if plan.folder else None
            trainings.append(Training(name, number, settings, derive(plan.seed, "final", number) % 2**31, folder))
        try:
            runs[name] = _train(plan, trainings, split, engine, progress)
        except Exception as error:
            # the search may never have tried the default configuration
            cause = error.__cause__ if isinstance(error, parallel.TaskFailed) and error.__cause__ else error
            if name == "tuned" or not cannot_be_trained(cause):
                raise
            untrained = {"default_not_trained": f"{cause}" or type(cause).__name__}
    # everything is chosen and trained: now, and only now, the test part
    tested = {name: _test(plan, own) for name, own in runs.items()}
    return {
        "trial": best.number,
        "n_seeds": n_seeds,
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "reason": f"the best of {n_finished(study)} trials is chosen",
        "split_hash": split.hash,
        "settings": configurations,
        "results": {name: _spreads(results) for name, results in tested.items()},
        "comparison": _compare(tested, plan.selecting),
        **untrained,
    }


def _train(
    plan: Plan, trainings: Sequence[Training], split: Split | SealedSplit, engine: parallel.Engine, progress: bool
) -> list[Run]:
    """The runs of some trainings, those that are done opened; workers of other processes hold no test data."""
    missing = [each for each in trainings if not each.is_done]
    if progress and missing:
        print_note(f"last trainings: {missing[0].of}, {len(missing)} seeds")
    if plan.folder is not None and missing and (engine.name != "local" or engine.size > 1):
        pieces = [parallel.Piece(f"{each.of}, seed {each.number}", each) for each in missing]
        for _ in parallel.map(_train_one, pieces, (plan, save_split(plan, split)), engine):
            pass
    return [fit(plan, each.settings, split, each.seed, each.folder) for each in trainings]


def _train_one(shared: tuple[Plan, Path], training: Training) -> None:
    plan, split = shared
    with without_test_data("the best configuration of a study is trained"):
        fit(plan, training.settings, SealedSplit.load(split).without_test(), training.seed, training.folder)


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
        for result in results if run.folder is not None else ():
            assert run.folder is not None
            write_frame(result.users_frame(), run.folder / f"test_users_{result.protocol.seen}.parquet")
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
        tuned, default = ([results[result.hash] for results in tested[name]] for name in ("tuned", "default"))
        difference = over_users(default, tuned, metric)
        comparison[result.protocol.seen] = {
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
    """seen-item convention -> metric -> mean and deviation over seeds; of one seed there is no deviation."""
    spreads: dict[str, Any] = {}
    for result in found[0]:
        metrics = [results[result.hash].metrics for results in found]
        spreads[result.protocol.seen] = {
            name: {
                "mean": float(np.mean([values[name] for values in metrics])),
                "std": float(np.std([values[name] for values in metrics], ddof=1)) if len(metrics) > 1 else None,
            }
            for name in metrics[0]
        }
    return spreads
