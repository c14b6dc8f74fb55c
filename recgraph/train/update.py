"""The second day of a run: take in a new log, with its new users and items, at a fraction of a fit's cost.

Trained models go on from their weights: tables grow, the samples are those with new targets and a share of the old
ones, and the newest slice of the new log, which is not trained on, tells whether the result is better than what there
was. Models in closed form are fitted again, exactly, to everything.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recgraph import registry
from recgraph.data.item_features import ItemFeatures
from recgraph.data.part import Cases
from recgraph.evaluate.evaluator import validation
from recgraph.evaluate.ranking import device_of
from recgraph.files import write_json
from recgraph.models.base import FeatureSpace, Model, Space, TrainableModel
from recgraph.models.growth import grown, grown_optimiser
from recgraph.ranks import first_does
from recgraph.rng import derive, numpy_generator
from recgraph.serve.recommender import Recommender
from recgraph.sparse.device import is_accelerated
from recgraph.sparse.ragged import Ragged
from recgraph.train import checkpoint as checkpoints
from recgraph.train.config import TrainConfig, pick_device, training_config
from recgraph.train.fitting import FitOptions, new_record, run_folder, train_model
from recgraph.train.new_log import Before, Joined, read_new_log, reading_of
from recgraph.train.observers import Observer
from recgraph.train.phases import make_optimisers
from recgraph.train.record import IDENTIFYING, RunRecord
from recgraph.train.trainer import Trainer

#: the learning rate of an update, as a share of that of a fit; an update of an update keeps the rate
_RATE_SHARE = 0.25
#: settings of a training that an update has the defaults of
_SCHEDULED = ("schedule", "drop_after", "drop_factor", "schedule_epochs", "warmup_steps", "validate_every")
#: what an update is validated by where nothing has selected the run
_METRIC = "ndcg@10"
_log = logging.getLogger(__name__)


class UpdateRefused(ValueError):
    """The updated model is worse than what there was, on the newest slice."""


@dataclass(frozen=True)
class UpdateOptions:
    """How a run is updated; see :meth:`recgraph.train.run.Run.update`."""

    epochs: int = 2
    replay: float = 0.1
    learning_rate: float | None = None
    valid: float = 0.1
    fold_in: bool = True
    force: bool = False
    seed: int | None = None
    device: str | None = None
    progress: bool | None = None
    observers: tuple[Observer, ...] = ()
    item_features: Any = None


def check_updatable(model: Model) -> None:
    """Refuse a model that cannot take in a new log, by its class or by its settings."""
    if model.updated_by is None or model.reads_graph:
        able = [key for key, cls in registry.classes("model") if cls.updated_by and not cls.reads_graph]
        raise ValueError(
            f"{type(model).__name__} cannot be updated; fit it again on everything. Those that can: {', '.join(able)}"
        )


def update(
    parent: Recommender, new_log: Any, options: UpdateOptions, out: Path | None = None, checkpoint: Path | None = None
) -> tuple[Recommender, RunRecord]:
    """A recommender that knows a new log, too, and the record of how it was made; see :meth:`Run.update`.

    Args:
        parent: what there was; it is not changed.
        new_log: see :func:`recgraph.train.new_log.read_new_log`.
        options: how.
        out: folder of the new run; written when the update is accepted.
        checkpoint: folder of the parent's checkpoints, with the state of its optimisers, or None.
    """
    check_updatable(parent.model)
    joined = Joined.of(parent, read_new_log(new_log, parent, options.item_features), options.valid)
    config = _training(parent, options)
    seed = options.seed if options.seed is not None else int(parent.record.get("seed") or 0)
    fit_options = FitOptions(
        config, seed, device=options.device, progress=options.progress, observers=options.observers
    )
    space = _space(parent, joined)
    data: dict[str, Any] = {"n_users": space.n_users, "n_items": space.n_items}
    data |= {"settings": {"reading": written}} if (written := reading_of(parent.record)) else {}  # for the next update
    record = new_record(parent.model, fit_options, "update", data)
    # a folder that an update was killed in while it wrote is written again
    was_cut = out is not None and (out / "config.json").is_file() and not (out / "record.json").is_file()
    held = FitOptions(config, seed, folder=out, resume=was_cut)
    with run_folder(parent.model, held, record):
        step = _Update(parent, joined, options, fit_options, record, space)
        old, new = step.validated(checkpoint)
        record.update = {
            "parent": _described(parent, checkpoint),
            "by": parent.model.updated_by,
            "epochs": options.epochs if step.trainer else None,
            "replay": options.replay if step.trainer else None,
            "learning_rate": config.learning_rate if step.trainer else None,
            "samples": step.n_samples,
            "optimiser": step.optimiser,
            "new_users": space.n_users - len(parent.users),
            "new_items": space.n_items - len(parent.items),
            "new_interactions": joined.new.values.numel(),
            "valid": {
                "metric": _selected_by(parent.record) or _METRIC,
                "share": options.valid,
                "users": step.n_cases,
                "before": old,
                "after": new,
            },
            "fold_in": options.fold_in,
            "forced": options.force,
        }
        _check_better(old, new, config.metric, step.n_cases, options.force)
        step.fold_in()
        made = step.recommender()
        if out is not None:
            _write(made, record, step.trainer, out)
    return made, record


class _Update:
    """One update: the model that is made, what was validated, and what it cost."""

    def __init__(
        self,
        parent: Recommender,
        joined: Joined,
        options: UpdateOptions,
        fit_options: FitOptions,
        record: RunRecord,
        space: Space,
    ) -> None:
        self.parent, self.joined, self.options = parent, joined, options
        self.fit_options, self.record, self.space = fit_options, record, space
        self.trainer: Trainer | None = None
        self.n_samples: int | None = None
        self.optimiser: str | None = None
        self.cases: Cases | None = joined.cases() if options.valid else None
        if self.cases is not None and not len(self.cases):
            raise ValueError(f"valid = {options.valid}: nothing else is known of these users; give a larger share")
        self.model: Model = parent.model

    @property
    def n_cases(self) -> int:
        return 0 if self.cases is None else len(self.cases)

    def validated(self, checkpoint: Path | None) -> tuple[float | None, float | None]:
        """Make the model -> the metric on the newest slice of the parent and of the model."""
        trained = self.joined.part(self.joined.trained, self.joined.trained_times)
        metric, seen = self.fit_options.config.metric, self.fit_options.config.select_seen

        def measure(model: Any) -> dict[str, float]:
            assert self.cases is not None
            return validation(model, self.cases, metric, seen=seen, fit_part=trained)

        old = None
        if self.cases is not None:
            old = measure(Before(self.parent.model, len(self.joined.items)))[metric]
        seed = derive(self.fit_options.seed, "growth")
        if isinstance(self.parent.model, TrainableModel):
            self.model = grown(self.parent.model, self.space, seed)
            validate = None if self.cases is None else lambda: measure(self.model)
            prepare = self._prepare(checkpoint)
            train_model(self.model, trained, self.fit_options, self.record, validate, prepare)
            return old, None if self.cases is None else self.record.best
        self._fit_again(self.joined.trained, self.fit_options)
        return old, None if self.cases is None else measure(self.model)[metric]

    def fold_in(self) -> None:
        """Fit a model in closed form to the newest slice, too."""
        if self.trainer is None and self.options.fold_in and self.cases is not None:
            self._fit_again(self.joined.whole, replace(self.fit_options, observers=()))  # one update is told once

    def _fit_again(self, rows: Ragged, options: FitOptions) -> None:
        model = self.parent.model
        self.model = type(model)(model.config).build(self.space, options.seed)
        train_model(self.model, self.joined.part(rows), options, self.record)

    def _prepare(self, checkpoint: Path | None) -> Callable[[Trainer], None]:
        """Select the samples and load the optimisers' state, once the trainer is there."""

        def prepare(trainer: Trainer) -> None:
            self.trainer = trainer
            n_old, idle_mask = self._old_samples()
            self.n_samples = _select(trainer.batches, n_old, idle_mask, self.options.replay, trainer)
            if (trained := trainer.model.trained_users) is not None:
                trained[idle_mask.to(trained.device)] = False
            self.optimiser = _load_optimisers(trainer, self.parent.model, checkpoint)
            _log.info("update of %s: %d samples; optimiser %s", self.record.model, self.n_samples, self.optimiser)

        return prepare

    def _old_samples(self) -> tuple[Tensor, Tensor]:
        """-> [n_users] int64, how many of each user's items are old; [n_users] bool, the users who are left out.

        A user whose vector was never trained, as of one who was in the slice of an earlier update alone, is trained on
        all that is known of the user, or, where nothing of it is new, still ranked for by the history.
        """
        old, parent = self.joined.old.lengths, self.parent.model
        trained = parent.trained_users if isinstance(parent, TrainableModel) else None
        if trained is None:
            return old, torch.zeros(len(old), dtype=torch.bool)
        trained_mask = torch.zeros(len(old), dtype=torch.bool)
        trained_mask[: len(trained)] = trained.to("cpu")
        return torch.where(trained_mask, old, 0), ~trained_mask & (self.joined.trained.lengths == old)

    def recommender(self) -> Recommender:
        """The model with all ids, and what its users have seen."""
        joined, parent = self.joined, self.parent
        times = joined.whole_times if self.options.fold_in else joined.trained_times
        names = ("model", "config", "training", "seed", "fitted_on", "data", "update", "provenance")
        return Recommender(
            self.model.to(device_of(parent.model)),
            joined.users,
            joined.items,
            joined.whole if self.options.fold_in else joined.trained,
            columns=parent.columns,
            kind=parent.kind,
            item_features=joined.item_features,
            record=self.record.only(*names),
            times=None if times is None else times.values,
            time_unit=parent.time_unit,
            time_format=parent.time_format,
        )


