"""Fit a model to a part of a split: which rows it reads, what selects its weights, and the run that it gives."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from recgraph.config import ConfigError
from recgraph.data.item_features import ItemFeatures
from recgraph.data.log import InteractionLog
from recgraph.data.part import Part
from recgraph.data.split import FitPart, SealedSplit, Split
from recgraph.data.strategies import EVERYTHING
from recgraph.evaluate.evaluator import check_selects, validation
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.base import FeatureSpace, Model, Space, TrainableModel
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.models.two_stage import Member, TwoStage
from recgraph.runs.fitting import FitOptions, build, new_record, run_folder, train_model
from recgraph.runs.inner_split import give_plan
from recgraph.runs.pretrained import Scale, initial_items
from recgraph.runs.run import Run
from recgraph.train.config import TrainConfig, own_defaults, pick_device

__all__ = ["check_epochs", "fit_split", "split_and_part", "training_of"]

_log = logging.getLogger(__name__)


def split_and_part(
    data: InteractionLog | Split | SealedSplit, fit_on: FitPart | None
) -> tuple[Split | SealedSplit, FitPart]:
    """The split, and the part of it that a model is fitted on: all of a log, or of a split what is asked for.

    Raises:
        ValueError: a part of a log that is not split.
    """
    if isinstance(data, InteractionLog):
        if fit_on not in (None, "all"):
            raise ValueError(
                f"fit_on = {fit_on!r} is a part of a split, and data is a log that is not split; give "
                "data.split('leave-one-out'), or leave fit_on out to fit on all of the log"
            )
        return Split.of(data, EVERYTHING), "all"
    return data, "all" if data.name == EVERYTHING else fit_on or "train"


def training_of(given: Mapping[str, Any], fit_on: FitPart, model: type[TrainableModel]) -> TrainConfig:
    """The settings of a training, with the model's own defaults.

    Where nothing is held out, every epoch is trained and the last one kept.

    Raises:
        ConfigError: a setting that does not exist or is out of range, or that needs a validation part which is not
            there.
    """
    held_out, given = fit_on == "train", {**own_defaults(model), **given}
    metric = given.get("metric", TrainConfig.model_fields["metric"].default if held_out else "last")
    if metric != "last":
        if not held_out and metric != "loss":
            raise ConfigError(
                f"metric = {metric!r} needs a validation part, and fit_on = {fit_on!r} leaves none: leave metric out "
                "(all of max_epochs are trained), or choose the epoch first with refit=True (--refit)"
            )
        return TrainConfig.of(given)
    if given.get("patience") is not None:
        where = "with metric = 'last'" if held_out else f"with fit_on = {fit_on!r}"
        raise ConfigError(
            f"patience = {given['patience']!r} waits for a better metric, and {where} none is measured: leave patience "
            "out and give max_epochs" + ("" if held_out else ", or choose the epoch first with refit=True (--refit)")
        )
    config = TrainConfig.of(given, metric="last", patience=None)
    if "max_epochs" not in given:
        _log.warning(
            "nothing selects the epoch: all %d epochs, the default of max_epochs, are trained; give max_epochs",
            config.max_epochs,
        )
    return config


def check_epochs(model: Model, config: TrainConfig) -> None:
    """Warn where a model is trained for no more epochs than its stages and warm-ups take."""
    if isinstance(model, TrainableModel) and config.max_epochs <= (changing := model.changing_epochs):
        _log.warning(
            "max_epochs = %d leaves a part of %s untrained: give at least %d",
            *(config.max_epochs, type(model).__name__, changing + 1),
        )


def fit_split(
    model: Model,
    split: Split | SealedSplit,
    options: FitOptions,
    fit_on: FitPart,
    init_items: Any,
    init_items_scale: Scale,
    source: Mapping[str, Any],
) -> Run:
    """Fit a model that is not built to a part of a split, in the folder of ``options``; see :func:`rg.fit`."""
    sealed = split.sealed()
    part, log = sealed.train, sealed.interactions
    read: Split | SealedSplit = sealed
    if fit_on != "train" and split.name != EVERYTHING:
        whole = read = sealed.unseal(f"fit {type(model).__name__} on {fit_on}")
        part = whole.fit_part(fit_on)
        log = whole.interactions if fit_on == "all" else log
    data = {
        **source,
        "split": split.name,
        "split_params": split.params,
        "split_hash": split.hash,
        "n_users": split.n_users,
        "n_items": split.n_items,
    }
    record = new_record(model, options, fit_on, data)
    record.unsealed = list(sealed.unsealed_reasons)
    initialise = None
    if init_items is not None:
        items = initial_items(init_items, sealed, init_items_scale, fit_on)
        record.init_items, initialise = items.record, items.write

    config = options.config

    def validate() -> dict[str, float]:
        return validation(model, sealed.valid, config.metric, seen=config.select_seen, fit_part=part)

    with run_folder(model, options, record) as is_complete:
        if is_complete:
            assert options.folder is not None
            done = Run.open(options.folder, sealed)
            assert isinstance(done, Run)
            done.model.to(pick_device(options.device))
            return done
        validates = isinstance(model, TrainableModel) and config.metric not in ("loss", "last") and fit_on == "train"
        if validates:
            _check_validation(config.metric, sealed)
        build(model, _space(model, sealed, part), options, record, initialise)
        if isinstance(model, TwoStage):
            fit_member = _fit_member(model, sealed, options)
            give_plan(model, read, fit_on, options.seed, partial(_space, model, sealed), fit_member)
        train_model(model, part, options, record, validate if validates else None)
        run = Run(model, sealed, record, options.folder, log)
        run.keep()
        return run


def _fit_member(models: TwoStage, split: SealedSplit, options: FitOptions) -> Callable[[Model, Part, Member], None]:
    """What fits a built model, one of several, to a part of a split on which nothing selects an epoch.

    Raises:
        ConfigError: a setting of a training that there is not, or that needs a validation.
    """
    configs = [_training_of_member(member, options.config) for member in models.members]

    def fit(model: Model, part: Part, member: Member) -> None:
        config = configs[models.members.index(member)]
        own = replace(options, config=config, folder=None, resume=False, observers=())
        data = {"split": split.name, "n_users": split.n_users, "n_items": split.n_items}
        train_model(model, part, own, new_record(model, own, "its part", data))

    return fit


def _training_of_member(member: Member, instead: TrainConfig) -> TrainConfig:
    """The settings by which one of several models is trained; ``instead`` for one that is fitted in one step."""
    if not issubclass(member.cls, TrainableModel):
        return instead
    chosen = {**own_defaults(member.cls), **member.training}
    metric = chosen.get("metric", "last")
    reads_validation = "metric" if metric not in ("last", "loss") else "patience" if metric == "last" else None
    if reads_validation and (value := chosen.get(reads_validation)) is not None:
        raise ConfigError(
            f"models: {member.name}: {reads_validation} = {value!r}: no part validates the epochs of one of several "
            "models; leave it out and give max_epochs"
        )
    try:
        config = training_of(member.training, "all", member.cls)
    except ConfigError as error:
        raise ConfigError(f"models: {member.name}: {error}") from None
    check_epochs(member.make(), config)
    return config


def _check_validation(metric: str, split: SealedSplit) -> None:
    """Refuse a metric that cannot be measured or cannot select, before anything is computed."""
    check_selects(metric)
    if not len(split.valid):
        raise ValueError(
            f"metric = {metric!r} needs users to validate on, and the valid part of split {split.name!r} is empty; use "
            "metric='loss' or another split"
        )


def _space(model: Model, split: SealedSplit, part: Part) -> Space:
    """The sizes; a model that reads a graph also gets that of the part, with all side information.

    A model with item features gets these, as learnt from the items of the part.
    """
    sizes = {"n_users": split.n_users, "n_items": split.n_items}
    if model.wanted_features:
        log, known = split.interactions, part.item_counts() > 0
        features = ItemFeatures.learn(log.item_features, log.columns.item, log.items, known, model.wanted_features)
        return FeatureSpace(**sizes, features=features)
    if not model.reads_graph:
        return Space(**sizes)
    return GraphSpace(**sizes, graph=HeteroGraph.from_interactions(split.interactions, part))
