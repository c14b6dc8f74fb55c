"""The steps that every fit makes: lock the run's folder, build the model, train it, complete the record."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from recgraph.arguments import shown
from recgraph.config import Config
from recgraph.data.files import contents, sweep
from recgraph.data.imprint import load_json, replace_json
from recgraph.data.part import Part
from recgraph.finite import check_weights
from recgraph.models.base import ClosedFormModel, Model, Space, TrainableModel
from recgraph.ranks import Ranks, all_values, is_first, of_all
from recgraph.rng import Generators
from recgraph.runs.changed_features import check_features_of_training, files_read
from recgraph.runs.continuing import check_same_run, has_finished_run, is_complete
from recgraph.runs.record import IDENTIFYING, SELECTION, Cost, DataRecord, Measured, RunRecord, provenance
from recgraph.runs.settings import ProbeSettings
from recgraph.train.callbacks import JsonLines, Observer, TensorBoard
from recgraph.train.config import TrainConfig, make_accelerator, pick_device
from recgraph.train.display import EpochLog, EpochText, duration, progress_observer
from recgraph.train.trackers import Tracker, make_tracker
from recgraph.train.trainer import Trainer
from recgraph.workers.lock import LOCK, hold

__all__ = ["FitOptions", "build", "new_record", "run_folder", "train_model"]

_log = logging.getLogger(__name__)
#: the folder of TensorBoard's files in that of a run, which is made before the run's configuration is written
_SCALARS = "tensorboard"
#: settings of training that are the first process's own: it alone writes
_OF_FIRST = {"tensorboard", "track", "track_folder", "checkpoint_seconds"}

Validate = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class FitOptions:
    """How a model is fitted.

    Attributes:
        config: of the training.
        seed: of everything random in the run.
        folder: of the run; None keeps all in memory.
        device: where to compute, as :func:`recgraph.train.config.pick_device` reads it.
        resume: continue from the newest checkpoint in the folder.
        progress: see :func:`recgraph.train.display.progress_observer`.
        observers: called during the training.
        memory_limit: of the process, e.g. ``"8GiB"``.
        beside: names of folders that may lie in a folder which is not a run yet.
        selection: what the run's record keeps of the training that chose its number of epochs.
    """

    config: TrainConfig
    seed: int
    folder: Path | None = None
    device: str | None = None
    resume: bool = False
    progress: bool | None = None
    observers: tuple[Observer, ...] = ()
    beside: tuple[str, ...] = ()
    memory_limit: str | int | None = None
    selection: Mapping[str, Any] | None = None


def new_record(model: Model, options: FitOptions, fitted_on: str, data: Mapping[str, Any]) -> RunRecord:
    """The record of a run that is about to begin."""
    return RunRecord(
        model=model.key(),
        model_revision=model.revision,
        config=model.config.model_dump(mode="json"),
        training=options.config.model_dump(mode="json"),
        seed=options.seed,
        fitted_on=fitted_on,
        data=DataRecord(**{"dataset": None, "settings": {}, **data}),
        init_items=None,
        history=[],
        results={},
        unsealed=[],
        **({} if options.selection is None else {"selection": dict(options.selection)}),
    )


@contextmanager
def run_folder(model: Model, options: FitOptions, record: RunRecord) -> Iterator[bool]:
    """The block in which one process makes a run in its folder; gives whether the run is complete already.

    A folder with a complete run is neither locked nor written. A finished run that goes on with more epochs stays what
    it was until it is finished again; the record keeps why its test data was read. Of the processes of one training the
    first holds the folder, and where it is refused all raise that error.

    Raises:
        FolderInUse: another process makes a run in the folder.
        ValueError: the folder holds another run, or the same one and ``resume`` is False; or the processes of one
            training do not fit the same.
    """
    folder = options.folder
    _check_alike(model, record, options)
    if folder is None:
        yield False
        return
    ranks = Ranks.here()
    with ExitStack() as held:
        # the first process alone looks, and all are told what it found, or why it refuses
        first = of_all(lambda: _take(folder, model, options, record, held) if ranks.is_first else None)[0]
        assert first is not None
        complete, unsealed = first
        record.unsealed = [*unsealed, *(reason for reason in record.unsealed if reason not in unsealed)]
        yield complete


def _check_alike(model: Model, record: RunRecord, options: FitOptions) -> None:
    """Refuse a training whose processes do not fit the same model in the same way to the same data: they would
    average gradients of different trainings.

    Raises:
        ValueError: names the process and what it has otherwise; all raise it.
    """
    data = record.data
    training = {name: value for name, value in record.training.items() if name not in _OF_FIRST}
    own: dict[str, Any] = {"model": (record.model, record.model_revision), **record.config, **training}
    own |= {"seed": record.seed, "fit_on": record.fitted_on, "out": "none" if options.folder is None else "a folder"}
    own["data"] = f"{(data.split_hash or data.graph_hash or '')[:12]}, {data.n_users} users, {data.n_items} items"
    own["init_items"] = None if record.init_items is None else record.init_items["digest"]
    features = data.features or {}
    own |= {f"file of {name}": features[name]["sha256"][:12] for name in files_read(model) if name in features}
    of_ranks = all_values(own)

    def compare() -> None:
        for rank, other in enumerate(of_ranks):
            differing = [name for name in {**of_ranks[0], **other} if other.get(name) != of_ranks[0].get(name)]
            if differing:
                name = differing[0]
                here, there = (shown(each.get(name)) for each in (other, of_ranks[0]))
                raise ValueError(
                    f"rank {rank} differs from rank 0 in {', '.join(differing)} ({name} = {here}, not {there}): "
                    "processes that train together must make the same call, on the same data"
                )

    of_all(compare)


def _take(
    folder: Path, model: Model, options: FitOptions, record: RunRecord, held: ExitStack
) -> tuple[bool, list[str]]:
    """Hold a folder, unless the run in it is complete -> whether it is, and why the run's test data was read before."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; the run is kept in a folder: give an empty or new one (out=..., --out)")
    configs = {"config": model.Config, "training": type(options.config), "evaluation": ProbeSettings}
    if has_finished_run(folder):
        _check_folder(folder, model, record, configs, options)
        if is_complete(folder, record, configs):
            return True, []
    if is_first():
        held.enter_context(hold(folder))
    _check_folder(folder, model, record, configs, options)
    complete = is_complete(folder, record, configs)
    goes_on = not complete and (folder / "record.json").is_file()
    return complete, RunRecord.read(folder).unsealed if goes_on else []