def _space(parent: Recommender, joined: Joined) -> Space:
    """The sizes of both logs; items are encoded by what the parent has learnt of their features."""
    sizes = {"n_users": len(joined.users), "n_items": len(joined.items)}
    before = parent.model.space
    if not isinstance(before, FeatureSpace):
        return Space(**sizes)
    assert joined.item_features is not None
    schema, key = before.features.schema, parent.columns.item
    return FeatureSpace(**sizes, features=ItemFeatures.encode(schema, joined.item_features, key, joined.items))


def _training(parent: Recommender, options: UpdateOptions) -> TrainConfig:
    """The settings of the parent's training, with those of an update; compiled only where there is an accelerator."""
    model = type(parent.model)
    # a bundle that was not made by a fit says nothing of a training
    config = training_config(model) if issubclass(model, TrainableModel) else TrainConfig
    before = config.of(parent.record.get("training") or {})
    metric = (_selected_by(parent.record) or _METRIC) if options.valid else "last"
    rate = options.learning_rate or before.learning_rate * (1.0 if parent.record.get("update") else _RATE_SHARE)
    changed = {"learning_rate": rate, "max_epochs": options.epochs, "metric": metric, "patience": None}
    rates = {name: TrainConfig.model_fields[name].default for name in _SCHEDULED}
    here = {"compile": before.compile and is_accelerated(pick_device(options.device))}
    told = {"tensorboard": False, "track": None}
    return TrainConfig.of({**before.model_dump(), **changed, **rates, **here, **told})


