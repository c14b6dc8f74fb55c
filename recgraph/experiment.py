"""One call from a model and a split to a run: fit, evaluate, recommend, save."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from recgraph import registry
from recgraph.config import Config, distribute
from recgraph.data.catalog import load_dataset
from recgraph.data.split import SealedSplit, Split
from recgraph.evaluate.evaluator import evaluate
from recgraph.evaluate.results import Results
from recgraph.models.base import ClosedFormModel, Model, Space, TrainableModel
from recgraph.provenance import Measured, provenance
from recgraph.rng import Generators
from recgraph.serve.recommender import Recommender, load
from recgraph.train import checkpoint as checkpoints
from recgraph.train.config import TrainConfig
from recgraph.train.device import make_accelerator
from recgraph.train.observers import JsonLines, Observer, ProgressBar, TensorBoard
from recgraph.train.trainer import Trainer

__all__ = ["DataConfig", "Run", "fit", "model_from", "train"]

Seen = Literal["keep", "exclude", "both"]


class DataConfig(Config):
    """How a data set is split for a run from the command line."""

    split: Annotated[str, Field(description="split strategy")] = "leave-one-out"
    split_options: Annotated[dict[str, Any], Field(default_factory=dict, description="its parameters")]
    split_seed: Annotated[int, Field(ge=0, description="of splits that draw")] = 0


class Run:
    """A fitted model with the split it was fitted on.

    Attributes:
        model: fitted.
        split: sealed; :meth:`evaluate` on the test part unseals it, and the record says so.
        record: what was done: configuration, seed, data, cost, the curve, results; plain values.
        folder: where the run is kept, or None.
    """

    def __init__(
        self, model: Model, split: SealedSplit | None, record: dict[str, Any], folder: Path | None = None
    ) -> None:
        self.model, self.split, self.record, self.folder = model, split, record, folder

    @property
    def history(self) -> list[dict[str, Any]]:
        """One row an epoch; empty for closed-form models."""
        rows: list[dict[str, Any]] = self.record["history"]
        return rows

    def evaluate(self, part: str = "test", seen: Seen = "both", cutoffs: tuple[int, ...] = (5, 10, 20)) -> Results:
        """Metrics by full ranking, both conventions for seen items from one pass.

        Args:
            part: ``"test"`` (unseals it; logged and recorded) or ``"valid"``.
            seen: whether items of the history stay candidates.
            cutoffs: list lengths.

        Raises:
            ValueError: no such part, or the run was opened without its data.
        """
        if part not in ("test", "valid"):
            raise ValueError(f"part = {part!r} must be 'test' or 'valid'")
        split = self._require_split()
        cases = split.unseal(f"evaluate {type(self.model).__name__} on test").test if part == "test" else split.valid
        results = evaluate(
            self.model,
            cases,
            seen=("keep", "exclude") if seen == "both" else (seen,),
            cutoffs=cutoffs,
            split=split,
            part=part,
            fitted_on=self.record["fitted_on"],
            history="train" if part == "valid" else "train+valid",
        )
        self.record["results"][part] = results.to_dict()
        if part == "test":
            self.record["unsealed"] = list(split.unsealed_reasons)
        self._write_record()
        return results

    @cached_property
    def recommender(self) -> Recommender:
        """The model with its ids and what its users have seen (train and valid)."""
        if self.folder is not None and (self.folder / "bundle").is_dir():
            return load(self.folder / "bundle")
        split = self._require_split()
        return Recommender.for_split(self.model, split)

    def recommend(self, users: Any = None, histories: Any = None, k: int = 10, **options: Any) -> Any:
        """See :meth:`recgraph.serve.recommender.Recommender.recommend`."""
        return self.recommender.recommend(users=users, histories=histories, k=k, **options)

    def save(self, folder: str | Path) -> None:
        """Write a bundle for serving; :func:`recgraph.load` reads it."""
        self.recommender.save(folder)

    def _require_split(self) -> SealedSplit:
        if self.split is None:
            raise ValueError("this run was opened without its data; give Run.open(folder, split=...)")
        return self.split

    def _write_record(self) -> None:
        if self.folder is not None:
            checkpoints.write_atomically(self.folder / "record.json", json.dumps(self.record, indent=1))

    @classmethod
    def open(cls, folder: str | Path, split: Split | None = None) -> Run:
        """Open a finished run.

        Args:
            folder: of the run.
            split: the data it was fitted on; by default prepared again from the run's data set and checked.

        Raises:
            ValueError: not a finished run, or the data is not what the run was fitted on.
        """
        folder = Path(folder)
        if not (folder / "record.json").is_file():
            unfinished = (folder / "config.json").is_file()
            raise ValueError(f"{folder} is not a finished run" + ("; go on with --resume" if unfinished else ""))
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        data = record["data"]
        if split is None and data["dataset"] is not None:
            split = _split_of(data["dataset"], DataConfig.of(data["settings"]))
        if split is not None and split.hash != data["split_hash"]:
            raise ValueError(
                f"split hash {split.hash[:12]} differs from the run's {data['split_hash'][:12]}: other data or parameters"
            )
        model = load(folder / "bundle").model
        return cls(model, split.sealed() if split is not None else None, record, folder)


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
    split = _split_of(dataset, data)
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


def _split_of(dataset: str, data: DataConfig) -> Split:
    return load_dataset(dataset).split(data.split, seed=data.split_seed, **data.split_options)


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
        run._write_record()
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
            watchers.append(JsonLines(folder / "log.jsonl", trainer.progress.epoch if resumed else 0))
        if config.tensorboard:
            watchers.append(TensorBoard((folder or Path("runs")) / "tensorboard"))
        if progress or (progress is None and _on_terminal()):
            watchers.append(ProgressBar(config.metric, config.max_epochs))
    trainer.observers = watchers
    return trainer


def _on_terminal() -> bool:
    return sys.stderr.isatty()