def _check_folder(
    folder: Path, model: Model, record: RunRecord, configs: Mapping[str, type[Config]], options: FitOptions
) -> None:
    path = folder / "config.json"
    if not path.exists():
        if not options.beside and (folder / SELECTION / "config.json").exists():
            raise ValueError(f"{folder} holds a refit that was stopped; go on with refit=True (--refit --resume)")
        if contents(folder) - {LOCK, *options.beside, _SCALARS}:
            raise ValueError(f"{folder} exists and is not a run; give an empty or new folder")
        return
    if not options.resume:
        sweep(folder)  # temporaries of a process that was killed after all was written
        instead = "give" if record.fitted_on == "update" else "use resume=True (--resume) or"
        raise ValueError(f"{folder} holds a run already; {instead} another folder")
    check_same_run(folder, record, configs)
    began = (load_json(path).get("data") or {}).get("features")
    check_features_of_training(model, folder, began, record.data.features)


def _write_config(folder: Path | None, record: RunRecord) -> None:
    """Make the folder a run, with what identifies it; called when nothing can be refused any more."""
    if folder is None:
        return
    path, now = folder / "config.json", record.only(*IDENTIFYING)
    there = load_json(path) if path.exists() else None
    # of a run that goes on only the training can differ; the rest stays as it was written
    if there is None or there["training"] != now["training"]:
        replace_json({**now, **(there or {}), "training": now["training"]}, path)


def build(
    model: Model,
    space: Space,
    options: FitOptions,
    record: RunRecord,
    initialise: Callable[[Model], None] | None = None,
) -> None:
    """Build the model, and record what that cost.

    Args:
        initialise: gives the built model its first weights, where they are not random.

    Raises:
        ValueError: the model does not fit the data, or there is no such device.
    """
    pick_device(options.device)  # a device that does not exist is an error before anything is computed
    with Measured() as measured:
        model.build(space, options.seed)
        if initialise is not None:
            initialise(model)
    record.preparation = Cost(seconds=measured.seconds, cpu_seconds=measured.cpu_seconds)
    if model.resolved:
        record.resolved = model.resolved


def train_model(
    model: Model,
    part: Part | None,
    options: FitOptions,
    record: RunRecord,
    validate: Validate | None = None,
    prepare: Callable[[Trainer], None] | None = None,
) -> None:
    """Fit a built model, leave it in evaluation mode, and complete the record.

    Args:
        part: what the model is fitted to; None where it reads its graph alone.
        validate: metrics by name after an epoch; None: the loss selects.
        prepare: called with the trainer before the first step.

    Raises:
        NonFinite: a term or a weight became NaN or infinite.
    """
    _log.info("%s", _sizes(model, part, options, record))
    _log.debug("settings of %s: %s; of the training: %s", record.model, record.config, record.training)
    with Measured() as measured:
        if isinstance(model, ClosedFormModel):
            assert part is not None
            if is_first():
                _write_config(options.folder, record)
                _begin(options.observers, options, record)
            try:
                model.to(pick_device(options.device)).fit(part)
                way_out = "stronger regularisation makes it stable"
                check_weights(model.state_dict(), f"the fitted {record.model}", way_out)
            finally:
                for observer in options.observers:
                    observer.close()
        else:
            assert isinstance(model, TrainableModel)
            trainer = _trainer(model, part, options, record, validate)
            if prepare is not None:
                prepare(trainer)
            record.history = trainer.fit()
            record.best_epoch, record.best = trainer.stopping.best_epoch, trainer.stopping.best
            if options.config.metric == "last":
                record.best_epoch = trainer.progress.epoch
    record.cost = Cost(**measured.to_dict())
    if isinstance(model, TrainableModel):  # the time of all processes of a training that was resumed
        record.cost.seconds, record.cost.cpu_seconds = trainer.progress.seconds, trainer.progress.cpu_seconds
    _add_ranks(record, trainer.progress.n_ranks if isinstance(model, TrainableModel) else 1)
    record.n_parameters = _n_parameters(model)
    record.provenance = provenance()
    _log.info("%s is fitted after %s", record.model, duration(record.cost.seconds))
    model.eval()


