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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recgraph import registry
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
_SCHEDULED = (
    "schedule",
    "drop_after",
    "drop_factor",
    "schedule_epochs",
    "warmup_steps",
    "validate_every",
)
#: what an update is validated by where nothing has selected the run
_METRIC = "ndcg@10"
#: the settings of a reading that say how files are written
_WRITTEN = (
    "format",
    "separator",
    "names",
    "encoding",
    "time_format",
    "missing_ids",
    "bad_times",
    "quotes",
)
#: below it every score of a model ends; items that a model does not know rank behind all that it
#: knows
_LOWEST = torch.finfo(torch.float32).min
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
        models = [registry.load("model", name) for name in registry.names("model")]
        able = [each.key() for each in models if each.updated_by and not each.reads_graph]
        raise ValueError(
            f"{type(old_model).__name__} cannot be updated; fit it again. Those that can: {', '.join(able)}"
        )
    log = without_known(read_new_log(new_log, parent, options.item_features), parent)
    joined = Joined.of(parent, log, options.valid)
    cases = joined.cases() if options.valid else None
    if cases is not None and not len(cases):
        raise ValueError(
            f"valid = {options.valid}: nothing else is known of these users; give a larger share"
        )
    config = _training(parent, options).decided(joined.trained)
    seed = options.seed if options.seed is not None else int(parent.record.get("seed") or 0)
    fit_options = FitOptions(
        config, seed, device=options.device, progress=options.progress, observers=options.observers
    )
    space = _space(parent, joined)
    data: dict[str, Any] = {"n_users": space.n_users, "n_items": space.n_items}
    data |= (
        {"settings": {"reading": written}} if (written := _written(parent.record)) else {}
    )  # for the next update
    record = new_record(old_model, fit_options, "update", data)

    def measure(model: Any) -> float | None:
        if cases is None:
            return None
        seen: Any = config.select_seen
        measured = validation(model, cases, config.metric, seen=seen, fit_part=joined.trained)
        return measured[config.metric]

    def fit_again(part: Part, options: FitOptions) -> Model:
        model = type(old_model)(old_model.config).build(space, seed)
        train_model(model, part, options, record)
        return model

    # a folder that an update was killed in while it wrote is written again
    was_cut = (
        out is not None and (out / "config.json").is_file() and not (out / "record.json").is_file()
    )
    with run_folder(old_model, FitOptions(config, seed, folder=out, resume=was_cut), record):
        before, training = measure(Before(old_model, len(joined.items))), None
        if isinstance(old_model, TrainableModel):
            model: Model = grown(old_model, space, derive(seed, "growth"))
            training = _Training(old_model, joined, options.replay, checkpoint)
            validate = None if cases is None else lambda: {config.metric: measure(model)}
            train_model(model, joined.trained, fit_options, record, validate, training.prepare)  # type: ignore[arg-type]
            after = record.best if cases is not None else None
        else:
            model = fit_again(joined.trained, fit_options)
            after = measure(model)
        record.update = {
            "parent": _described(parent, checkpoint),
            "by": old_model.updated_by,
            "epochs": options.epochs if training else None,
            "replay": options.replay if training else None,
            "learning_rate": config.learning_rate if training else None,
            "samples": training.n_samples if training else None,
            "optimiser": training.optimiser if training else None,
            "new_users": space.n_users - len(parent.users),
            "new_items": space.n_items - len(parent.items),
            "new_interactions": joined.new.values.numel(),
            "valid": {
                "metric": _selected_by(parent.record),
                "share": options.valid,
                "users": 0 if cases is None else len(cases),
                "before": before,
                "after": after,
            },
            "fold_in": options.fold_in,
            "forced": options.force,
        }
        if before is not None and after is not None and after < before:
            message = f"{config.metric} on the newest slice of the new log is {after:.4f} after, {before:.4f} before it"
            if not options.force:
                raise UpdateRefused(
                    f"{message}; nothing is written. More epochs or replay may help, or force=True"
                )
            _log.warning("%s; it stays, as force is set", message)
        everything = joined.part(torch.ones_like(joined.in_slice))
        if training is None and options.fold_in and cases is not None:
            model = fit_again(
                everything, replace(fit_options, observers=())
            )  # observers see one training
        made = _recommender(
            model, parent, joined, everything if options.fold_in else joined.trained, record
        )
        if out is not None:
            _write(made, record, training, out)
    return made, record


