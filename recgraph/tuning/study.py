"""``tune``: search a model's settings on the validation part of a split, then test the best
once.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from recgraph import parallel, registry
from recgraph.config import checked
from recgraph.data.split import SealedSplit, Split, without_test_data
from recgraph.evaluate.metrics import DEFAULT_METRICS
from recgraph.evaluate.results import Result, Results
from recgraph.evaluate.significance import TooFewPairs, over_users
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
    from optuna.trial import FrozenTrial
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
    if engine is None:
        pick_device(device)  # one that is not there is an error before the study exists
    if progress is None:
        progress = sys.stderr.isatty()
    plan = _plan(
        model,
        metric,
        settings,
        space,
        study=study,
        n_trials=n_trials,
        sampler=sampler,
        pruner=pruner,
        seed=seed,
        device=device,
        out=out,
        objective=objective,
        source=source_of(split, source),
    )
    identity = _identity(plan, split)
    if plan.folder is not None:
        _check_folder(plan.folder, plan.study)
    opened = open_storage(storage, plan.folder)
    try:
        with naming_storage(opened.url):
            optuna_study = _open(plan, opened, identity)
            run_trials(plan, opened, split, place, progress)
            if test_seeds:
                _test_the_best(plan, optuna_study, opened, split, test_seeds, place, progress)
    finally:
        opened.close()
    return optuna_study


def _plan(
    model: str | type[Model] | Model,
    metric: str | tuple[str, ...],
    settings: Mapping[str, Any] | None,
    space: Mapping[str, Any] | str | Path | None,
    *,
    study: str | None,
    sampler: str | None,
    pruner: str | None,
    out: str | Path | None,
    objective: Objective | None,
    **others: Any,
) -> Plan:
    """The plan of a call of :func:`tune`, with its defaults; ``others``: fields of the plan."""
    fixed = plain(settings)
    if isinstance(model, Model):
        fixed = {**plain(model.config.model_dump(exclude_unset=True)), **fixed}
        model = type(model)
    if isinstance(model, str):
        model = registry.load("model", model)
    cls: type[Model] = model  # type: ignore[assignment]
    metrics = (metric,) if isinstance(metric, str) else metric
    if objective is None:
        metrics = tuple(dict.fromkeys(map(objectives.canonical, metrics)))
    if isinstance(space, str | Path):
        space = read_toml(Path(space))
    plan = Plan(
        study=study or f"{cls.key()}-{'-'.join(metrics)}",
        model=cls,
        metrics=metrics,
        fixed=fixed,
        given=plain(space),
        objective=objective,
        **others,
    )
    if sampler is None:
        sampler = "nsga2" if len(metrics) > 1 else "tpe"
    if pruner is None:
        pruner = "median" if plan.can_prune else "none"
    folder = None if out is None else Path(out).resolve()
    return replace(plan, sampler=sampler, pruner=pruner, folder=folder)


def _identity(plan: Plan, split: Split | SealedSplit) -> dict[str, Any]:
    """The fields that identify a study, as plain values; ``features`` and ``inputs`` are digests of
    what is read beside the split."""
    features = plan.source.get("features", {})
    choices = {name: dimension.choices for name, dimension in plan.space.dimensions.items()}
    identity = {
        "model": _name_of(plan.model),
        "metrics": plan.metrics,
        "objective": None if plan.objective is None else _name_of(plan.objective),
        "space": plan.space.to_dict(),
        "split_hash": split.hash,
        "seed": plan.seed,
        "features": {name: file["sha256"] for name, file in features.items()},
        "inputs": input_digests({**plan.space.fixed, **choices}),
    }
    return dict(json.loads(json.dumps(identity)))


def _name_of(value: Any) -> str:
    """The module and the name of a class or a function, or of the class of another object."""
    name = getattr(value, "__qualname__", type(value).__qualname__)
    return f"{value.__module__}:{name}"


def _open(plan: Plan, storage: StudyStorage, identity: dict[str, Any]) -> Study:
    """The study, made where it is not there yet, and its folder's ``study.json``, which says where
    it is.

    Raises:
        ValueError: the study, or that of the folder, is another one.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with storage.exclusive():
        study = optuna.create_study(
            study_name=plan.study,
            storage=storage.optuna,
            directions=plan.directions,
            load_if_exists=True,
        )
        known = study.user_attrs.get("recgraph")
        if known is None:
            _begin(plan, study, identity)
        elif known != identity:
            differing = [name for name, value in identity.items() if known.get(name) != value]
            raise ValueError(
                f"study {plan.study!r} exists with another {', '.join(differing)}; go on with the same ones, or give "
                "the new study another folder (--out) and name (--study)"
            )
        study.set_user_attr("imports", registry.imported())
        study.set_user_attr("selecting", plan.selection.get("metric"))
        study.set_user_attr(
            "asked", {"n_trials": plan.n_trials, "sampler": plan.sampler, "pruner": plan.pruner}
        )
        if plan.folder is not None:
            place = {"study": plan.study, "storage": without_password(storage.url)}
            write_json(place, plan.folder / "study.json")
    return load_study(plan, storage)


def _begin(plan: Plan, study: Study, identity: dict[str, Any]) -> None:
    """Queue the default configuration, and write what the study is."""
    default = plan.space.default()
    if default is not None and plan.sampler != "grid":
        study.enqueue_trial(default, skip_if_exists=True)
    study.set_user_attr("source", plan.source)
    # last: a study that was killed before is begun again
    study.set_user_attr("recgraph", identity)