def _add_ranks(record: RunRecord, before: int) -> None:
    """Add what several processes cost together: the CPU time of all, the largest peak memory, and their number.

    Args:
        before: the most that have trained together before this training was resumed; the larger number counts.
    """
    assert record.cost is not None
    costs = all_values(record.cost)
    if (n_ranks := max(before, len(costs))) > 1:
        record.n_ranks = n_ranks
    if len(costs) > 1:
        record.cost.cpu_seconds = sum(cost.cpu_seconds for cost in costs)
        record.cost.peak_memory_mb = max(cost.peak_memory_mb or 0.0 for cost in costs)


def _begin(observers: Sequence[Observer], options: FitOptions, record: RunRecord) -> None:
    """Tell the observers that the training begins; the record keeps where trackers are found again."""
    for observer in observers:
        observer.begin(record.only(*IDENTIFYING), options.folder)
    references = [one.reference for one in observers if isinstance(one, Tracker) and one.reference is not None]
    if references:
        record.tracking = references


def _n_parameters(model: Model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _sizes(model: Model, part: Part | None, options: FitOptions, record: RunRecord) -> str:
    """What is about to be fitted to what, in a line."""
    data = record.data
    counts = {"users": data.n_users, "items": data.n_items, "interactions": part.n_interactions if part else None}
    sizes = [f"{count:,} {name}" for name, count in counts.items() if count is not None]
    sizes += [f"{count:,} {name} nodes" for name, count in (data.nodes or {}).items()]
    source = data.dataset or ("a graph" if data.split is None else f"a log, {data.split}")
    where = "in memory" if options.folder is None else f"in {options.folder}"
    return (
        f"fit {record.model}, seed {record.seed}, to {record.fitted_on} of {source}: {', '.join(sizes)}; "
        f"{_n_parameters(model):,} parameters, on {pick_device(options.device)}, {where}"
    )


def _scalars_of(folder: Path | None, record: RunRecord) -> Path:
    """Where TensorBoard's files of a run lie: each has a folder of its own, as two in one are drawn as one."""
    if folder is not None:
        return folder / _SCALARS
    return Path("runs") / _SCALARS / f"{record.model}-{datetime.now().strftime('%Y%m%d-%H%M%S-%f')}"


def _trainer(
    model: TrainableModel, part: Any, options: FitOptions, record: RunRecord, validate: Validate | None
) -> Trainer:
    config, folder = options.config, options.folder
    accelerator = make_accelerator(options.device, config.precision)
    generators = Generators(options.seed, accelerator.device)
    batches = model.batches(part, config.batch_size, generators)
    observers = [*options.observers]
    trainer = Trainer(model, batches, config, generators, validate, folder, observers, accelerator)
    resumed = options.resume and trainer.resume()
    goes_on = options.resume and folder is not None and has_finished_run(folder)
    if goes_on and resumed and trainer.stopping.stop:
        _log.warning(
            "the training had stopped after epoch %d, when %s was no better %d times in a row: more epochs alone "
            "change nothing; give more patience",
            trainer.progress.epoch,
            config.metric,
            trainer.stopping.waited,
        )
    elif goes_on and not resumed:
        _log.warning("%s has no checkpoint to go on from; the training begins again", folder)
    if is_first():
        past, may_stop = (trainer.progress.history if resumed else []), config.patience is not None
        if config.track is not None:
            # first, so that it has each epoch that another one ends the training after
            observers.insert(0, make_tracker(config.track, config.track_folder))
        if config.tensorboard:
            observers.append(TensorBoard(_scalars_of(folder, record)))
        _write_config(folder, record)
        if folder is not None:
            observers.append(JsonLines(folder / "log.jsonl", past))
        observers.append(EpochLog(EpochText(config.metric, config.max_epochs, may_stop, past)))
        shown = progress_observer(options.progress, config.metric, config.max_epochs, may_stop, past)
        if shown is not None:
            observers.append(shown)
        _begin(observers, options, record)
    trainer.observers = observers
    return trainer
