"""One call from a model and a split to a run: fit, evaluate, recommend, save."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from recgraph import registry
from recgraph.config import distribute
from recgraph.data.split import SealedSplit, Split
from recgraph.evaluate.evaluator import evaluate
from recgraph.models.base import ClosedFormModel, Model, Space, TrainableModel
from recgraph.provenance import Measured, provenance
from recgraph.rng import Generators
from recgraph.run import DataConfig, Run
from recgraph.train import checkpoint as checkpoints
from recgraph.train.config import TrainConfig
from recgraph.train.device import make_accelerator
from recgraph.train.observers import JsonLines, Observer, ProgressBar, TensorBoard
from recgraph.train.trainer import Trainer

__all__ = ["fit", "model_from", "train"]


def fit(
    model: Model | str,
    split: Split | SealedSplit,
    *,
    seed: int,
    out: str | Path | None = None,
    device: str | None = None,
    resume: bool = False,
    progress: bool | None = None,
    fit_on: Literal["train", "train+valid"] = "train",
    observers: tuple[Observer, ...] = (),
    **training: Any,
) -> Run:
    """Fit a model to the training part of a split, selected on its validation part.

    Args:
        model: with its settings, not built; or a name of the registry.
        split: the test part is sealed before anything is read.
        seed: of everything random in the run.
        out: folder of the run (log, checkpoints, bundle, record); None keeps all in memory.
        device: ``"cpu"``, ``"cuda"``; None picks the best there is.
        resume: go on from the newest checkpoint in ``out``.
        progress: show a progress bar; None: on a terminal.
        fit_on: ``"train+valid"`` for a last fit before the test, without a validation (``metric="loss"``).
        observers: told of every epoch.
        training: settings of :class:`recgraph.train.config.TrainConfig`.

    Raises:
        ConfigError: a setting that does not exist or is out of range.
        ValueError: ``out`` holds another run and ``resume`` is not asked for.
    """
    made = model_from(model)
    config = TrainConfig.of(training)
    return _fit(
        made,
        split,
        config,
        seed,
        Path(out) if out is not None else None,
        device,
        resume,
        progress,
        fit_on,
        observers,
        None,
    )


def train(
    model: str,
    dataset: str,
    out: str | Path,
    *,
    settings: Mapping[str, Any],
    seed: int,
    device: str | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> Run:
    """Train a model on a data set of the catalogue: what ``recgraph train`` does.

    Args:
        model: name of the registry.
        dataset: name of a data card.
        out: folder of the run; refused where it exists, unless ``resume``.
        settings: one flat namespace of the model's, the training's and the data's settings.
        seed: of the run.
    """
    cls = registry.load("model", model)
    parts = distribute(settings, {"model": cls.Config, "training": TrainConfig, "data": DataConfig})
    made, config, data = (
        cls(**parts["model"]),
        TrainConfig.of(parts["training"]),
        DataConfig.of(parts["data"]),
    )
    split = data.split_of(dataset)
    source = {"dataset": dataset, "settings": data.model_dump(mode="json")}
    return _fit(made, split, config, seed, Path(out), device, resume, progress, "train", (), source)


def model_from(model: Model | str) -> Model:
    """A model that is not built yet, from a name or as it is.

    Raises:
        ValueError: it is built already.
    """
    made: Model = registry.load("model", model)() if isinstance(model, str) else model
    if made.space is not None:
        raise ValueError(f"model {type(made).__name__} is built already; give a new one, e.g. {type(made).__name__}()")
    return made


def _fit(
    model: Model,
    split: Split | SealedSplit,
    config: TrainConfig,
    seed: int,
    folder: Path | None,
    device: str | None,
    resume: bool,
    progress: bool | None,
    fit_on: Literal["train", "train+valid"],
    observers: tuple[Observer, ...],
    source: dict[str, Any] | None,
) -> Run:
    sealed = split.sealed()
    part = (
        sealed.train
        if fit_on == "train"
        else sealed.unseal(f"fit {type(model).__name__} on train+valid").fit_part(fit_on)
    )
    record: dict[str, Any] = {
        "model": model.key(),
        "model_revision": model.revision,
        "config": model.config.model_dump(mode="json"),
        "training": config.model_dump(mode="json"),
        "seed": seed,
        "fitted_on": fit_on,
        "data": {
            "dataset": None,
            "settings": {},
            **(source or {}),
            "split": split.name,
            "split_params": split.params,
            "split_hash": split.hash,
            "n_users": split.n_users,
            "n_items": split.n_items,
        },
        "history": [],
        "results": {},
        "unsealed": list(sealed.unsealed_reasons),
    }
    if folder is not None:
        _claim(folder, record, resume)
    model.build(Space(n_users=split.n_users, n_items=split.n_items), seed)
    with Measured() as cost:
        if isinstance(model, ClosedFormModel):
            model.fit(part)
        else:
            assert isinstance(model, TrainableModel)
            trainer = _trainer(model, part, sealed, config, seed, folder, device, resume, progress, fit_on, observers)
            record["history"] = trainer.fit()
            record["best_epoch"], record["best"] = trainer.stopping.best_epoch, trainer.stopping.best
            cost.seconds, cost.cpu_seconds = trainer.progress.seconds, trainer.progress.cpu_seconds
    record["cost"] = cost.to_dict()
    record["n_parameters"] = sum(parameter.numel() for parameter in model.parameters())
    record["provenance"] = provenance()
    model.eval()
    run = Run(model, sealed, record, folder)
    if folder is not None:
        run.save(folder / "bundle")
        run.write_record()
    return run


def _claim(folder: Path, record: dict[str, Any], resume: bool) -> None:
    """Make the run's folder and write its resolved configuration, or check that a resumed run is the same."""
    path = folder / "config.json"
    resolved = {name: record[name] for name in ("model", "config", "training", "seed", "fitted_on", "data")}
    if path.exists():
        if not resume:
            raise ValueError(f"{folder} holds a run already; use resume=True (--resume) or another folder")
        there = json.loads(path.read_text(encoding="utf-8"))
        different = [name for name in resolved if there.get(name) != json.loads(json.dumps(resolved[name]))]
        if different:
            raise ValueError(
                f"{folder} holds a run with another {', '.join(different)}; resume it with the same settings"
            )
        return
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} exists and is not a run; give an empty or new folder")
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints.write_atomically(path, json.dumps(resolved, indent=1))