class _Training:
    """How a trained model goes on: on which samples, and from which state of the optimisers."""

    def __init__(
        self, model: TrainableModel, joined: Joined, replay: float, checkpoint: Path | None
    ) -> None:
        self.old_model, self.joined, self.replay, self.checkpoint = (
            model,
            joined,
            replay,
            checkpoint,
        )

    def prepare(self, trainer: Trainer) -> None:
        """Select the samples with a new target and a share of the others, and load the optimisers'
        state.
        """
        self.trainer = trainer
        n_old, idle_mask = self._old_samples()
        users, places = trainer.batches.places()  # type: ignore[attr-defined]
        drawn = numpy_generator(trainer.generators.seed, "replay").random(len(users))
        keep_mask = (
            (places >= n_old[users]) | (torch.from_numpy(drawn) < self.replay)
        ) & ~idle_mask[users]
        if not bool(keep_mask.any()):
            raise ValueError(
                "new_log has no sample to train on: no user with a new item has another one before it"
            )
        trainer.batches.keep(keep_mask)  # type: ignore[attr-defined]
        self.n_samples = int(keep_mask.sum())
        if (trained := trainer.model.trained_users) is not None:
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
        return torch.where(trained_mask, old, 0), ~trained_mask & (
            self.joined.trained.items.lengths == old
        )

    def _load_optimisers(self, trainer: Trainer) -> str:
        """Go on with the state of the old model's optimisers -> what became of it."""
        newest = (
            next(iter(checkpoints.candidates(self.checkpoint)), None) if self.checkpoint else None
        )
        if newest is None:
            return "fresh: the run has no checkpoint"
        found = checkpoints.read(newest)  # an earlier one does not belong to the weights
        own = make_optimisers(self.old_model, trainer.config)
        groups = {name: one.param_groups[0]["params"] for name, one in own.items()}
        state = grown_optimiser(self.old_model, trainer.model, found.optimisers, groups)
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
    schema, key = before.features.schema, parent.columns.item
    return FeatureSpace(
        **sizes, features=ItemFeatures.encode(schema, joined.item_features, key, joined.items)
    )


def _training(parent: Recommender, options: UpdateOptions) -> TrainConfig:
    """The settings of the parent's training, with those of an update; compiled only where there is
    an accelerator.
    """
    model = type(parent.model)
    # a bundle that was not made by a fit says nothing of a training
    config = training_config(model) if issubclass(model, TrainableModel) else TrainConfig
    before = config.of(parent.record.get("training") or {})
    metric = _selected_by(parent.record) if options.valid else "last"
    rate = options.learning_rate or before.learning_rate * (
        1.0 if parent.record.get("update") else _RATE_SHARE
    )
    changed = {
        "learning_rate": rate,
        "max_epochs": options.epochs,
        "metric": metric,
        "patience": None,
    }
    defaults = {name: TrainConfig.model_fields[name].default for name in _SCHEDULED}
    here = {"compile": before.compile and is_accelerated(pick_device(options.device))}
    return TrainConfig.of(
        {**before.model_dump(), **changed, **defaults, **here, "tensorboard": False, "track": None}
    )


def _selected_by(record: Mapping[str, Any]) -> str:
    """The metric that selected a run; of one that was fitted anew, that which chose its epochs, and
    of one that was updated without a validation, that of the run before."""
    selection, earlier = (record.get(name) or {} for name in ("selection", "update"))
    settings = (record.get("training"), selection.get("training"), earlier.get("valid"))
    found = ((each or {}).get("metric") for each in settings)
    return next((str(metric) for metric in found if metric not in (None, "loss", "last")), _METRIC)


