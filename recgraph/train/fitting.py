"""The steps that every fit makes: lock the run's folder, build the model, train it, complete the
record.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from recgraph.data.part import Part
from recgraph.files import LOCK, contents, locked, read_object, sweep, write_json
from recgraph.models.base import Model, Space, TrainableModel, check_weights
from recgraph.pages import print_note
from recgraph.ranks import Ranks, all_values, is_first, of_all
from recgraph.rng import Generators
from recgraph.train.config import TrainConfig, make_accelerator, pick_device
from recgraph.train.observers import (
    EpochLines,
    JsonLines,
    Observer,
    ProgressBar,
    Tracked,
    duration,
    shows_bar,
)
from recgraph.train.record import (
    IDENTIFYING,
    SELECTION,
    DataRecord,
    RunRecord,
    identity,
    measured,
    provenance,
)
from recgraph.train.settings import check_features
from recgraph.train.trainer import Trainer

#: settings of training of which a run may be given more, after it was stopped and after it was
#: finished
_MORE = ("max_epochs", "patience")
#: ``"initial"``: item vectors from elsewhere get the random vectors' standard deviation;
#: ``"given"``: as they are
Scale = Literal["initial", "given"]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitOptions:
    """How a model is fitted: arguments of :func:`recgraph.train.fit.fit`, and ``selection``, what
    the record has of the training that chose the number of epochs, which lies in the folder."""

    config: TrainConfig
    seed: int
    folder: Path | None = None
    device: str | None = None
    resume: bool = False
    progress: bool | None = None
    observers: tuple[Observer, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)
    init_items: Any = None
    init_items_scale: Scale = "initial"
    selection: Mapping[str, Any] | None = None


def new_record(
    model: Model, options: FitOptions, fitted_on: str, data: Mapping[str, Any]
) -> RunRecord:
    """The record of a run that is about to begin."""
    return RunRecord(
        model=model.key(),
        config=model.config.model_dump(mode="json"),
        training=options.config.model_dump(mode="json"),
        seed=options.seed,
        fitted_on=fitted_on,
        data=DataRecord(**{"dataset": None, "settings": {}, **options.source, **data}),
        init_items=None,
        history=[],
        results={},
        unsealed=[],
        **({} if options.selection is None else {"selection": dict(options.selection)}),
    )


# -- the folder


@contextmanager
def run_folder(model: Model, options: FitOptions, record: RunRecord) -> Iterator[Path | None]:
    """The block in which one process makes a run in its folder (else InUse); gives the folder of a
    complete one.

    A folder with a complete run is neither locked nor written. A finished run that goes on with
    more epochs stays what it was until it is finished again; the record says why its test data was
    read before. Of the processes of one training the first locks the folder, and where it is
    refused all raise that error.
    """
    folder = options.folder
    if folder is None:
        yield None
        return
    with ExitStack() as lock:

        def is_complete() -> bool:  # a run of fewer epochs is not it
            found = _finished(folder)
            return found is not None and identity(found)["training"] == identity(record)["training"]

        def take() -> tuple[bool, list[str]]:
            if not is_first():
                return False, []
            if not (options.resume and is_complete()):
                is_new = not folder.exists()
                lock.enter_context(
                    locked(folder / LOCK, wait=2.0)
                )  # a killed process may take a while to give it up
                if is_new:  # the lock has made it; it is removed where nothing was written
                    lock.callback(lambda: None if contents(folder) else shutil.rmtree(folder))
            _check_folder(folder, model, record, options)
            complete = is_complete()
            goes_on = not complete and (folder / "record.json").is_file()
            return complete, RunRecord.read(folder).unsealed if goes_on else []

        complete, unsealed = of_all(take)[0]
        record.unsealed = [
            *unsealed,
            *(reason for reason in record.unsealed if reason not in unsealed),
        ]
        yield folder if complete else None


def _finished(folder: Path) -> RunRecord | None:
    """The record of the finished run in a folder, of whatever settings."""
    is_there = (folder / "record.json").is_file() and (folder / "bundle").is_dir()
    return RunRecord.read(folder) if is_there else None


def _check_folder(folder: Path, model: Model, record: RunRecord, options: FitOptions) -> None:
    """Refuse a folder with something else, and to go on with another run than the one in it."""
    path = folder / "config.json"
    if not path.exists() or not options.resume:
        if path.exists():
            sweep(folder, age=0)  # temporaries of a process that was killed after all was written
        beside = set() if options.selection is None else {SELECTION}
        if contents(folder) - {LOCK, *beside}:
            what = (
                "holds a run already; use resume=True (--resume)"
                if path.exists()
                else "exists and is not a run"
            )
            raise ValueError(f"out: {folder} {what}, or give an empty or new folder")
        return
    was = read_object(path)
    there, here = identity(was), identity(record)
    others = [
        f"{name} (another one)"
        for name in here
        if name != "training" and there.get(name) != here[name]
    ]
    before, now = there.get("training") or {}, here["training"]
    for name in dict.fromkeys([*now, *before]):
        fewer = name == "max_epochs" and now.get(name, 0) < before.get(name, 0)
        if before.get(name) != now.get(name) and (name not in _MORE or fewer):
            others.append(f"{name} = {before.get(name)}, now {now.get(name)}")
    if others:
        raise ValueError(
            f"resume: {folder} holds another run: {', '.join(others)}; it can go on with more {' and '.join(_MORE)}"
        )
    check_features(model, (was.get("data") or {}).get("features"), record.data.features)


# -- the model


def build(
    model: Model,
    space: Space,
    options: FitOptions,
    record: RunRecord,
    initialise: Callable[[Model], None] | None = None,
) -> None:
    """Build the model, ``initialise`` its weights where they are not random, and record what that
    cost.
    """
    pick_device(
        options.device
    )  # a device that does not exist is an error before anything is computed
    with measured() as record.preparation:
        model.build(space, options.seed)
        if initialise is not None:
            initialise(model)
    if model.resolved:
        record.resolved = model.resolved


def train_model(
    model: Model,
    part: Part | None,
    options: FitOptions,
    record: RunRecord,
    validate: Callable[[], Mapping[str, float]] | None = None,
    prepare: Callable[[Trainer], None] | None = None,
) -> None:
    """Fit a built model to a part (None: it reads its graph alone), leave it in evaluation mode,
    and complete the record. ``validate`` gives metrics by name after an epoch; ``prepare`` gets the
    trainer before the first step."""
    record.n_parameters = sum(map(Tensor.numel, model.parameters()))
    data, device, folder = record.data, pick_device(options.device), options.folder
    if part is not None and part.weights is not None and not model.reads_weights:
        raise ValueError(
            f"weight: {record.model} reads no weights; leave that column out, or take another model"
        )
    sizes = f"{data.nodes} nodes"
    if part is not None:
        sizes = (
            f"{data.n_users:,} users, {data.n_items:,} items, {part.n_interactions:,} interactions"
        )
    source = data.dataset or ("a graph" if data.split is None else f"a log, {data.split}")
    what = f"{record.model}, seed {record.seed}, to {record.fitted_on} of {source}"
    where = "in memory" if folder is None else f"in {folder}"
    _log.info(
        "fit %s: %s; %s parameters, on %s, %s",
        what,
        sizes,
        f"{record.n_parameters:,}",
        device,
        where,
    )
    _log.debug(
        "settings of %s: %s; of the training: %s", record.model, record.config, record.training
    )
    trainer = (
        _trainer(model, part, options, validate) if isinstance(model, TrainableModel) else None
    )
    observers, identifying = [*options.observers], record.only(*IDENTIFYING)
    shows = not _log.isEnabledFor(logging.INFO) if options.progress is None else options.progress
    with measured() as cost:
        if not Ranks.here().index:
            there = (
                read_object(folder / "config.json")
                if folder and (folder / "config.json").exists()
                else None
            )
            # of a run that goes on only the training can differ; the rest stays as it was written
            if folder is not None and (
                there is None or there["training"] != identifying["training"]
            ):
                training = {"training": identifying["training"]}
                write_json({**identifying, **(there or {}), **training}, folder / "config.json")
            if trainer is not None:
                observers += _observers(options, trainer.progress.history, shows)
            for observer in observers:
                observer.begin(identifying, folder)
        if trainer is not None:
            if prepare is not None:
                prepare(trainer)
            trainer.observers = observers
            stopping, record.history = trainer.stopping, trainer.fit()
            if part is not None:
                record.targets_per_epoch = trainer.progress.targets_per_epoch
                record.targets = trainer.batches.n_possible  # type: ignore[attr-defined]
            if stopping.stop and shows and not Ranks.here().index:
                print_note(f"{record.model}: {trainer.outcome}")
            record.best, is_last = stopping.best, options.config.metric == "last"
            record.best_epoch = trainer.progress.epoch if is_last else stopping.best_epoch
        else:
            fitted: Any = model.to(device)
            try:
                fitted.fit(part)
                check_weights(model.state_dict(), f"the fitted {record.model}")
            finally:
                for observer in observers:
                    observer.close()
    record.cost, n_ranks = cost, 1
    if trainer is not None:  # the time of all processes of a training that was resumed
        cost.seconds, cost.cpu_seconds = trainer.progress.seconds, trainer.progress.cpu_seconds
        n_ranks = trainer.progress.n_ranks
    costs = all_values(cost)
    if len(costs) > 1:
        cost.cpu_seconds = sum(each.cpu_seconds for each in costs)
        cost.peak_memory_mb = max(each.peak_memory_mb or 0.0 for each in costs)
    if (n_ranks := max(n_ranks, len(costs))) > 1:
        record.n_ranks = n_ranks
    record.provenance = provenance()
    _log.info("%s is fitted after %s", record.model, duration(cost.seconds))
    model.eval()


def _trainer(
    model: TrainableModel,
    part: Any,
    options: FitOptions,
    validate: Callable[[], Mapping[str, float]] | None,
) -> Trainer:
    """The trainer of a run, resumed where that is wanted."""
    config, folder = options.config, options.folder
    accelerator = make_accelerator(options.device, config.precision)
    generators = Generators(options.seed, accelerator.device)
    batches = model.batches(part, config.batch_size, generators)
    trainer = Trainer(model, batches, config, generators, validate, folder, accelerator=accelerator)
    resumed = options.resume and trainer.resume()
    if options.resume and folder is not None and _finished(folder):
        if not resumed:
            _log.warning("%s has no checkpoint to go on from; the training begins again", folder)
        elif trainer.stopping.stop:
            _log.warning(
                "the training had stopped early: more epochs alone change nothing; give more patience"
            )
    return trainer


def _observers(
    options: FitOptions, past: Sequence[Mapping[str, Any]], shows: bool
) -> Iterator[Observer]:
    """What looks on beside the caller's own; ``past`` are the epochs of a training that was
    resumed.
    """
    config, bar = options.config, shows_bar()
    if config.track:
        yield Tracked(config.track)
    if config.tensorboard:
        yield Tracked("tensorboard")
    if options.folder is not None:
        yield JsonLines(options.folder / "log.jsonl", past)
    yield EpochLines(config, past, shows=shows and not bar)
    if bar and options.progress is not False:
        yield ProgressBar(config)