def _trainer(
    model: TrainableModel,
    part: Any,
    sealed: SealedSplit,
    config: TrainConfig,
    seed: int,
    folder: Path | None,
    device: str | None,
    resume: bool,
    progress: bool | None,
    fit_on: str,
    observers: tuple[Observer, ...],
) -> Trainer:
    accelerator = make_accelerator(device, config.precision)
    generators = Generators(seed, accelerator.device, accelerator.process_index)
    batches = model.batches(part, config.batch_size, generators)

    def validate() -> dict[str, float]:
        results = evaluate(model, sealed.valid, seen=(config.select_seen,), cutoffs=(5, 10, 20))
        return results[0].metrics

    with_validation = config.metric != "loss" and fit_on == "train"
    watchers = [*observers]
    trainer = Trainer(
        model,
        batches,
        config,
        generators,
        validate if with_validation else None,
        folder,
        watchers,
        accelerator,
    )
    resumed = resume and trainer.resume()
    if accelerator.is_main_process:
        if folder is not None:
            watchers.append(JsonLines(folder / "log.jsonl", trainer.progress.history if resumed else ()))
        if config.tensorboard:
            watchers.append(TensorBoard((folder or Path("runs")) / "tensorboard"))
        if progress or (progress is None and _on_terminal()):
            watchers.append(ProgressBar(config.metric, config.max_epochs))
    trainer.observers = watchers
    return trainer


def _on_terminal() -> bool:
    return sys.stderr.isatty()
