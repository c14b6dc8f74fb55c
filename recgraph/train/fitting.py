"""The steps that every fit makes: lock the run's folder, build the model, train it, complete the
record.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from recgraph.data.part import Part
from recgraph.files import LOCK, contents, locked, read_object, write_json
from recgraph.models.base import Model, Space, TrainableModel, check_weights
from recgraph.pages import print_note
from recgraph.ranks import Ranks, all_values, is_first, of_all
from recgraph.rng import Generators
from recgraph.train.checkpoint import differing
from recgraph.train.config import TrainConfig, make_accelerator, pick_device
from recgraph.train.observers import (
    EpochLines,
    JsonLines,
    Observer,
    ProgressBar,
    Tracked,
    shows_bar,
)
from recgraph.train.record import (
    IDENTIFYING,
    SELECTION,
    Cost,
    DataRecord,
    RunRecord,
    duration,
    identity,
    measured,
    provenance,
)
from recgraph.train.settings import check_features
from recgraph.train.trainer import Trainer

#: ``"initial"``: item vectors from elsewhere get the random vectors' standard deviation;
#: ``"given"``: as they are
Scale = Literal["initial", "given"]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
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


def folder_of(out: str | Path | None) -> Path | None:
    """The folder of a run."""
    return None if out is None else Path(out)


def new_record(
    model: Model, options: FitOptions, fitted_on: str, data: Mapping[str, Any]
) -> RunRecord:
    """The record of a run that is about to begin."""
    record = RunRecord(
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
    )
    if options.selection is not None:
        record.selection = dict(options.selection)
    return record


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
        is_complete, unsealed = of_all(lambda: _enter(folder, model, options, record, lock))[0]
        added = [reason for reason in record.unsealed if reason not in unsealed]
        record.unsealed = [*unsealed, *added]
        yield folder if is_complete else None


def _enter(
    folder: Path, model: Model, options: FitOptions, record: RunRecord, lock: ExitStack
) -> tuple[bool, list[str]]:
    """Lock and check a run's folder -> whether the run in it is complete, and why the test data of
    one that goes on was read before."""
    if not is_first():
        return False, []
    if not options.resume or not _is_complete(folder, record):
        is_new = not folder.exists()
        # a killed process may take a while to give it up
        lock.enter_context(locked(folder / LOCK, wait=2.0))
        if is_new:  # the lock has made the folder
            lock.callback(_remove_empty, folder)
    _check_folder(folder, model, options, record)
    if _is_complete(folder, record):  # perhaps since this process waited for the lock
        return True, []
    earlier = _record_in(folder)
    return False, earlier.unsealed if earlier else []


def _remove_empty(folder: Path) -> None:
    if not contents(folder):
        shutil.rmtree(folder)


def _record_in(folder: Path) -> RunRecord | None:
    """The record in a folder, of whatever settings."""
    return RunRecord.read(folder) if (folder / "record.json").is_file() else None


def _is_complete(folder: Path, record: RunRecord) -> bool:
    """Whether the folder holds the run of a record, finished; a run of fewer epochs is not it."""
    earlier = _record_in(folder)
    if earlier is None or not (folder / "bundle").is_dir():
        return False
    return earlier.training == record.training


def _check_folder(folder: Path, model: Model, options: FitOptions, record: RunRecord) -> None:
    """Refuse a folder with something else, and to go on with another run than the one in it."""
    is_run = (folder / "config.json").exists()
    if is_run and options.resume:
        _check_same_run(folder, model, record)
        return
    names = contents(folder)
    if options.selection is not None:
        names.discard(SELECTION)
    if names:
        state = "exists and is not a run"
        if is_run:
            state = "holds a run already; use resume=True (--resume)"
        raise ValueError(f"out: {folder} {state}, or give an empty or new folder")


def _check_same_run(folder: Path, model: Model, record: RunRecord) -> None:
    """Refuse a record that differs from the run in a folder in more than the epochs that a run can
    go on with: a larger ``max_epochs``, another ``patience``."""
    written = read_object(folder / "config.json")
    before, now = identity(written), identity(record.only(*IDENTIFYING))
    names = {*differing(now, before)} - {"training.patience"}
    if now["training"]["max_epochs"] > before.get("training", {}).get("max_epochs", 0):
        names.remove("training.max_epochs")
    if names:
        raise ValueError(
            f"resume: {folder} holds another run, with another {', '.join(sorted(names))}; "
            "it can go on with more max_epochs and patience"
        )
    check_features(model, written["data"].get("features"), record.data.features or {})


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
    pick_device(options.device)  # one that does not exist is an error before anything is computed
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
    if part is not None and part.weights is not None and not model.reads_weights:
        raise ValueError(
            f"weight: {record.model} reads no weights; leave that column out, or take another model"
        )
    _log_beginning(part, options, record)
    if isinstance(model, TrainableModel):
        trainer = _trainer(model, part, options, validate)
        _train(trainer, part, options, record, prepare)
    else:
        _fit_in_one_step(model, part, options, record)
    record.provenance = provenance()
    model.eval()


def _log_beginning(part: Part | None, options: FitOptions, record: RunRecord) -> None:
    data = record.data
    sizes = f"{data.nodes} nodes"
    if part is not None:
        sizes = (
            f"{data.n_users:,} users, {data.n_items:,} items, {part.n_interactions:,} interactions"
        )
    _log.info(
        "fit %s, seed %d, to %s of %s: %s; %s parameters, on %s, in %s",
        record.model,
        record.seed,
        record.fitted_on,
        data.title,
        sizes,
        f"{record.n_parameters:,}",
        pick_device(options.device),
        options.folder or "memory",
    )
    _log.debug(
        "settings of %s: %s; of the training: %s", record.model, record.config, record.training
    )


def _train(
    trainer: Trainer,
    part: Part | None,
    options: FitOptions,
    record: RunRecord,
    prepare: Callable[[Trainer], None] | None,
) -> None:
    """Train, and record the epochs and the cost, over all processes of a training that was
    resumed."""
    progress, stopping = trainer.progress, trainer.stopping
    shows = options.progress
    if shows is None:  # log records tell the same
        shows = not _log.isEnabledFor(logging.INFO)
    with measured() as cost:
        observers = _begin(options, record, _observers(options, progress.history, shows))
        if prepare is not None:
            prepare(trainer)
        trainer.observers = observers
        record.history = trainer.fit()
    if stopping.stop and shows and is_first():
        print_note(f"{record.model}: {trainer.outcome}")
    if part is not None:
        record.targets_per_epoch = progress.targets_per_epoch
        record.targets = trainer.batches.n_possible  # type: ignore[attr-defined]
    record.best, record.best_epoch = stopping.best, stopping.best_epoch
    if options.config.metric == "last":
        record.best_epoch = progress.epoch
    cost.seconds, cost.cpu_seconds = progress.seconds, progress.cpu_seconds
    _account(cost, progress.n_ranks, record)


def _fit_in_one_step(
    model: Model, part: Part | None, options: FitOptions, record: RunRecord
) -> None:
    with measured() as cost, ExitStack() as stack:
        for observer in _begin(options, record, ()):
            stack.callback(observer.close)
        fitted: Any = model.to(pick_device(options.device))
        fitted.fit(part)
        check_weights(model.state_dict(), f"the fitted {record.model}")
    _account(cost, Ranks.here().count, record)


def _begin(options: FitOptions, record: RunRecord, others: Iterable[Observer]) -> list[Observer]:
    """Write what identifies the run into its folder and tell it to all observers, on the first
    rank -> what looks on on this rank: the caller's observers, and on the first one the others.
    """
    if not is_first():
        return [*options.observers]
    identifying = record.only(*IDENTIFYING)
    if options.folder is not None:
        path = options.folder / "config.json"
        # of a run that goes on only the training can differ; the rest stays as it was written
        written = read_object(path) if path.exists() else identifying
        write_json({**written, "training": identifying["training"]}, path)
    observers = [*options.observers, *others]
    for observer in observers:
        observer.begin(identifying, options.folder)
    return observers


def _account(cost: Cost, n_ranks: int, record: RunRecord) -> None:
    """Record the cost of all ranks: their CPU time, and the largest memory of one."""
    costs = all_values(cost)
    cost.cpu_seconds = sum(of_rank.cpu_seconds for of_rank in costs)
    cost.peak_memory_mb = max(of_rank.peak_memory_mb for of_rank in costs)
    record.cost = cost
    if n_ranks > 1:
        record.n_ranks = n_ranks
    _log.info("%s is fitted after %s", record.model, duration(cost.seconds))


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
    if not options.resume or folder is None:
        return trainer
    is_resumed = trainer.resume()
    if _record_in(folder) is None:
        return trainer
    if not is_resumed:
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
    config, has_bar = options.config, shows_bar()
    if config.track:
        yield Tracked(config.track)
    if config.tensorboard:
        yield Tracked("tensorboard")
    if options.folder is not None:
        yield JsonLines(options.folder / "log.jsonl", past)
    yield EpochLines(config, past, shows=shows and not has_bar)
    if has_bar and options.progress is not False:
        yield ProgressBar(config)
