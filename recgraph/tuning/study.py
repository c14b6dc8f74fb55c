"""``tune``: search a model's settings on the validation part of a split, then test the best
once.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from recgraph import parallel, registry
from recgraph.config import checked
from recgraph.data.split import SealedSplit, Split, without_test_data
from recgraph.evaluate.metrics import DEFAULT_METRICS, split_metric
from recgraph.evaluate.results import Results
from recgraph.evaluate.significance import over_users
from recgraph.files import contents, read_object, read_toml, write_frame, write_json
from recgraph.models.base import Model
from recgraph.pages import print_note
from recgraph.ranks import refuse_launched
from recgraph.rng import derive
from recgraph.train.config import pick_device
from recgraph.train.pretrained import input_digests
from recgraph.train.run import Run
from recgraph.train.settings import source_of
from recgraph.tuning import objectives
from recgraph.tuning.objectives import Pruner, Sampler
from recgraph.tuning.plan import Objective, Plan
from recgraph.tuning.report import UNSEALED, best_trial
from recgraph.tuning.space import plain
from recgraph.tuning.storage import StudyStorage, naming_storage, open_storage, without_password
from recgraph.tuning.trials import (
    cannot_be_trained,
    fit,
    load_study,
    n_finished,
    run_trials,
    save_split,
)

if TYPE_CHECKING:
    from optuna import Study
else:
    Study = Any  # optuna is imported when a study is opened

#: the file of a study's folder with the last test
RESULT = "result.json"


@checked
def tune(
    model: str | type[Model] | Model,
    split: Split | SealedSplit,
    space: Mapping[str, Any] | str | Path | None = None,
    n_trials: Annotated[int, Field(ge=1)] = 20,
    *,
    metric: str | tuple[str, ...] = "ndcg@10",
    settings: Mapping[str, Any] | None = None,
    seed: Annotated[int, Field(ge=0)] = 0,
    sampler: Sampler | None = None,
    pruner: Pruner | None = None,
    workers: int | None = None,
    storage: str | None = None,
    study: str | None = None,
    out: str | Path | None = None,
    device: str | None = None,
    test_seeds: Annotated[int, Field(ge=0)] = 3,
    objective: Objective | None = None,
    progress: bool | None = None,
    source: Mapping[str, Any] | None = None,
    engine: parallel.Engine | None = None,
) -> Study:
    """Tune a model's settings on the validation part of a split.

    The same call goes on with a study that was stopped, in whatever way. Trials see a copy of the
    split without its test part: reading it, through any split of the library, raises. That guards
    against mistakes, not against a program that searches the disk. At the end the best
    configuration and the default one are trained with ``test_seeds`` seeds and evaluated on the
    test part, once; the study's ``user_attrs["unsealed"]`` says so.

    Args:
        model: a name of the registry, a class, or a model that is not built, whose given settings
            are then fixed.
        split: the data. A sealed one is unsealed for the test at the end.
        space: how the search space departs from the annotations, a mapping or a TOML file; see
            :meth:`recgraph.tuning.space.SearchSpace.of`.
        n_trials: of the study in total, pruned ones included; failed ones are replaced.
        metric: a validation metric, e.g. ``"ndcg@10"``, or several objectives, e.g. ``("ndcg@10",
            "coverage@20")`` or ``("ndcg@10", "train_seconds")``. The first that is about relevant
            items selects the best epoch.
        settings: of the model and of training, not searched.
        seed: of the sampler and of the trials' training (the same in all, so that they differ by
            their settings).
        sampler: one of :data:`recgraph.tuning.objectives.Sampler`; None: ``"tpe"``, for two
            objectives ``"nsga2"``.
        pruner: one of :data:`recgraph.tuning.objectives.Pruner`; None: ``"median"``, or ``"none"``
            where the objective is not what selects the best epoch, and for several objectives.
        workers: processes at a time of a study with a folder; by default 1, which works in this
            one, or as many as an engine has. Others may join through the same storage.
        storage: see :func:`recgraph.tuning.storage.open_storage`.
        study: its name in the storage; None: the model's and the metric's.
        out: folder of the study; each trial has its own in it. None keeps all in memory.
        device: where to train; None: CUDA where there is one, else the CPU.
        test_seeds: seeds of the last trainings; 0 leaves the test part sealed.
        objective: values of a fitted run in place of its validation metrics; one that ``metric``
            does not know by its name is maximised.
        progress: print a line whenever a trial has ended; None: on a terminal.
        source: where the split is from, for opening its runs without the split: ``dataset``, the
            name of a data card, and ``settings`` of :class:`recgraph.train.run.DataConfig`. A log
            that was read from a file knows its own.
        engine: where the processes run; ``out`` is then a folder that its machines share, and so is
            a storage in a file. None: this machine.

    Returns:
        The Optuna study.

    Raises:
        ConfigError: a setting, a space or a combination of choices that is not possible, or a model
            that embeds nodes.
        ValueError: the study exists with another model, metric, space, split, features or seed; or
            a launcher has started several processes.
        TaskFailed: a worker ends with an error, or dies again and again.
        StorageFailed: the storage cannot be read or written.
        SealedTestError: something reached for test data.
    """
    refuse_launched("tune", "start it without a launcher; workers=N starts processes of its own")
    place = engine or parallel.Engine()
    if workers is not None:
        place = parallel.Engine.of(place.model_dump() | {"workers": workers})
    fixed = dict(settings or {})
    if isinstance(model, Model):
        fixed, model = {**model.config.model_dump(exclude_unset=True), **fixed}, type(model)
    cls: type[Model] = registry.load("model", model) if isinstance(model, str) else model
    metrics = (metric,) if isinstance(metric, str) else metric
    if objective is None:
        metrics = tuple(dict.fromkeys(objectives.canonical(name) for name in metrics))
    plan = Plan(
        study or f"{cls.key()}-{'-'.join(metrics)}",
        cls,
        metrics,
        n_trials,
        plain(fixed),
        read_toml(Path(space)) if isinstance(space, str | Path) else plain(space or {}),
        sampler or ("nsga2" if len(metrics) > 1 else "tpe"),
        pruner or "none",
        seed,
        device,
        Path(out).resolve() if out is not None else None,
        objective,
        source_of(split, source),
    )
    if pruner is None and plan.can_prune:
        plan = replace(plan, pruner="median")
    identity = _identity(plan, split)
    if engine is None:
        pick_device(device)  # one that is not there is an error before the study exists
    if plan.folder is not None:
        _check_folder(plan.folder, plan.study)
    shown = sys.stderr.isatty() if progress is None else progress
    opened = open_storage(storage, plan.folder)
    try:
        with naming_storage(opened.url):
            found = _open(plan, opened, identity)
            run_trials(plan, opened, split, place, shown)
            if test_seeds:
                _test_the_best(plan, found, opened, split, test_seeds, place, shown)
    finally:
        if plan.folder is not None:
            opened.close()
    return found


def _identity(plan: Plan, split: Split | SealedSplit) -> dict[str, Any]:
    """The fields that identify a study, as plain values; ``features`` and ``inputs`` are digests of
    what is read beside the split."""
    choices = {
        each.name: list(each.choices) for each in plan.space.dimensions.values() if each.choices
    }
    objective: Any = (
        plan.objective if hasattr(plan.objective, "__qualname__") else type(plan.objective)
    )
    identity = {
        "model": f"{plan.model.__module__}:{plan.model.__qualname__}",
        "metrics": list(plan.metrics),
        "objective": plan.objective and f"{objective.__module__}:{objective.__qualname__}",
        "space": plan.space.to_dict(),
        "split_hash": split.hash,
        "seed": plan.seed,
        "features": {
            name: each["sha256"]
            for name, each in ((plan.source or {}).get("features") or {}).items()
        },
        "inputs": input_digests({**plan.space.fixed, **choices}),
    }
    found: dict[str, Any] = json.loads(json.dumps(identity))
    return found


def _open(plan: Plan, storage: StudyStorage, identity: dict[str, Any]) -> Study:
    """The study, made where it is not there yet, and its folder's ``study.json``, which says where
    it is.

    Raises:
        ValueError: the study, or that of the folder, is another one.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with storage.exclusive():
        made = optuna.create_study(
            study_name=plan.study,
            storage=storage.optuna,
            directions=plan.directions,
            load_if_exists=True,
        )
        there = made.user_attrs.get("recgraph")
        if there is None:
            default = plan.space.default()
            if (
                default is not None
                and plan.sampler != "grid"
                and not made.get_trials(deepcopy=False)
            ):
                made.enqueue_trial(default)
            made.set_user_attr(
                "recgraph", identity
            )  # last: a study that was killed before is begun again
            made.set_user_attr("source", plan.source)
        elif differing := [name for name, value in identity.items() if there.get(name) != value]:
            raise ValueError(
                f"study {plan.study!r} exists with another {', '.join(differing)}; go on with the same ones, or give "
                "the new study another folder (--out) and name (--study)"
            )
        made.set_user_attr("imports", registry.imported())
        made.set_user_attr("selecting", plan.selecting if plan.is_trained else None)
        made.set_user_attr(
            "asked", {"n_trials": plan.n_trials, "sampler": plan.sampler, "pruner": plan.pruner}
        )
        if plan.folder is not None:
            known = {"study": plan.study, "storage": without_password(storage.url)}
            write_json(known, plan.folder / "study.json")
    return load_study(plan, storage)


