"""``tune``: search a model's settings on the validation part of a split, then test the best once."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recgraph import imports, registry
from recgraph.arguments import checked
from recgraph.config import ConfigError, load_toml
from recgraph.data.split import SealedSplit, Split
from recgraph.launcher import refuse_launched
from recgraph.models.base import Model
from recgraph.parallel import Engine
from recgraph.runs.pretrained import input_digests
from recgraph.runs.settings import changed_features, source_of
from recgraph.setting_texts import choices_with_none
from recgraph.train.config import pick_device
from recgraph.tuning import objectives, samplers
from recgraph.tuning.claim import check_storage, claim, different
from recgraph.tuning.final import test_the_best
from recgraph.tuning.options import plain
from recgraph.tuning.plan import Objective, Plan, check_model
from recgraph.tuning.progress import ProgressTable
from recgraph.tuning.report import write_page
from recgraph.tuning.storage import StudyStorage, open_storage, storage_url, telling
from recgraph.tuning.trial import keep_results, save_split
from recgraph.tuning.trials import Trials, load_study
from recgraph.tuning.worker import run_processes, work
from recgraph.workers.heartbeat import GRACE, INTERVAL
from recgraph.workers.ray_pool import workers_on

if TYPE_CHECKING:
    from optuna import Study

__all__ = ["tune"]


@checked
def tune(
    model: str | type[Model] | Model,
    split: Split | SealedSplit,
    space: Mapping[str, Any] | str | Path | None = None,
    n_trials: int = 20,
    *,
    metric: str | tuple[str, ...] = "ndcg@10",
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    sampler: str | None = None,
    pruner: str | None = None,
    workers: int | None = None,
    storage: str | None = None,
    study: str | None = None,
    out: str | Path | None = None,
    device: str | None = None,
    test_seeds: int = 3,
    objective: Objective | None = None,
    progress: bool | None = None,
    source: Mapping[str, Any] | None = None,
    engine: Engine | None = None,
    interval: float = INTERVAL,
    grace: float = GRACE,
) -> Study:
    """Tune a model's settings on the validation part of a split.

    The same call goes on with a study that was stopped, in whatever way. Trials see a copy of the split without its
    test part: reading it, through any split of the library, raises. That guards against mistakes, not against a
    program that searches the disk. At the end the best configuration and the default one are trained with
    ``test_seeds`` seeds and evaluated on the test part, once; the study's ``user_attrs["unsealed"]`` says so.

    Args:
        model: a name of the registry, a class, or a model that is not built, whose given settings are then fixed.
        split: the data. A sealed one is unsealed for the test at the end.
        space: how the search space departs from the annotations, a mapping or a TOML file; see
            :meth:`recgraph.tuning.space.SearchSpace.of`.
        n_trials: of the study in total, pruned ones included; failed ones are replaced.
        metric: a validation metric, e.g. ``"ndcg@10"``, or several objectives, e.g. ``("ndcg@10", "coverage@20")`` or
            ``("ndcg@10", "train_seconds")``. The first that is about relevant items selects the best epoch.
        settings: of the model and of training, not searched.
        seed: of the sampler and of the trials' training (the same in all, so that they differ by their settings).
        sampler: one of :data:`recgraph.tuning.samplers.SAMPLERS`; None: ``"tpe"``, for two objectives ``"nsga2"``.
        pruner: one of :data:`recgraph.tuning.samplers.PRUNERS`; None: ``"median"``, or ``"none"`` where the objective
            is not what selects the best epoch, and for several objectives.
        workers: processes at a time; by default 1, which works in this one, or as many as an engine has. Others may
            join through the same storage.
        storage: see :func:`recgraph.tuning.storage.open_storage`.
        study: its name in the storage; None: the model's and the metric's.
        out: folder of the study; each trial has its own in it. None keeps all in memory.
        device: where to train; None: CUDA where there is one, else the CPU.
        test_seeds: seeds of the last trainings; 0 leaves the test part sealed.
        objective: values of a fitted run in place of its validation metrics; one that ``metric`` does not know by its
            name is maximised.
        progress: show the trials while they run; None: on a terminal.
        source: where the split is from, for the commands on the study's page and for opening its runs without the
            split: see :func:`recgraph.runs.fit.fit`.
        engine: where the processes run, e.g. ``Engine(name="ray")`` of :mod:`recgraph.parallel`; ``out`` is then a
            folder that its machines share, and so is a storage in a file. None: this machine.
        interval, grace: seconds between a worker's heartbeats, and without one until other machines replace its trial.
            On its own machine a worker that is gone is noticed at once.

    Returns:
        The Optuna study. Its page, ``study.html``, is in the folder.

    Raises:
        ConfigError: a setting, a space or a combination of choices that is not possible, or a model that embeds nodes.
        ValueError: the study exists with another model or revision of it, metric, space, split or seed; or a launcher
            has started several processes.
        WorkerFailed: workers end with errors.
        StorageFailed: the storage cannot be read or written.
        SealedTestError: something reached for test data.
    """
    refuse_launched("tune", "start it without a launcher; workers=N starts processes of its own")
    cls, fixed = _model(model, settings or {})
    check_model(cls)
    metrics = (metric,) if isinstance(metric, str) else tuple(metric)
    if objective is None:
        metrics = tuple(dict.fromkeys(objectives.canonical(name) for name in metrics))
    if not metrics:
        raise ConfigError("metric = () must name at least one, e.g. 'ndcg@10'")
    for name, value, least in (("n_trials", n_trials, 1), ("seed", seed, 0), ("test_seeds", test_seeds, 0)):
        if value < least:
            raise ConfigError(f"{name} = {value} must be at least {least}")
    folder = Path(out).resolve() if out is not None else None
    several = len(metrics) > 1
    plan = Plan(
        study or f"{cls.key()}-{'-'.join(metrics)}",
        cls,
        metrics,
        n_trials,
        plain(fixed),
        choices_with_none(load_toml(space)) if isinstance(space, str | Path) else plain(space or {}),
        sampler or ("nsga2" if several else "tpe"),
        pruner or "none",
        seed,
        device,
        folder,
        objective,
        interval,
        grace,
        source_of(split, source),
    )
    if pruner is None and plan.can_prune:
        plan = replace(plan, pruner="median")
    if engine is not None and plan.folder is None:
        raise ConfigError("engine needs a folder that its machines share: give out=...")
    size = workers_on(engine, workers)
    _check(plan, size)
    if engine is None:
        pick_device(device)  # one that is not there is an error before the study exists
    identity = _identity(plan, split)
    url = storage_url(storage, folder)
    is_new = claim(plan, identity, url)
    with telling(url):
        try:
            kept = open_storage(storage, folder)
        except BaseException:
            if is_new and folder is not None:  # another storage may be what was meant
                (folder / "study.json").unlink(missing_ok=True)
            raise
        try:
            check_storage(plan, kept)
            found = _open(plan, kept, identity)
            # the first one stays: runs that are resumed have it
            before = found.user_attrs.get("source")
            _check_features(plan, before)
            _check_inputs(plan, found)
            plan = replace(plan, source=before or plan.source)
            found.set_user_attr("source", plan.source)
            trials = Trials(found, kept, plan)
            keep_results(plan, found.get_trials(deepcopy=False))
            with ProgressTable(plan, trials, progress):
                _work(plan, trials, split, size, engine)
            if test_seeds:
                test_the_best(plan, trials, split, test_seeds, size, progress, engine)
            if folder is not None:
                write_page(found, folder / "study.html", kept.dashboard)
        finally:
            if folder is not None:
                kept.close()
    return found


def _model(model: str | type[Model] | Model, settings: Mapping[str, Any]) -> tuple[type[Model], dict[str, Any]]:
    """The class and its settings that are not searched."""
    if isinstance(model, str):
        cls: type[Model] = registry.load("model", model)
        return cls, dict(settings)
    if isinstance(model, type):
        return model, dict(settings)
    if model.space is not None:
        raise ConfigError(f"model {type(model).__name__} is built already; give a new one, its class or its name")
    return type(model), {**model.config.model_dump(exclude_unset=True), **settings}


def _check(plan: Plan, workers: int) -> None:
    if "metric" in plan.fixed or "metric" in plan.given:
        raise ConfigError("setting 'metric' is what is tuned for: give it as metric (--metric)")
    if workers > 1:
        if plan.folder is None:
            raise ConfigError(f"workers = {workers} needs a folder: give out=...")
        plan.to_dict()
    samplers.check(plan.sampler, plan.pruner, plan.space, len(plan.metrics), plan.n_trials)
    if plan.pruner != "none" and not plan.can_prune:
        wanted = plan.metrics[0] if plan.objective is None else "the objective"
        raise ConfigError(f"pruner = {plan.pruner!r} reads {plan.selecting}, not {wanted}; use 'none'")


def _identity(plan: Plan, split: Split | SealedSplit) -> dict[str, Any]:
    """The fields that identify a study, as plain values."""
    identity: dict[str, Any] = {
        "model": f"{plan.model.__module__}:{plan.model.__qualname__}",
        "revision": plan.model.revision_of(plan.space.fixed),
        "metrics": list(plan.metrics),
        "objective": _name_of(plan.objective),
        "space": plan.space.to_dict(),
        "split_hash": split.hash,
        "seed": plan.seed,
    }
    plain: dict[str, Any] = json.loads(json.dumps(identity))
    return plain


def _name_of(objective: Objective | None) -> str | None:
    """What tells one objective of a caller from another, as far as a name can."""
    if objective is None:
        return None
    named = objective if hasattr(objective, "__qualname__") else type(objective)
    return f"{named.__module__}:{named.__qualname__}"


def _open(plan: Plan, storage: StudyStorage, identity: dict[str, Any]) -> Study:
    """The study, made where it is not there yet."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with storage.exclusive():
        made = optuna.create_study(
            study_name=plan.study, storage=storage.optuna, directions=plan.directions, load_if_exists=True
        )
        there = made.user_attrs.get("recgraph")
        if there is None:
            default = plan.space.default()
            if default is not None and plan.sampler != "grid" and not made.get_trials(deepcopy=False):
                made.enqueue_trial(default)
            made.set_user_attr("recgraph", identity)  # last: a study that was killed before is begun again
        elif differing := different(there, identity):
            raise ValueError(
                f"study {plan.study!r} exists with another {differing}; "
                f"go on with the same ones, or give the new study another name (--study)"
            )
        if own := imports.imported():
            made.set_user_attr("imports", [each.to_dict() for each in own])
        made.set_user_attr("selecting", plan.selecting if plan.is_trained else None)
        made.set_user_attr("asked", {"n_trials": plan.n_trials, "sampler": plan.sampler, "pruner": plan.pruner})
    return load_study(plan, storage)