def _described(parent: Recommender, checkpoint: Path | None) -> dict[str, Any]:
    """What identifies a parent: the digest of its weights and ids, where it lies, what it was made
    of, and of its own parent the digest alone: a record does not grow with the days."""
    state = hashlib.sha256()
    for name, value in sorted(parent.model.state_dict().items()):
        state.update(f"{name}:{list(value.shape)}:".encode())
        state.update(
            value.detach().to("cpu").contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    state.update(parent.users.digest() + parent.items.digest())
    found: dict[str, Any] = {
        name: parent.record[name] for name in ("seed", "fitted_on", "data") if name in parent.record
    }
    earlier = (parent.record.get("update") or {}).get("parent")
    found["generation"], found["parent"] = (
        (earlier["generation"] + 1, earlier["digest"]) if earlier else (0, None)
    )
    folder = None if checkpoint is None else str(checkpoint.parent)
    return {"digest": state.hexdigest(), "folder": folder, **found}


def _write(made: Recommender, record: RunRecord, training: _Training | None, out: Path) -> None:
    """Make the folder a run; all ranks call it, as a checkpoint has a part of each. The others wait
    for the first.
    """

    def finish() -> None:
        made.save(out / "bundle")
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
        users, items = (
            recommender.users.extended(log.users.values),
            recommender.items.extended(log.items.values),
        )
        of_user = torch.from_numpy(users.index(log.users.values))
        of_item = torch.from_numpy(items.index(log.items.values))
        ordered = log.ordered
        mask = newest(ordered, share) if share else torch.zeros(len(log), dtype=torch.bool)
        old = _with_rows(recommender.seen, len(users))
        rows, values = of_user[ordered.items.rows], of_item[ordered.items.values]
        order = torch.argsort(rows, stable=True)
        new = Ragged.from_lengths(values[order], torch.bincount(rows, minlength=len(users)))
        features = _merged(
            recommender.item_features, log.item_features, recommender.columns.item, log.columns.item
        )
        old_times = new_times = None
        if recommender.times is not None:
            unit, times = recommender.time_unit, ordered.times
            if times is None or (times := in_unit(times, log.time_unit, unit)) is None:
                raise ValueError(
                    f"new_log: the model reads times, and was trained with those in {unit!r}"
                )
            old_times, new_times = (
                _with_rows(recommender.times, len(users)),
                new.with_values(times[order]),
            )
        return cls(users, items, old, new, mask[order], features, old_times, new_times)

    @cached_property
    def trained(self) -> Part:
        """All that an update may be trained on."""
        return self.part(~self.in_slice)

    def part(self, mask: Tensor) -> Part:
        """All that was known, with the new interactions of a mask [T]."""
        times = None
        if self.old_times is not None and self.new_times is not None:
            times = after(self.old_times, self.new_times.filter(mask)).values
        return Part(after(self.old, self.new.filter(mask)), len(self.items), times=times)

    def cases(self) -> Cases:
        """The users of the slice of whom something is known before it, with what they did in it."""
        truth, history, times = (
            self.new.filter(self.in_slice),
            self.trained.items,
            self.trained.times,
        )
        users = ((truth.lengths > 0) & (history.lengths > 0)).nonzero().flatten()
        when = None if times is None else history.with_values(times).take(users)
        at = (
            None
            if self.new_times is None
            else self.new_times.values[self.in_slice][truth.offsets[users]]
        )
        return Cases(
            users, history.take(users), truth.take(users), len(self.items), times=when, at=at
        )


def without_known(log: Interactions, recommender: Recommender) -> Interactions:
    """The new log without what the run knows with the same time; without times to compare, all of
    it.
    """
    ordered, old = log.ordered, recommender.times
    times = (
        None
        if ordered.times is None
        else in_unit(ordered.times, log.time_unit, recommender.time_unit)
    )
    rows = recommender.users.index(log.users.values)[ordered.items.rows.numpy()]
    items = recommender.items.index(log.items.values)[ordered.items.values.numpy()]
    new, known = (
        {"user": rows, "item": items},
        {"user": recommender.seen.rows, "item": recommender.seen.values},
    )
    if tells := old is not None and times is not None:
        new["time"], known["time"] = times.numpy(), old.values
    ours, theirs = (
        pl.DataFrame({name: np.asarray(each) for name, each in one.items()}) for one in (known, new)
    )
    again = theirs.with_row_index().join(ours, on=[*new], how="semi")["index"].to_numpy()
    if not tells and 2 * len(again) > len(log):
        _log.warning(
            "new_log: users have the items of most of its interactions: was it taken in before?"
        )
    return log.masked(~np.isin(np.arange(len(log)), again)) if tells else log


def newest(log: OrderedLog, share: float) -> Tensor:
    """[T] bool: the newest interactions.

    With times, the newest ``share`` of the whole log (of equal times those that stand later in it).
    Without times only each user's own order is known: each user's newest. At least one is chosen,
    of the log or of each user.
    """
    if log.times is None:
        wanted = (log.items.lengths * share).round().long().clamp(min=1)
        chosen: Tensor = log.items.positions >= (log.items.lengths - wanted)[log.items.rows]
        return chosen
    order = np.lexsort((log.rows.numpy(), log.times.numpy()))
    chosen = torch.zeros(log.n_interactions, dtype=torch.bool)
    chosen[torch.from_numpy(order[-max(1, round(share * log.n_interactions)) :])] = True
    return chosen


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
    if new is not None and new_key != key:
        new = new.rename({new_key: key})
    if old is None or new is None:
        return old if new is None else new
    absent = [name for name in old.columns if name not in new.columns]
    if absent:
        _log.warning(
            "item_features of the new log have no column %s: new items have none", ", ".join(absent)
        )
    new = new.cast({name: dtype for name, dtype in old.schema.items() if name in new.columns})
    new = new.join(old.select(key, *absent), on=key, how="left", maintain_order="left")
    return pl.concat([old, new], how="diagonal").unique(key, keep="last", maintain_order=True)


class Before(Scorer):
    """The parent among the items of both logs: those that it does not know come last, its users'
    histories without.
    """

    def __init__(self, model: Model, n_items: int) -> None:
        self.reads_times = model.reads_times
        self.model, self.n_items, self.known = model, n_items, model.space

    def score(self, query: Query) -> Tensor:
        users = torch.where(query.users < self.known.n_users, query.users, -1)
        known_mask = query.history.values < self.known.n_items
        times = None if query.times is None else query.times.filter(known_mask)
        asked = replace(query, users=users, history=query.history.filter(known_mask), times=times)
        scores = self.model.score(asked.to(device_of(self.model))).to(query.users.device)
        return torch.nn.functional.pad(scores, (0, self.n_items - scores.shape[1]), value=_LOWEST)


# -- reading a new log


def read_new_log(given: Any, recommender: Recommender, item_features: Any = None) -> Interactions:
    """New interactions as a log, with features of its items.

    ``given`` is a log; a frame with columns that are named like the run's or ``user``, ``item`` and
    ``timestamp``; or files (``.txt``: lines of ``user item item ...``), whose columns are named
    like the run's or are guessed. Without a time, rows are in order. Texts in a file of features
    become lists where those of the run's file did.
    """
    if isinstance(given, Interactions):
        log = given
    elif isinstance(given, str | Path):
        log = _read_file(Path(given), recommender)
    else:
        log = read_like(given, recommender.columns, recommender.time_format)
    if isinstance(item_features, str | Path):
        like = _written(recommender.record, ("encoding", "quotes", "lists"))
        file = LogFile("", Reading.of(like, item_features=str(item_features)))
        item_features = log.with_features(**file.features(log.columns)).item_features
        old = {} if recommender.item_features is None else recommender.item_features.schema
        texts = [name for name, dtype in item_features.schema.items() if dtype == pl.String]
        item_features = with_lists(
            item_features, {name: BAR for name in texts if isinstance(old.get(name), pl.List)}
        )
    return log.with_features(item_features=item_features)


def _written(record: Mapping[str, Any], names: Sequence[str] = _WRITTEN) -> dict[str, Any]:
    """How the log of a run was written, by its record, where not by default: a new log may be
    written like it.
    """
    given = ((record.get("data") or {}).get("settings") or {}).get("reading") or {}
    return {name: given[name] for name in names if name in given}


def _read_file(path: Path, recommender: Recommender) -> Interactions:
    """By the run's column names where the file has them, else they are guessed; written as such
    files are, else as that of the run was. Ids are texts where the run's are: a text file has no
    types of its own."""
    columns = recommender.columns
    form = "sequences" if path.suffix == ".txt" else None
    own = {"user": columns.user, "item": columns.item, "timestamp": columns.timestamp}
    like = {"time_format": recommender.time_format, **_written(recommender.record)}
    errors: list[DataError] = []
    for written in ({"format": form}, like):
        for names in ({}, own) if form else (own, {**own, "timestamp": None}, {}):
            try:
                log = Interactions.from_files(LogFile(str(path), Reading.of({**written, **names})))
            except DataError as error:
                errors.append(error)
                continue
            pairs = ((log.users, recommender.users), (log.items, recommender.items))
            users, items = (
                IdMap(new.values.cast(pl.String)) if known.values.dtype == pl.String else new
                for new, known in pairs
            )
            return Interactions(log.log, users, items, log.columns, log.time_unit, log.kind)
    raise errors[0]
