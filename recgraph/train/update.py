"""The second day of a run: take in a new log, with its new users and items, at a fraction of a
fit's cost.

Trained models go on from their weights: tables grow, the samples are those with new targets and a
share of the old ones, and the newest slice of the new log, which is not trained on, tells whether
the result is better than what there was. Models in closed form are fitted again, exactly, to
everything.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recgraph.data.batches import Query
from recgraph.data.columns import in_unit
from recgraph.data.dataframe import BAR
from recgraph.data.ids import IdMap
from recgraph.data.item_features import ItemFeatures
from recgraph.data.part import Cases, OrderedLog, Part
from recgraph.data.read import LogFile, Reading, with_lists
from recgraph.data.split import Interactions
from recgraph.evaluate.evaluator import validation
from recgraph.evaluate.ranking import Scorer, device_of
from recgraph.files import DataError, write_json
from recgraph.models.base import FeatureSpace, Model, Space, TrainableModel
from recgraph.models.growth import grown, grown_optimiser
from recgraph.ranks import first_does
from recgraph.rng import derive, numpy_generator
from recgraph.serve.recommender import Recommender
from recgraph.serve.request import read_like
from recgraph.sparse.device import is_accelerated
from recgraph.sparse.ragged import Ragged
from recgraph.train import checkpoint as checkpoints
from recgraph.train.config import TrainConfig, pick_device, training_config
from recgraph.train.fitting import FitOptions, new_record, run_folder, train_model
from recgraph.train.observers import Observer
from recgraph.train.phases import make_optimisers
from recgraph.train.record import IDENTIFYING, RunRecord
from recgraph.train.trainer import Trainer

#: the learning rate of an update, as a share of that of a fit; an update of an update has the same
#: rate
_RATE_SHARE = 0.25
#: settings of a training that an update has the defaults of
_NOT_GONE_ON_WITH = {
    "schedule",
    "drop_after",
    "drop_factor",
    "schedule_epochs",
    "warmup_steps",
    "validate_every",
    "tensorboard",
    "track",
}
#: what an update is validated by where nothing has selected the run
_METRIC = "ndcg@10"
#: what the record of an update says of its training, and leaves open of a model in closed form
_OF_TRAINING = ("epochs", "replay", "learning_rate", "samples", "optimiser")
#: the settings of a reading that say how files are written
_WRITTEN = {
    "format",
    "separator",
    "names",
    "encoding",
    "time_format",
    "missing_ids",
    "bad_times",
    "quotes",
}
#: below it every score of a model ends; items that a model does not know rank behind all that it
#: knows
_LOWEST = torch.finfo(torch.float32).min
_log = logging.getLogger(__name__)


class UpdateRefused(ValueError):
    """The updated model is worse than what there was, on the newest slice."""


@dataclass(frozen=True, kw_only=True)
class UpdateOptions:
    """How a run is updated; see :meth:`recgraph.train.run.Run.update`."""

    item_features: Any
    epochs: int
    replay: float
    learning_rate: float | None
    valid: float
    fold_in: bool
    force: bool
    seed: int | None
    device: str | None
    progress: bool | None
    observers: tuple[Observer, ...]


def update(
    parent: Recommender,
    new_log: Any,
    options: UpdateOptions,
    out: Path | None = None,
    checkpoint: Path | None = None,
) -> tuple[Recommender, RunRecord]:
    """A recommender that knows a new log, too, and the record of how it was made; see
    :meth:`Run.update`.

    ``checkpoint`` is the folder of the parent's checkpoints, with the state of its optimisers, or
    None.
    """
    old_model = parent.model
    if old_model.updated_by is None or old_model.reads_graph:
        raise ValueError(
            f"{type(old_model).__name__} cannot be updated; fit it again. recgraph models lists "
            "those that can"
        )
    log = without_known(read_new_log(new_log, parent, options.item_features), parent)
    joined = Joined.of(parent, log, options.valid)
    cases = joined.cases()
    if options.valid and not len(cases):
        raise ValueError(
            f"valid = {options.valid}: nothing else is known of these users; give a larger share"
        )
    config = _training(parent, options).decided(joined.trained)
    seed = int(parent.record.get("seed", 0)) if options.seed is None else options.seed
    fit_options = FitOptions(
        config=config,
        seed=seed,
        device=options.device,
        progress=options.progress,
        observers=options.observers,
    )
    space = _space(parent, joined)
    record = new_record(old_model, fit_options, "update", _data_of(parent, space))

    def validate(model: Any) -> dict[str, float]:
        """The metric that selects, on the slice; nothing where there is no slice."""
        if not len(cases):
            return {}
        seen: Any = config.select_seen
        measured = validation(model, cases, config.metric, seen=seen, fit_part=joined.trained)
        return {config.metric: measured[config.metric]}

    def fit(part: Part, options: FitOptions) -> Model:
        """A model in closed form, anew."""
        model = type(old_model)(old_model.config).build(space, seed)
        train_model(model, part, options, record)
        return model

    with run_folder(old_model, replace(fit_options, folder=out, resume=_was_cut(out)), record):
        before = validate(Before(old_model, space.n_items)).get(config.metric)
        training = None
        details: dict[str, Any] = dict.fromkeys(_OF_TRAINING)
        if isinstance(old_model, TrainableModel):
            training = _Training(old_model, joined, options.replay, checkpoint)
            model: Model = grown(old_model, space, derive(seed, "growth"))
            selects = partial(validate, model)
            train_model(model, joined.trained, fit_options, record, selects, training.prepare)
            after = record.best
            details = {
                "epochs": options.epochs,
                "replay": options.replay,
                "learning_rate": config.learning_rate,
                "samples": training.n_samples,
                "optimiser": training.optimiser,
            }
        else:
            model = fit(joined.trained, fit_options)
            after = validate(model).get(config.metric)
        record.update = {
            "parent": _described(parent, checkpoint),
            "by": old_model.updated_by,
            **details,
            "new_users": space.n_users - len(parent.users),
            "new_items": space.n_items - len(parent.items),
            "new_interactions": joined.new.values.numel(),
            "valid": {
                "metric": _selected_by(parent.record),
                "share": options.valid,
                "users": len(cases),
                "before": before,
                "after": after,
            },
            "fold_in": options.fold_in,
            "forced": options.force,
        }
        if before is not None and after is not None:
            _decide(before, after, config.metric, options.force)
        part = joined.trained
        if options.fold_in and len(cases):
            part = joined.part(torch.ones_like(joined.in_slice))
            if training is None:  # observers see one training
                model = fit(part, replace(fit_options, observers=()))
        recommender = _recommender(model, parent, joined, part, record)
        if out is not None:
            _write(recommender, record, training, out)
    return recommender, record


def _data_of(parent: Recommender, space: Space) -> dict[str, Any]:
    """What the record says of the data; how the log was written is for the next update."""
    data: dict[str, Any] = {"n_users": space.n_users, "n_items": space.n_items}
    written = _written(parent.record, _WRITTEN)
    if written:
        data["settings"] = {"reading": written}
    return data


def _was_cut(out: Path | None) -> bool:
    """Whether an update was killed while it wrote this folder, which is written again."""
    if out is None or (out / "record.json").is_file():
        return False
    return (out / "config.json").is_file()


def _decide(before: float, after: float, metric: str, force: bool) -> None:
    """Refuse a result that is worse than what there was."""
    if after >= before:
        return
    message = (
        f"{metric} on the newest slice of the new log is {after:.4f} after, {before:.4f} before it"
    )
    if not force:
        raise UpdateRefused(
            f"{message}; nothing is written. More epochs or replay may help, or force=True"
        )
    _log.warning("%s; it stays, as force is set", message)


class _Training:
    """How a trained model goes on: on which samples, and from which state of the optimisers."""

    def __init__(
        self, model: TrainableModel, joined: Joined, replay: float, checkpoint: Path | None
    ) -> None:
        self.old_model = model
        self.joined = joined
        self.replay = replay
        self.checkpoint = checkpoint

    def prepare(self, trainer: Trainer) -> None:
        """Select the samples with a new target and a share of the others, and load the optimisers'
        state.
        """
        self.trainer = trainer
        n_old, idle_mask = self._old_samples()
        users, places = trainer.batches.places()  # type: ignore[attr-defined]
        drawn = numpy_generator(trainer.generators.seed, "replay").random(len(users))
        is_replayed = torch.from_numpy(drawn) < self.replay
        keep_mask = ((places >= n_old[users]) | is_replayed) & ~idle_mask[users]
        if not bool(keep_mask.any()):
            raise ValueError(
                "new_log has no sample to train on: no user with a new item has another one before it"
            )
        trainer.batches.keep(keep_mask)  # type: ignore[attr-defined]
        self.n_samples = int(keep_mask.sum())
        trained = trainer.model.trained_users
        if trained is not None:
            trained[idle_mask.to(trained.device)] = False
        self.optimiser = self._load_optimisers(trainer)
        _log.info(
            "update of %s: %d samples; optimiser %s",
            trainer.model.key(),
            self.n_samples,
            self.optimiser,
        )

    def _old_samples(self) -> tuple[Tensor, Tensor]:
        """-> [n_users] int64, how many of each user's items are old; [n_users] bool, the users who
        are left out.

        A user whose vector was never trained is trained on all that is known, or, where nothing is
        new, left out.
        """
        old, trained = self.joined.old.lengths, self.old_model.trained_users
        if trained is None:
            return old, torch.zeros(len(old), dtype=torch.bool)
        trained_mask = torch.zeros(len(old), dtype=torch.bool)
        trained_mask[: len(trained)] = trained.to("cpu")
        has_no_new = self.joined.trained.items.lengths == old
        return torch.where(trained_mask, old, 0), ~trained_mask & has_no_new

    def _load_optimisers(self, trainer: Trainer) -> str:
        """Go on with the state of the old model's optimisers -> what became of it."""
        paths: list[Path] = []
        if self.checkpoint is not None:
            paths = checkpoints.candidates(self.checkpoint)
        if not paths:
            return "fresh: the run has no checkpoint"
        saved = checkpoints.read(paths[0])  # an earlier one does not belong to the weights
        groups = {
            name: optimiser.param_groups[0]["params"]
            for name, optimiser in make_optimisers(self.old_model, trainer.config).items()
        }
        state = grown_optimiser(self.old_model, trainer.model, saved.optimisers, groups)
        checkpoints.load_optimisers(trainer.optimisers, state)
        return "kept"