def _check_folder(folder: Path, study: str) -> None:
    """Refuse the folder of another study, and one that holds something else."""
    if (folder / "study.json").exists():
        if (name := read_object(folder / "study.json")["study"]) != study:
            raise ValueError(f"{folder} holds the study {name!r}; give another folder to {study!r}")
    elif others := {name for name in contents(folder) if not name.startswith("study.")}:
        raise ValueError(
            f"{folder} exists and holds no study ({min(others)}); give an empty or new folder"
        )


# -- the end: the best and the default configuration are trained with several seeds and tested once


def _test_the_best(
    plan: Plan,
    study: Study,
    storage: StudyStorage,
    split: Split | SealedSplit,
    n_seeds: int,
    engine: parallel.Engine,
    progress: bool,
) -> None:
    """Train the best and the default configuration with ``n_seeds`` seeds, then unseal and evaluate
    them once.

    What was tested before is not tested again. Of several processes on one study one tests, and the
    others wait for it.
    """
    best = best_trial(study)
    if best is None:
        return
    with storage.exclusive("test"):
        tests: list[dict[str, Any]] = study.user_attrs.get(UNSEALED, [])
        fitting = [
            each for each in tests if each["trial"] == best.number and each["n_seeds"] >= n_seeds
        ]
        if not fitting:
            fitting = [_train_and_test(plan, study, split, n_seeds, engine, progress)]
            study.set_user_attr(UNSEALED, [*tests, *fitting])
        if plan.folder is not None:
            known = {
                name: value
                for name, value in study.user_attrs.items()
                if name in ("recgraph", "imports")
            }
            write_json({**fitting[0], **known, "source": plan.source}, plan.folder / RESULT)