def _selected_by(record: Mapping[str, Any]) -> str | None:
    """The metric that selected a run; of one that was fitted anew, that which chose its epochs, and of one that was
    updated without a validation, that of the run before."""
    selection, earlier = (record.get(name) or {} for name in ("selection", "update"))
    settings = (record.get("training"), selection.get("training"), earlier.get("valid"))
    found = ((each or {}).get("metric") for each in settings)
    return next((metric for metric in found if metric not in (None, "loss", "last")), None)


def _select(batches: Any, n_old: Tensor, idle_mask: Tensor, replay: float, trainer: Trainer) -> int:
    """Keep the samples with a new target, and a share of the others -> their number.

    Args:
        n_old: [n_users], how many of each user's items are old.
        idle_mask: [n_users] bool, the users who are left out.
    """
    users, places = batches.places()
    drawn = numpy_generator(trainer.generators.seed, "replay").random(len(users))
    keep_mask = ((places >= n_old[users]) | (torch.from_numpy(drawn) < replay)) & ~idle_mask[users]
    if not bool(keep_mask.any()):
        raise ValueError("new_log has no sample to train on: no user with a new item has another one before it")
    batches.keep(keep_mask)
    return int(keep_mask.sum())


def _load_optimisers(trainer: Trainer, parent: Model, checkpoint: Path | None) -> str:
    """Go on with the state of the parent's optimisers -> what became of it."""
    newest = None if checkpoint is None else checkpoints.latest(checkpoint)
    if newest is None:
        return "fresh: the run has no checkpoint"
    found = checkpoints.read(newest)  # an earlier one does not belong to the weights
    assert isinstance(parent, TrainableModel)
    groups = {name: one.param_groups[0]["params"] for name, one in make_optimisers(parent, trainer.config).items()}
    kept = grown_optimiser(parent, trainer.model, found.optimisers, groups)
    checkpoints.load_optimisers(trainer.optimisers, kept)
    return "kept"


def _check_better(old: float | None, new: float | None, metric: str, n_cases: int, force: bool) -> None:
    if old is None or new is None or new >= old:
        return
    message = (
        f"{metric} on the newest slice of the new log ({n_cases} users) is {new:.4f} after the update and {old:.4f} "
        "before it"
    )
    if not force:
        raise UpdateRefused(f"{message}; nothing is written. More epochs or replay may help; force=True keeps it")
    _log.warning("%s; kept, as force is set", message)


def _described(parent: Recommender, checkpoint: Path | None) -> dict[str, Any]:
    """What identifies a parent: the digest of its weights and ids, where it lies, what it was made of, and of its own
    parent the digest alone: a record does not grow with the days."""
    state = hashlib.sha256()
    for name, value in sorted(parent.model.state_dict().items()):
        state.update(f"{name}:{list(value.shape)}:".encode())
        state.update(value.detach().to("cpu").contiguous().flatten().view(torch.uint8).numpy().tobytes())
    state.update(parent.users.digest() + parent.items.digest())
    kept: dict[str, Any] = {
        name: parent.record[name] for name in ("seed", "fitted_on", "data") if name in parent.record
    }
    earlier = (parent.record.get("update") or {}).get("parent")
    kept["generation"], kept["parent"] = (earlier["generation"] + 1, earlier["digest"]) if earlier else (0, None)
    folder = None if checkpoint is None else str(checkpoint.parent)
    return {"digest": state.hexdigest(), "folder": folder, **kept}


def _write(made: Recommender, record: RunRecord, trainer: Trainer | None, out: Path) -> None:
    """Make the folder a run; all ranks call it, as a checkpoint has a part of each. The others wait for the first."""

    def finish() -> None:
        made.save(out / "bundle")
        record.write(out)

    first_does(lambda: write_json(record.only(*IDENTIFYING), out / "config.json"))
    if trainer is not None:
        trainer.folder = out
        trainer.save()
    first_does(finish)