def _recommender(
    model: Model, parent: Recommender, joined: Joined, part: Part, record: RunRecord
) -> Recommender:
    """The model with all ids, and what its users have seen."""
    return Recommender(
        model.to(device_of(parent.model)),
        joined.users,
        joined.items,
        part.items,
        columns=parent.columns,
        kind=parent.kind,
        item_features=joined.item_features,
        record=record.only(
            "model", "config", "training", "seed", "fitted_on", "data", "update", "provenance"
        ),
        times=part.times,
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
    features = ItemFeatures.encode(
        before.features.schema, joined.item_features, parent.columns.item, joined.items
    )
    return FeatureSpace(**sizes, features=features)


def _training(parent: Recommender, options: UpdateOptions) -> TrainConfig:
    """The settings of the parent's training, with those of an update; compiled only where there is
    an accelerator.
    """
    model = type(parent.model)
    config = training_config(model) if issubclass(model, TrainableModel) else TrainConfig
    # a bundle that was not made by a fit says nothing of a training
    before = config.of(parent.record.get("training"))
    rate = before.learning_rate
    if not parent.record.get("update"):
        rate *= _RATE_SHARE
    settings = before.model_dump(exclude=_NOT_GONE_ON_WITH)
    settings["learning_rate"] = options.learning_rate or rate
    settings["max_epochs"] = options.epochs
    settings["metric"] = _selected_by(parent.record) if options.valid else "last"
    settings["patience"] = None
    if not is_accelerated(pick_device(options.device)):
        settings["compile"] = False
    return TrainConfig.of(settings)


def _selected_by(record: Mapping[str, Any]) -> str:
    """The metric that selected a run; of one that was fitted anew, that which chose its epochs, and
    of one that was updated without a validation, that of the run before."""
    training = record.get("training", {})
    selection = record.get("selection", {}).get("training", {})
    earlier = record.get("update", {}).get("valid", {})
    for settings in (training, selection, earlier):
        metric: str = settings.get("metric", "last")
        if metric not in ("loss", "last"):
            return metric
    return _METRIC


def _described(parent: Recommender, checkpoint: Path | None) -> dict[str, Any]:
    """What identifies a parent: the digest of its weights and ids, where it lies, what it was made
    of, and of its own parent the digest alone: a record does not grow with the days."""
    state = hashlib.sha256()
    for name, value in sorted(parent.model.state_dict().items()):
        content = value.detach().to("cpu").contiguous().flatten().view(torch.uint8)
        state.update(f"{name}:{list(value.shape)}:".encode())
        state.update(content.numpy().tobytes())
    state.update(parent.users.digest() + parent.items.digest())
    record = parent.record
    described = {
        "digest": state.hexdigest(),
        "folder": None if checkpoint is None else str(checkpoint.parent),
        "seed": record.get("seed"),
        "fitted_on": record.get("fitted_on"),
        "data": record.get("data"),
        "generation": 0,
        "parent": None,
    }
    if "update" in record:
        earlier = record["update"]["parent"]
        described |= {"generation": earlier["generation"] + 1, "parent": earlier["digest"]}
    return described


def _write(
    recommender: Recommender, record: RunRecord, training: _Training | None, out: Path
) -> None:
    """Make the folder a run; all ranks call it, as a checkpoint has a part of each. The others wait
    for the first.
    """

    def finish() -> None:
        recommender.save(out / "bundle")
        record.write(out)

    first_does(lambda: write_json(record.only(*IDENTIFYING), out / "config.json"))
    if training is not None:
        training.trainer.folder = out
        training.trainer.save()
    first_does(finish)


# -- the new log beside what the run knows


@dataclass(frozen=True)
class Joined:
    """What a run knows and a new log, in one set of indices: those of the run, new ones behind
    them.

    Attributes:
        users, items: index <-> id.
        old, new: a row for each user: what was known, and the new interactions, oldest first.
        in_slice: [T] bool, aligned with ``new.values``: the newest slice, which an update is not
            trained on.
        item_features: of both, or None; of an item that both have the new values, where the new log
            has the column.
        old_times, new_times: the times of ``old`` and ``new``, row by row, for a model that reads
            times; else None.
    """

    users: IdMap
    items: IdMap
    old: Ragged
    new: Ragged
    in_slice: Tensor
    item_features: pl.DataFrame | None
    old_times: Ragged | None = None
    new_times: Ragged | None = None

    @classmethod
    def of(cls, recommender: Recommender, log: Interactions, share: float) -> Joined:
        """Match a new log, whose interactions follow those that are known, with what a recommender
        knows; ``share`` is that of the newest slice."""
        users = recommender.users.extended(log.users.values)
        items = recommender.items.extended(log.items.values)
        of_user = torch.from_numpy(users.index(log.users.values))
        of_item = torch.from_numpy(items.index(log.items.values))
        ordered = log.ordered
        mask = newest(ordered, share) if share else torch.zeros(len(log), dtype=torch.bool)
        rows, values = of_user[ordered.items.rows], of_item[ordered.items.values]
        order = torch.argsort(rows, stable=True)
        new = Ragged.from_lengths(values[order], torch.bincount(rows, minlength=len(users)))
        old_times = new_times = None
        if recommender.times is not None:
            times = _times_like(log, recommender)
            if times is None:
                raise ValueError(
                    "new_log: the model reads times, and was trained with those in "
                    f"{recommender.time_unit!r}"
                )
            old_times = _with_rows(recommender.times, len(users))
            new_times = new.with_values(times[order])
        return cls(
            users=users,
            items=items,
            old=_with_rows(recommender.seen, len(users)),
            new=new,
            in_slice=mask[order],
            item_features=_merged(
                recommender.item_features,
                log.item_features,
                recommender.columns.item,
                log.columns.item,
            ),
            old_times=old_times,
            new_times=new_times,
        )

    @cached_property
    def trained(self) -> Part:
        """All that an update may be trained on."""
        return self.part(~self.in_slice)

    def part(self, mask: Tensor) -> Part:
        """All that was known, with the new interactions of a mask [T]."""
        times = None
        if self.old_times is not None:
            assert self.new_times is not None
            times = after(self.old_times, self.new_times.filter(mask)).values
        return Part(after(self.old, self.new.filter(mask)), len(self.items), times=times)

    def cases(self) -> Cases:
        """The users of the slice of whom something is known before it, with what they did in it."""
        truth, history = self.new.filter(self.in_slice), self.trained.items
        users = ((truth.lengths > 0) & (history.lengths > 0)).nonzero().flatten()
        cases = Cases(users, history.take(users), truth.take(users), len(self.items))
        if self.new_times is None:
            return cases
        assert self.trained.times is not None
        times = history.with_values(self.trained.times).take(users)
        at = self.new_times.values[self.in_slice][truth.offsets[users]]
        return replace(cases, times=times, at=at)


def _times_like(log: Interactions, recommender: Recommender) -> Tensor | None:
    """[T]: the times of a log in the unit of a recommender's; None where they cannot be."""
    times = log.ordered.times
    return None if times is None else in_unit(times, log.time_unit, recommender.time_unit)


def without_known(log: Interactions, recommender: Recommender) -> Interactions:
    """The new log without what the run knows with the same time; without times to compare, all of
    it.
    """
    ordered, seen = log.ordered.items, recommender.seen
    new = pl.DataFrame(
        {
            "user": recommender.users.index(log.users.values)[ordered.rows.numpy()],
            "item": recommender.items.index(log.items.values)[ordered.values.numpy()],
        }
    )
    known = pl.DataFrame({"user": seen.rows.numpy(), "item": seen.values.numpy()})
    times = _times_like(log, recommender)
    if recommender.times is not None and times is not None:
        new = new.with_columns(time=times.numpy())
        known = known.with_columns(time=recommender.times.values.numpy())
    again = new.with_row_index().join(known, on=new.columns, how="semi")["index"].to_numpy()
    if "time" in new.columns:
        return log.masked(~np.isin(np.arange(len(log)), again))
    if 2 * len(again) > len(log):
        _log.warning(
            "new_log: users have the items of most of its interactions: was it taken in before?"
        )
    return log


def newest(log: OrderedLog, share: float) -> Tensor:
    """[T] bool: the newest interactions.

    With times, the newest ``share`` of the whole log (of equal times those that stand later in it).
    Without times only each user's own order is known: each user's newest. At least one is chosen,
    of the log or of each user.
    """
    if log.times is None:
        counts = (log.items.lengths * share).round().long().clamp(min=1)
        mask: Tensor = log.items.positions >= (log.items.lengths - counts)[log.items.rows]
        return mask
    count = max(1, round(share * log.n_interactions))
    order = np.lexsort((log.rows.numpy(), log.times.numpy()))
    mask = torch.zeros(log.n_interactions, dtype=torch.bool)
    mask[torch.from_numpy(order[-count:])] = True
    return mask


def after(old: Ragged, new: Ragged) -> Ragged:
    """For each row what stands in the first, then what stands in the second; both have the same
    number of rows.
    """
    order = torch.argsort(torch.cat([old.rows, new.rows]), stable=True)
    return Ragged.from_lengths(
        torch.cat([old.values, new.values])[order], old.lengths + new.lengths
    )


def _with_rows(rows: Ragged, n_rows: int) -> Ragged:
    """With empty rows at the end."""
    more = rows.offsets[-1:].expand(n_rows - rows.n_rows)
    return Ragged(rows.values, torch.cat([rows.offsets, more]))


def _merged(
    old: pl.DataFrame | None, new: pl.DataFrame | None, key: str, new_key: str
) -> pl.DataFrame | None:
    """The features of both logs by id, with the types of the old one's columns: of an item that
    both have the new values, where the new log has the column."""
    if new is None:
        return old
    new = new.rename({new_key: key})
    if old is None:
        return new
    absent = old.drop(new.columns, strict=False).columns
    if absent:
        _log.warning(
            "item_features of the new log have no column %s: new items have none", ", ".join(absent)
        )
    new = new.cast(old.drop(absent).schema)
    new = new.join(old.select(key, *absent), on=key, how="left", maintain_order="left")
    return pl.concat([old, new], how="diagonal").unique(key, keep="last", maintain_order=True)


class Before(Scorer):
    """The parent among the items of both logs: those that it does not know come last, its users'
    histories without.
    """

    def __init__(self, model: Model, n_items: int) -> None:
        self.reads_times = model.reads_times
        self.model = model
        self.n_items = n_items
        self.known = model.space

    def score(self, query: Query) -> Tensor:
        users = torch.where(query.users < self.known.n_users, query.users, -1)
        known_mask = query.history.values < self.known.n_items
        times = None if query.times is None else query.times.filter(known_mask)
        known = replace(query, users=users, history=query.history.filter(known_mask), times=times)
        scores = self.model.score(known.to(device_of(self.model))).to(query.users.device)
        return torch.nn.functional.pad(scores, (0, self.n_items - scores.shape[1]), value=_LOWEST)


# -- reading a new log


def read_new_log(new_log: Any, recommender: Recommender, item_features: Any = None) -> Interactions:
    """New interactions as a log, with features of its items.

    ``new_log`` is a log; a frame with columns that are named like the run's or ``user``, ``item``
    and ``timestamp``; or files (``.txt``: lines of ``user item item ...``), whose columns are named
    like the run's or are guessed. Without a time, rows are in order. Texts in a file of features
    become lists where those of the run's file did.
    """
    if isinstance(new_log, str | Path):
        log = _read_file(Path(new_log), recommender)
    elif isinstance(new_log, Interactions):
        log = new_log
    else:
        log = read_like(new_log, recommender.columns, recommender.time_format)
    if isinstance(item_features, str | Path):
        item_features = _read_item_features(str(item_features), log, recommender)
    return log.with_features(item_features=item_features)


def _read_item_features(path: str, log: Interactions, recommender: Recommender) -> pl.DataFrame:
    written = _written(recommender.record, {"encoding", "quotes", "lists"})
    file = LogFile("", Reading.of(written, item_features=path))
    features = log.with_features(**file.features(log.columns)).item_features
    assert features is not None
    lists: list[str] = []
    if recommender.item_features is not None:
        lists = recommender.item_features.select(pl.col(pl.List)).columns
    texts = features.select(pl.col(pl.String)).columns
    return with_lists(features, dict.fromkeys({*texts}.intersection(lists), BAR))


def _written(record: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    """How the log of a run was written, by its record, where not by default: a new log may be
    written like it.
    """
    reading = Reading.of(record.get("data", {}).get("settings", {}).get("reading"))
    return reading.model_dump(mode="json", include=names, exclude_defaults=True)


def _read_file(path: Path, recommender: Recommender) -> Interactions:
    """By the run's column names where the file has them, else they are guessed; written as such
    files are, else as that of the run was. Ids are texts where the run's are: a text file has no
    types of its own."""
    columns = recommender.columns
    form = None
    own_names = {"user": columns.user, "item": columns.item, "timestamp": columns.timestamp}
    names: list[dict[str, Any]] = [own_names, {**own_names, "timestamp": None}, {}]
    if path.suffix == ".txt":
        form = "sequences"
        names = [{}, own_names]
    like = {"time_format": recommender.time_format, **_written(recommender.record, _WRITTEN)}
    errors: list[DataError] = []
    for written, named in product(({"format": form}, like), names):
        try:
            log = Interactions.from_files(LogFile(str(path), Reading.of({**written, **named})))
        except DataError as error:
            errors.append(error)
            continue
        users = _typed_like(log.users, recommender.users)
        items = _typed_like(log.items, recommender.items)
        return Interactions(log.log, users, items, log.columns, log.time_unit, log.kind)
    raise errors[0]


def _typed_like(new: IdMap, known: IdMap) -> IdMap:
    return IdMap(new.values.cast(pl.String)) if known.values.dtype == pl.String else new
