"""``tune``: search a model's settings on the validation part of a split, then test the best once."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recgraph import parallel, registry
from recgraph.config import ConfigError, checked, load_toml, with_none
from recgraph.data.split import SealedSplit, Split
from recgraph.files import contents, read_object, write_json
from recgraph.models.base import Model
from recgraph.ranks import refuse_launched
from recgraph.train.config import pick_device
from recgraph.train.pretrained import input_digests
from recgraph.train.settings import source_of
from recgraph.tuning import objectives
from recgraph.tuning.final import test_the_best
from recgraph.tuning.plan import Objective, Plan, check_model
from recgraph.tuning.space import plain
from recgraph.tuning.storage import StudyStorage, naming_storage, open_storage, without_password
from recgraph.tuning.work import load_study, run_trials

if TYPE_CHECKING:
    from optuna import Study


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
    engine: parallel.Engine | None = None,
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
        sampler: one of :data:`recgraph.tuning.objectives.SAMPLERS`; None: ``"tpe"``, for two objectives ``"nsga2"``.
        pruner: one of :data:`recgraph.tuning.objectives.PRUNERS`; None: ``"median"``, or ``"none"`` where the objective
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
        progress: print a line whenever a trial has ended; None: on a terminal.
        source: where the split is from, for opening its runs without the split: ``dataset``, the name of a data card,
            and ``settings`` of :class:`recgraph.train.run.DataConfig`. A log that was read from a file knows its own.
        engine: where the processes run; ``out`` is then a folder that its machines share, and so is a storage in a
            file. None: this machine.

    Returns:
        The Optuna study.

    Raises:
        ConfigError: a setting, a space or a combination of choices that is not possible, or a model that embeds nodes.
        ValueError: the study exists with another model or revision of it, metric, space, split, features or seed; or a
            launcher has started several processes.
        TaskFailed: a worker ends with an error, or dies again and again.
        StorageFailed: the storage cannot be read or written.
        SealedTestError: something reached for test data.
    """
    refuse_launched("tune", "start it without a launcher; workers=N starts processes of its own")
    place = engine or parallel.Engine()
    if workers is not None:
        place = parallel.Engine.of(place.model_dump() | {"workers": workers})
    cls, fixed = _model(model, settings or {})
    check_model(cls)
    metrics = (metric,) if isinstance(metric, str) else tuple(metric)
    if objective is None:
        metrics = tuple(dict.fromkeys(objectives.canonical(name) for name in metrics))
    for name, value, least in (("n_trials", n_trials, 1), ("seed", seed, 0), ("test_seeds", test_seeds, 0)):
        if value < least:
            raise ConfigError(f"{name} = {value} must be at least {least}")
    plan = Plan(
        study or f"{cls.key()}-{'-'.join(metrics)}",
        cls,
        metrics,
        n_trials,
        plain(fixed),
        with_none(load_toml(space)) if isinstance(space, str | Path) else plain(space or {}),
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
    if plan.folder is None and (engine is not None or place.size > 1):
        raise ConfigError("several workers need a folder of the study: give out=...")
    objectives.check_names(plan.sampler, plan.pruner, plan.space, len(plan.metrics), n_trials)
    if plan.pruner != "none" and not plan.can_prune:
        raise ConfigError(f"pruner = {plan.pruner!r} reads {plan.selecting}, which is not the objective; use 'none'")
    if engine is None:
        pick_device(device)  # one that is not there is an error before the study exists
    if plan.folder is not None:
        _check_folder(plan.folder, plan.study)
    shown = sys.stderr.isatty() if progress is None else progress
    kept = open_storage(storage, plan.folder)
    try:
        with naming_storage(kept.url):
            found = _open(plan, kept, _identity(plan, split))
            run_trials(plan, kept, split, place, shown)
            if test_seeds:
                test_the_best(plan, found, kept, split, test_seeds, place, shown)
    finally:
        if plan.folder is not None:
            kept.close()
    return found


def _model(model: str | type[Model] | Model, settings: Mapping[str, Any]) -> tuple[type[Model], dict[str, Any]]:
    """The class and its settings that are not searched."""
    if "metric" in settings:
        raise ConfigError("setting 'metric' is what is tuned for: give it as metric (--metric)")
    if isinstance(model, str):
        return registry.load("model", model), dict(settings)
    if isinstance(model, type):
        return model, dict(settings)
    if model.space is not None:
        raise ConfigError(f"model {type(model).__name__} is built already; give a new one, its class or its name")
    return type(model), {**model.config.model_dump(exclude_unset=True), **settings}


def _identity(plan: Plan, split: Split | SealedSplit) -> dict[str, Any]:
    """The fields that identify a study, as plain values; ``features`` and ``inputs`` are digests of what is read beside
    the split."""
    choices = {each.name: list(each.choices) for each in plan.space.dimensions.values() if each.choices}
    objective: Any = plan.objective if hasattr(plan.objective, "__qualname__") else type(plan.objective)
    identity = {
        "model": f"{plan.model.__module__}:{plan.model.__qualname__}",
        "metrics": list(plan.metrics),
        "objective": plan.objective and f"{objective.__module__}:{objective.__qualname__}",
        "space": plan.space.to_dict(),
        "split_hash": split.hash,
        "seed": plan.seed,
        "features": {name: each["sha256"] for name, each in ((plan.source or {}).get("features") or {}).items()},
        "inputs": input_digests({**plan.space.fixed, **choices}),
    }
    found: dict[str, Any] = json.loads(json.dumps(identity))
    return found


def _open(plan: Plan, storage: StudyStorage, identity: dict[str, Any]) -> Study:
    """The study, made where it is not there yet, and its folder's ``study.json``, which says where it is kept.

    Raises:
        ValueError: the study, or that of the folder, is another one.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
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
            made.set_user_attr("source", plan.source)
        elif differing := [name for name, value in identity.items() if there.get(name) != value]:
            raise ValueError(
                f"study {plan.study!r} exists with another {', '.join(differing)}; go on with the same ones, or give "
                "the new study another folder (--out) and name (--study)"
            )
        if own := registry.imported():
            made.set_user_attr("imports", [each.to_dict() for each in own])
        made.set_user_attr("selecting", plan.selecting if plan.is_trained else None)
        made.set_user_attr("asked", {"n_trials": plan.n_trials, "sampler": plan.sampler, "pruner": plan.pruner})
        if plan.folder is not None:
            told = {"study": plan.study, "storage": without_password(storage.url)}
            write_json(told, plan.folder / "study.json")
    return load_study(plan, storage)


def _check_folder(folder: Path, study: str) -> None:
    """Refuse the folder of another study, and one that holds something else."""
    if (folder / "study.json").exists():
        if (name := read_object(folder / "study.json")["study"]) != study:
            raise ValueError(f"{folder} holds the study {name!r}; give another folder to {study!r}")
    elif others := {name for name in contents(folder) if not name.startswith("study.")}:
        raise ValueError(f"{folder} exists and holds no study ({min(others)}); give an empty or new folder")