def _check_features(plan: Plan, before: Mapping[str, Any] | None) -> None:
    """Refuse a study whose features have changed, whatever its trials read: they have those of its split.

    Raises:
        ValueError: names the features, both hashes and the way out.
    """
    then, now = ((source or {}).get("features") for source in (before, plan.source))
    for name in changed_features(then, now):
        raise ValueError(f"{name} is not what study {plan.study!r} was begun with; give a new study another folder")


def _check_inputs(plan: Plan, study: Study) -> None:
    """Refuse a study whose initial item vectors have been trained anew since its first trial.

    Raises:
        ValueError: names the setting and its folder.
    """
    choices = {each.name: list(each.choices) for each in plan.space.dimensions.values() if each.choices}
    now = input_digests({**plan.space.fixed, **choices})
    then = study.user_attrs.get("inputs", {})  # an earlier version did not write it
    for name, digest in now.items():
        if then.get(name, digest) != digest:
            raise ValueError(
                f"study {plan.study!r}: {name} holds another model than in its earlier trials; give it its content "
                "back, or give the new study another folder (--out) and name (--study)"
            )
    if now.keys() - then.keys():
        study.set_user_attr("inputs", {**now, **then})


def _work(plan: Plan, trials: Trials, split: Split | SealedSplit, workers: int, engine: Engine | None) -> None:
    """Run trials until the study is done, in this process or in several others."""
    if trials.counts().finished >= plan.n_trials:
        return
    if plan.folder is None:
        work(plan, trials, split.sealed().without_test(), "one")
        return
    folder = save_split(plan, split)
    if workers == 1 and engine is None:
        work(plan, trials, SealedSplit.load(folder).without_test(), "one")
        return
    url = trials.storage.url
    # workers of several machines draw different trials; those of one draw the same when they are started again
    place = f"{platform.node()}:{os.getpid()}" if url.startswith("postgres") else "team"
    orders = {f"{number}": {"storage": url, "name": f"{place}/{number}"} for number in range(workers)}

    def n_finished() -> int:
        trials.replace_expired()
        return trials.counts().finished

    try:
        run_processes(plan, folder, workers, orders, n_finished, plan.n_trials, engine=engine)
    except BaseException:
        trials.replace_expired()  # of workers that had no time to give theirs back
        raise