def _train_and_test(
    plan: Plan,
    study: Study,
    split: Split | SealedSplit,
    n_seeds: int,
    engine: parallel.Engine,
    progress: bool,
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
        place = (
            plan.folder / "final" / (f"trial-{best.number:04d}" if name == "tuned" else name)
            if plan.folder
            else None
        )
        try:
            runs[name] = _train(plan, name, settings, place, n_seeds, split, engine, progress)
        except Exception as error:
            # the search may never have tried the default configuration
            cause = (
                error.__cause__
                if isinstance(error, parallel.TaskFailed) and error.__cause__
                else error
            )
            if name == "tuned" or not cannot_be_trained(cause):
                raise
            untrained = {"default_not_trained": f"{cause}" or type(cause).__name__}
    # everything is chosen and trained: now, and only now, the test part
    tested = {name: _test(plan, own) for name, own in runs.items()}
    return {
        "trial": best.number,
        "n_seeds": n_seeds,
        "seeds": [run.record.seed for run in runs["tuned"]],
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "reason": f"the best of {n_finished(study)} trials is chosen",
        "split_hash": split.hash,
        "settings": configurations,
        "results": {name: _spreads(results) for name, results in tested.items()},
        "comparison": _compare(tested, plan.selecting),
        **untrained,
    }


def _train(
    plan: Plan,
    name: str,
    settings: Mapping[str, Any],
    place: Path | None,
    n_seeds: int,
    split: Split | SealedSplit,
    engine: parallel.Engine,
    progress: bool,
) -> list[Run]:
    """The runs of a configuration, those that are done opened; workers of other processes hold no
    test data.
    """
    trainings = [
        (settings, derive(plan.seed, "final", number) % 2**31, place and place / f"seed-{number}")
        for number in range(n_seeds)
    ]
    missing = [
        each for each in trainings if each[2] is None or not (each[2] / "record.json").exists()
    ]
    if progress and missing:
        print_note(f"last trainings: {name}, {len(missing)} seeds")
    if plan.folder is not None and missing and (engine.name != "local" or engine.size > 1):
        pieces = [parallel.Piece(f"{name}, seed {each[1]}", each) for each in missing]
        for _ in parallel.map(_train_one, pieces, (plan, save_split(plan, split)), engine):
            pass
    return [fit(plan, settings, split, seed, folder) for settings, seed, folder in trainings]


def _train_one(
    shared: tuple[Plan, Path], training: tuple[Mapping[str, Any], int, Path | None]
) -> None:
    (plan, split), (settings, seed, folder) = shared, training
    with without_test_data("the best configuration of a study is trained"):
        fit(plan, settings, SealedSplit.load(split).without_test(), seed, folder)


def _test(plan: Plan, runs: list[Run]) -> list[Results]:
    """Evaluate all runs of one configuration on test, and write the users' values beside each run.

    What was tuned for is always measured, beside the default metrics and cut-offs.
    """
    names = [plan.selecting] if plan.objective is not None else [*plan.metrics, plan.selecting]
    wanted = [split_metric(name) for name in names if name != objectives.SECONDS]
    cutoffs = tuple(sorted({5, 10, 20, *(k for _, k in wanted if k is not None)}))
    metrics = tuple(dict.fromkeys((*DEFAULT_METRICS, *(name for name, _ in wanted))))
    found = [run.evaluate("test", cutoffs=cutoffs, metrics=metrics) for run in runs]
    for run, results in zip(runs, found, strict=True):
        for result in results if run.folder is not None else ():
            assert run.folder is not None
            write_frame(
                result.users_frame(), run.folder / f"test_users_{result.protocol.seen}.parquet"
            )
    return found


def _compare(tested: dict[str, list[Results]], metric: str) -> dict[str, Any] | None:
    """The tuned against the default configuration, paired over users with the mean over seeds of
    each.

    Returns:
        seen-item convention -> difference, interval, p-value of the t-test, users; None where there
        is one configuration, or the metric is not measured on test, or of fewer than two users.
    """
    if len(tested) < 2 or np.isfinite(tested["tuned"][0][0].per_user.get(metric, [])).sum() < 2:
        return None
    comparison: dict[str, Any] = {}
    for result in tested["tuned"][0]:
        tuned, default = (
            [results[result.hash] for results in tested[name]] for name in ("tuned", "default")
        )
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
    """seen-item convention -> metric -> mean and deviation over seeds; of one seed there is no
    deviation.
    """
    spreads: dict[str, Any] = {}
    for result in found[0]:
        metrics = [results[result.hash].metrics for results in found]
        spreads[result.protocol.seen] = {
            name: {
                "mean": float(np.mean([values[name] for values in metrics])),
                "std": float(np.std([values[name] for values in metrics], ddof=1))
                if len(metrics) > 1
                else None,
            }
            for name in metrics[0]
        }
    return spreads
