"""What all fits share: the request, the run's folder, training, and the record of it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recgraph.data.files import replace_text
from recgraph.data.part import Part
from recgraph.models.base import ClosedFormModel, Model, Space, TrainableModel
from recgraph.rng import Generators
from recgraph.runs.record import Measured, provenance
from recgraph.train.callbacks import JsonLines, Observer, ProgressBar, TensorBoard
from recgraph.train.config import TrainConfig, make_accelerator, pick_device
from recgraph.train.trainer import Trainer
from recgraph.workers.lock import LOCK, hold

__all__ = ["Request", "alone", "build", "fit_built", "new_record"]


Validate = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class Request:
    """How a run is to be made; all but the model and the data.

    Attributes:
        config: of the training.
        seed: of everything random in the run.
        folder: of the run; None keeps all in memory.
        device: where to compute, as :func:`recgraph.train.config.pick_device` has it.
        resume: go on from the newest checkpoint in the folder.
        progress: show a progress bar; None: on a terminal.
        observers: told of every epoch.
    """

    config: TrainConfig
    seed: int
    folder: Path | None = None
    device: str | None = None
    resume: bool = False
    progress: bool | None = None
    observers: tuple[Observer, ...] = ()


def new_record(model: Model, request: Request, fitted_on: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a run that is about to begin."""
    return {
        "model": model.key(),
        "model_revision": model.revision,
        "config": model.config.model_dump(mode="json"),
        "training": request.config.model_dump(mode="json"),
        "seed": request.seed,
        "fitted_on": fitted_on,
        "data": {"dataset": None, "settings": {}, **data},
        "init_items": None,
        "history": [],
        "results": {},
        "unsealed": [],
    }


@contextmanager
def alone(request: Request, record: dict[str, Any]) -> Iterator[bool]:
    """The block in which a run is made, by one process at a time in a folder; whether it is there already, complete.

    Nothing is locked, or written, where it is complete.

    Raises:
        FolderInUse: another process makes a run in the folder.
        ValueError: the folder holds another run, or the same and ``resume`` is not asked for.
    """
    folder = request.folder
    if folder is None:
        yield False
        return
    with nullcontext() if _is_complete(folder) or not _is_first() else hold(folder):
        _check_folder(folder, _resolved(record), request.resume)
        yield _is_complete(folder)


def _is_complete(folder: Path) -> bool:
    return (folder / "record.json").is_file() and (folder / "bundle").is_dir()


def _is_first() -> bool:
    """Whether this is the one that writes, of the processes that a launcher has started for one training."""
    return int(os.environ.get("LOCAL_RANK", -1)) == -1 or int(os.environ.get("RANK", 0)) == 0


def build(
    model: Model,
    space: Space,
    request: Request,
    record: dict[str, Any],
    begin: Callable[[Model], None] | None = None,
) -> None:
    """Build the model.

    Args:
        begin: gives the built model its first weights, where they are not random.

    Raises:
        ValueError: the model does not fit the data, or there is no such device.
    """
    pick_device(request.device)  # one that is not there is an error before anything is computed
    with Measured() as preparation:
        model.build(space, request.seed)
        if begin is not None:
            begin(model)
    record["preparation"] = {"seconds": preparation.seconds, "cpu_seconds": preparation.cpu_seconds}


def _resolved(record: dict[str, Any]) -> dict[str, Any]:
    """What makes a run that one and no other."""
    names = ("model", "config", "training", "seed", "fitted_on", "data", "init_items", "task", "evaluation")
    return {name: record[name] for name in names if name in record}


def _make_folder(folder: Path | None, record: dict[str, Any]) -> None:
    """Write the resolved configuration, with which a folder is a run: once nothing can be refused any more."""
    if folder is not None and not (folder / "config.json").exists():
        replace_text(json.dumps(_resolved(record), indent=1), folder / "config.json")


def _check_folder(folder: Path, resolved: dict[str, Any], resume: bool) -> None:
    path = folder / "config.json"
    if not path.exists():
        if folder.exists() and any(path.name != LOCK for path in folder.iterdir()):
            raise ValueError(f"{folder} exists and is not a run; give an empty or new folder")
        return
    if not resume:
        raise ValueError(f"{folder} holds a run already; use resume=True (--resume) or another folder")
    there, here = _what_counts(json.loads(path.read_text(encoding="utf-8"))), _what_counts(resolved)
    different = [name for name in here if there.get(name) != json.loads(json.dumps(here[name]))]
    if different:
        raise ValueError(f"{folder} holds a run with another {', '.join(different)}; resume it with the same settings")


def _what_counts(resolved: dict[str, Any]) -> dict[str, Any]:
    """The same without where the split is from: its hash tells whether it is that one."""
    data = resolved.get("data") or {}
    if "split_hash" not in data:
        return resolved
    return {**resolved, "data": {name: data[name] for name in data if name not in ("dataset", "settings")}}


def fit_built(
    model: Model, part: Part | None, request: Request, record: dict[str, Any], validate: Validate | None = None
) -> None:
    """Fit a built model, which is in evaluation mode then, make the run's folder, and complete the record.

    Args:
        part: what it is fitted to; None where a graph in the model is all that there is.
        validate: metrics by name after an epoch; None: the loss selects.
    """
    with Measured() as cost:
        if isinstance(model, ClosedFormModel):
            assert part is not None
            model.to(pick_device(request.device)).fit(part)
            _make_folder(request.folder, record)
        else:
            assert isinstance(model, TrainableModel)
            trainer = _trainer(model, part, request, record, validate)
            record["history"] = trainer.fit()
            record["best_epoch"], record["best"] = trainer.stopping.best_epoch, trainer.stopping.best
            cost.seconds, cost.cpu_seconds = trainer.progress.seconds, trainer.progress.cpu_seconds
    record["cost"] = cost.to_dict()
    record["n_parameters"] = sum(parameter.numel() for parameter in model.parameters())
    record["provenance"] = provenance()
    model.eval()


def _trainer(
    model: TrainableModel, part: Any, request: Request, record: dict[str, Any], validate: Validate | None
) -> Trainer:
    config, folder = request.config, request.folder
    accelerator = make_accelerator(request.device, config.precision)
    generators = Generators(request.seed, accelerator.device, accelerator.process_index)
    batches = model.batches(part, config.batch_size, generators)
    watchers = [*request.observers]
    trainer = Trainer(model, batches, config, generators, validate, folder, watchers, accelerator)
    resumed = request.resume and trainer.resume()
    if accelerator.is_main_process:
        if config.tensorboard:
            watchers.append(TensorBoard((folder or Path("runs")) / "tensorboard"))
        _make_folder(folder, record)
        if folder is not None:
            watchers.append(JsonLines(folder / "log.jsonl", trainer.progress.history if resumed else ()))
        if request.progress or (request.progress is None and sys.stderr.isatty()):
            watchers.append(ProgressBar(config.metric, config.max_epochs))
    trainer.observers = watchers
    return trainer