def _check_folder(folder: Path, study: str) -> None:
    """Refuse the folder of another study, and one that holds something else."""
    file = folder / "study.json"
    if file.exists():
        name = read_object(file)["study"]
        if name != study:
            raise ValueError(f"{folder} holds the study {name!r}; give another folder to {study!r}")
        return
    others = [name for name in contents(folder) if not name.startswith("study.")]
    if others:
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
        result = None
        for test in tests:
            if test["trial"] == best.number and test["n_seeds"] >= n_seeds:
                result = test
        if result is None:
            result = _train_and_test(plan, study, best, split, n_seeds, engine, progress)
            study.set_user_attr(UNSEALED, [*tests, result])
        if plan.folder is not None:
            known = {name: study.user_attrs[name] for name in ("recgraph", "imports")}
            write_json({**result, **known, "source": plan.source}, plan.folder / RESULT)


def _train_and_test(
    plan: Plan,
    study: Study,
    best: FrozenTrial,
    split: Split | SealedSplit,
    n_seeds: int,
    engine: parallel.Engine,
    progress: bool,
) -> dict[str, Any]:
    """What the study records of a test."""

    def train(folder: str, settings: Mapping[str, Any]) -> list[Run]:
        return _train(plan, folder, settings, n_seeds, split, engine, progress)

    default = dict(plan.space.fixed)
    configurations = {"tuned": plan.space.settings(best.params)}
    runs = {"tuned": train(f"trial-{best.number:04d}", configurations["tuned"])}
    untrained = {}
    if plan.space.default() != best.params:
        configurations["default"] = default
        try:
            runs["default"] = train("default", default)
        except Exception as error:
            # the search may never have tried it
            cause = error.__cause__ or error
            if not cannot_be_trained(cause):
                raise
            untrained["default_not_trained"] = str(cause) or type(cause).__name__
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
    n_seeds: int,
    split: Split | SealedSplit,
    engine: parallel.Engine,
    progress: bool,
) -> list[Run]:
    """The runs of a configuration, those that are done opened; those of a study with a folder are
    trained by workers that hold no test data.
    """
    if progress:
        print_note(f"last trainings: {name}, {n_seeds} seeds")
    seeds = [derive(plan.seed, "final", number) % 2**31 for number in range(n_seeds)]
    if plan.folder is None:
        return [fit(plan, settings, split, seed, None) for seed in seeds]
    folders = [plan.folder / "final" / name / f"seed-{number}" for number in range(n_seeds)]
    trainings = list(zip(seeds, folders, strict=True))
    pieces = [parallel.Piece(f"{name}, seed {seed}", (seed, folder)) for seed, folder in trainings]
    list(parallel.map(_train_one, pieces, (plan, settings, save_split(plan, split)), engine))
    return [fit(plan, settings, split, seed, folder) for seed, folder in trainings]


def _train_one(shared: tuple[Plan, Mapping[str, Any], Path], piece: tuple[int, Path]) -> None:
    plan, settings, split_folder = shared
    seed, folder = piece
    with without_test_data("the best configuration of a study is trained"):
        fit(plan, settings, SealedSplit.load(split_folder).without_test(), seed, folder)


def _test(plan: Plan, runs: list[Run]) -> list[Results]:
    """Evaluate all runs of one configuration on test, and write the users' values beside each run.

    What was tuned for is always measured, beside the default metrics and cut-offs.
    """
    names = {plan.selecting}
    if plan.objective is None:
        names |= {*plan.metrics} - {objectives.SECONDS}
    metrics = (*DEFAULT_METRICS, *sorted(names))
    tested = []
    for run in runs:
        results = run.evaluate("test", cutoffs=(5, 10, 20), metrics=metrics)
        tested.append(results)
        if run.folder is not None:
            for result in results:
                file = run.folder / f"test_users_{result.protocol.seen}.parquet"
                write_frame(result.users_frame(), file)
    return tested


def _compare(tested: dict[str, list[Results]], metric: str) -> dict[str, Any] | None:
    """The tuned against the default configuration, paired over users with the mean over seeds of
    each.

    Returns:
        seen-item convention -> difference, interval, p-value of the t-test, users, where at least
        two have a value; None where there is one configuration.
    """
    if "default" not in tested:
        return None
    comparison: dict[str, Any] = {}
    pairs = zip(_by_protocol(tested["tuned"]), _by_protocol(tested["default"]), strict=True)
    for tuned, default in pairs:
        with suppress(TooFewPairs):
            difference = over_users(default, tuned, metric)
            comparison[tuned[0].protocol.seen] = {
                "metric": metric,
                "difference": difference.difference,
                "low": difference.interval.low,
                "high": difference.interval.high,
                "confidence": difference.interval.confidence,
                "p": difference.p_values["t"],
                "n_users": difference.n,
            }
    return comparison


def _by_protocol(tested: list[Results]) -> Iterator[tuple[Result, ...]]:
    """The results of each protocol, one a seed."""
    return zip(*tested, strict=True)


def _spreads(tested: list[Results]) -> dict[str, Any]:
    """seen-item convention -> metric -> mean and deviation over seeds."""
    spreads: dict[str, Any] = {}
    for results in _by_protocol(tested):
        metrics = [result.metrics for result in results]
        spreads[results[0].protocol.seen] = {
            name: _spread([values[name] for values in metrics]) for name in metrics[0]
        }
    return spreads


def _spread(values: list[float]) -> dict[str, float | None]:
    """The mean and the deviation; of one value there is none."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": std}
