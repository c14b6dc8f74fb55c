"""Fit a model to a log, a split, a typed graph or a data set of the catalogue, and get a run."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator

from recgraph import registry
from recgraph.config import Config, checked
from recgraph.data.catalog import get, load_graph
from recgraph.data.catalog.cards import GraphCard, find_card
from recgraph.data.item_features import ItemFeatures
from recgraph.data.part import Cases, Part
from recgraph.data.read import is_data_path
from recgraph.data.split import Interactions, SealedSplit, Split, without_test_data
from recgraph.data.strategies import (
    EVERYTHING,
    FITTED_ON,
    FitPart,
    Given,
    Label,
    Ratio,
    Shares,
    Strategy,
)
from recgraph.evaluate.evaluator import check_selects, validation
from recgraph.files import contents
from recgraph.graph.hetero import HeteroGraph, as_graph
from recgraph.models.base import FeatureSpace, Model, Space, TrainableModel
from recgraph.models.heterogeneous.base import GraphModel, GraphSpace, NodeModel
from recgraph.models.two_stage import Member, Plan, TwoStage, last_held_out
from recgraph.ranks import Ranks, of_all, refuse_launched, together
from recgraph.rng import derive
from recgraph.serve.bundle import Embedder
from recgraph.train.config import (
    FALLING,
    GraphTrainConfig,
    TrainConfig,
    pick_device,
    refuse_training,
    share_out,
    training_config,
)
from recgraph.train.fitting import (
    FitOptions,
    Scale,
    build,
    folder_of,
    new_record,
    run_folder,
    train_model,
)
from recgraph.train.observers import Observer
from recgraph.train.pretrained import InitItemsConfig, initial_items
from recgraph.train.record import SELECTION
from recgraph.train.run import NodeRun, Run
from recgraph.train.settings import DataConfig, ProbeSettings, check_task, source_of

#: entries of the selection's record that the record of a refit has, too
_OF_SELECTION = ("training", "best_epoch", "best", "history", "cost")
_log = logging.getLogger(__name__)


@checked
def fit(
    model: Model | str,
    data: Interactions | Split | SealedSplit | HeteroGraph,
    *,
    seed: int,
    out: str | Path | None = None,
    device: str | None = None,
    resume: bool = False,
    progress: bool | None = None,
    fit_on: FitPart | None = None,
    refit: bool = False,
    observers: tuple[Observer, ...] = (),
    init_items: Any = None,
    init_items_scale: Scale = "initial",
    source: Mapping[str, Any] | None = None,
    **training: Any,
) -> Run:
    """Fit a model to a log, to serve; or to the training part of a split, selected on its
    validation part.

    A model that is fitted to a log, or with ``fit_on="all"``, knows each user's newest item.
    Nothing is held out to select an epoch on, so that all of ``max_epochs`` are trained, and the
    run is not evaluated.

    Args:
        model: with its settings, not built; or a name of the registry.
        data: a log, all of which is read; or a split, whose test part is sealed before anything is
            read.
        seed: of everything random in the run.
        out: folder of the run (log, checkpoints, bundle, record). None keeps all in memory, without
            checkpoints; only ``tensorboard=True`` writes then, into a folder of its own in
            ``runs/tensorboard``.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; None: a GPU with CUDA where there is one, else
            the CPU (see :func:`recgraph.train.config.pick_device`).
        resume: continue from the newest checkpoint in ``out``; a finished run is returned as it is.
        progress: a bar on a terminal and in a notebook, elsewhere lines, how many epochs there may
            be first. None: no lines where log records (logger ``recgraph``, INFO) tell the same;
            False: nothing.
        fit_on: what of a split is read: ``"train"``, the default; ``"train+valid"`` for a last fit
            before the test; ``"all"`` to serve. The last two have no validation: the last epoch is
            kept, or with ``metric="loss"`` the one of the lowest loss. Of a log it is all.
        refit: choose the number of epochs on the validation part first, then fit anew to all (or,
            with ``fit_on``, to train+valid) for so many epochs; :attr:`Run.selection` is the first
            of the two runs, which is evaluated.
        observers: called during the training; with ``refit``, during the one that chooses.
        init_items: where the vectors of items begin: a run, a recommender or an embedder, the
            folder of one, a frame of ids and vectors, or a mapping id -> vector, all matched by id;
            see :class:`recgraph.train.pretrained.InitItems`.
        init_items_scale: ``"initial"`` gives them the random vectors' standard deviation;
            ``"given"``: as they are.
        source: where the split is from, so that the run can be opened without it: ``dataset``, the
            name of a data card, and ``settings`` of :class:`recgraph.train.settings.DataConfig`. A
            log that was read from a file knows its own. Fingerprints of the features are added.
        training: settings of :class:`recgraph.train.config.TrainConfig`, for models that are
            trained.

    Raises:
        ConfigError: a setting that does not exist or is out of range.
        ValueError: the model is built already, or embeds a graph (:func:`fit_graph`); ``out`` holds
            another run, or one and ``resume`` is False; another process trains into it;
            ``init_items`` does not fit; the metric needs a validation that there is not.
    """
    if isinstance(model, str):
        model = registry.load("model", model)()
    assert isinstance(model, Model)
    if model.is_built:
        raise ValueError(f"model {type(model).__name__} is built already; give a new one")
    if isinstance(model, NodeModel) or isinstance(data, HeteroGraph):
        raise ValueError(
            f"model {type(model).__name__}: typed graphs are fitted to by rg.fit_graph(model, graph)"
        )
    split, part = _split_and_part(data, fit_on, refit)
    with together():
        options = FitOptions(
            config=_training_of(training, type(model), selects=refit or part == "train"),
            seed=seed,
            folder=folder_of(out),
            device=device,
            resume=resume,
            progress=progress,
            observers=observers,
            source=source_of(split, source),
            init_items=init_items,
            init_items_scale=init_items_scale,
        )
        if refit and isinstance(model, TrainableModel):
            return _refit(model, split, options, part)
        return _fit_split(model, split, options, part)  # in closed form there is no epoch to choose


@checked
def fit_graph(
    model: NodeModel | str,
    graph: Annotated[HeteroGraph, BeforeValidator(as_graph)],
    *,
    seed: int,
    out: str | Path | None = None,
    device: str | None = None,
    resume: bool = False,
    progress: bool | None = None,
    observers: tuple[Observer, ...] = (),
    **training: Any,
) -> NodeRun:
    """Fit a model of a typed graph, without classes of its nodes; by default the weights of lowest
    loss are kept.

    Args:
        model: with its settings, among them ``metapaths``; not built. Or a name of the registry.
        graph: all that is read; a graph of PyTorch Geometric or DGL is converted
            (:meth:`HeteroGraph.from_pyg`).
        seed, out, device, resume, progress, observers: see :func:`fit`.
        training: settings of :class:`recgraph.train.config.GraphTrainConfig`; beside a name also
            those of the model.
    """
    if isinstance(model, str):
        cls: type[Model] = registry.load("model", model)
        if not issubclass(cls, NodeModel):
            raise ValueError(f"model {model!r} is no NodeModel: it is fitted by rg.fit(model, log)")
        parts = share_out(cls, training, {"model": cls.Config, "training": GraphTrainConfig})
        model = cls(**parts["model"])
        training = parts["training"]
    refuse_training(type(model), training)
    options = FitOptions(
        config=GraphTrainConfig.of(training),
        seed=seed,
        folder=folder_of(out),
        device=device,
        resume=resume,
        progress=progress,
        observers=observers,
    )
    with together():
        return _fit_nodes(model, graph, options, evaluation={})


def train(
    model: str,
    dataset: str,
    out: str | Path | None,
    *,
    settings: Mapping[str, Any],
    seed: int,
    device: str | None = None,
    resume: bool = False,
    progress: bool | None = None,
    fit_on: FitPart | None = None,
    refit: bool = False,
) -> Run | NodeRun:
    """Train a model on a data set of the catalogue, as ``recgraph train`` does.

    On a graph with classes of nodes the model is fitted to the graph, and the run is a
    :class:`NodeRun`.

    Args:
        model: name of the registry.
        dataset: name of a data card, its path, or the path of files of one's own.
        settings: one flat namespace of the model's, the training's and the data's (or the probe's)
            settings.
        out, seed, device, resume, progress, fit_on, refit: see :func:`fit`, with its errors.
    """
    with together():
        cls: type[Model] = registry.load("model", model)
        card = find_card(dataset)
        check_task(cls, dataset, card.task == "nodes")
        parts = share_out(cls, settings, {"model": cls.Config, **parts_of(cls)})
        if Ranks.here().count > 1 and not is_data_path(dataset):
            of_all(partial(_prepare, dataset))
        if issubclass(cls, NodeModel):
            assert isinstance(card, GraphCard)
            options = FitOptions(
                config=GraphTrainConfig.of(parts.get("training")),
                seed=seed,
                folder=folder_of(out),
                device=device,
                resume=resume,
                progress=progress,
                source={"dataset": dataset},
            )
            evaluation = ProbeSettings.of(parts["probe"]).model_dump(mode="json")
            nodes = _model_of_card(cls, card, parts["model"])
            return _fit_nodes(nodes, load_graph(dataset), options, evaluation)
        data = DataConfig.of(parts["data"]).completed(dataset)
        items = InitItemsConfig.of(parts.get("items"))
        return fit(
            cls(**parts["model"]),
            data.split_of(dataset),
            seed=seed,
            out=out,
            device=device,
            resume=resume,
            progress=progress,
            fit_on=fit_on,
            refit=refit,
            init_items=items.init_items,
            init_items_scale=items.init_items_scale,
            # those of a data card do not change
            source={"features": {}, **data.source_of(dataset)},
            **parts.get("training", {}),
        )


def _prepare(dataset: str) -> None:
    """Load a data set by one process of each machine, for all of them."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        get(dataset)


def _model_of_card(cls: type[NodeModel], card: GraphCard, settings: Mapping[str, Any]) -> NodeModel:
    """A model for the graph of a card. Meta-paths that are not given are the card's, and features
    that it does not normalise stay as they are."""
    settings = {**settings, "metapaths": settings.get("metapaths") or card.paths}
    if issubclass(cls, GraphModel):
        raw = (name for name, node in card.nodes.items() if node.features and not node.normalise)
        settings.setdefault("raw_features", tuple(raw))
    return cls(**settings)


def parts_of(model: type[Model]) -> dict[str, type[Config]]:
    """The settings of a run beside the model's own, part by part."""
    if issubclass(model, NodeModel):
        return ({"training": GraphTrainConfig} if issubclass(model, TrainableModel) else {}) | {
            "probe": ProbeSettings
        }
    if not issubclass(model, TrainableModel):
        return {"data": DataConfig}
    return {"training": training_config(model), "items": InitItemsConfig, "data": DataConfig}


# -- logs and splits


def _split_and_part(
    data: Interactions | Split | SealedSplit, fit_on: FitPart | None, refit: bool
) -> tuple[Split | SealedSplit, FitPart]:
    """The split, and the part of it that a model is fitted on: of a log all; of a refit by default
    all, too.
    """
    if isinstance(data, Interactions):
        data = Split.of(data, EVERYTHING)
    if data.name == EVERYTHING:
        return data, "all"
    default: FitPart = "all" if refit else "train"
    return data, fit_on or default


def _training_of(given: Mapping[str, Any], model: type[Model], selects: bool) -> TrainConfig:
    """The settings of a training, with the model's own defaults; where nothing is held out to
    select an epoch on, all are trained and the last one is kept."""
    refuse_training(model, given)
    if not issubclass(model, TrainableModel):
        return TrainConfig.of(given)
    settings = dict(given)
    if not selects and "metric" not in model.training_defaults:
        settings.setdefault("metric", "last")
    config = training_config(model).of(settings)
    if config.metric != "last":
        return config
    if "max_epochs" not in settings:
        _log.warning(
            "nothing selects the epoch: all of max_epochs, by its default, are trained; give max_epochs"
        )
    return config.model_copy(update={"patience": None})


def _fit_split(
    model: Model, split: Split | SealedSplit, options: FitOptions, fit_on: FitPart
) -> Run:
    """Fit a model that is not built to a part of a split, in the folder of ``options``."""
    sealed = split.sealed()
    opened: Split | SealedSplit = sealed
    part = sealed.train
    if fit_on != "train" and split.name != EVERYTHING:
        opened = sealed.unseal(f"fit {type(model).__name__} on {fit_on}")
        part = opened.fit_part(fit_on)
    options = replace(options, config=options.config.decided(part))
    data = {
        "split": split.name,
        "split_params": split.params,
        "split_hash": split.hash,
        "n_users": split.n_users,
        "n_items": split.n_items,
        "times": split.interactions.time_unit,
    }
    record = new_record(model, options, fit_on, data)
    record.unsealed = list(sealed.unsealed_reasons)
    initialise = None
    if options.init_items is not None:
        items = initial_items(options.init_items, sealed, options.init_items_scale, fit_on)
        record.init_items = items.record
        initialise = items.write
    validate = _validation_of(model, sealed, part, options.config, fit_on)
    with run_folder(model, options, record) as complete:
        if complete is not None:
            finished = Run.open(complete, sealed)
            assert isinstance(finished, Run)
            finished.model.to(pick_device(options.device))
            return finished
        build(model, _space(model, sealed, part), options, record, initialise)
        if isinstance(model, TwoStage):
            _plan(model, sealed, opened, fit_on, options)
        train_model(model, part, options, record, validate)
        log = opened.interactions if fit_on == "all" else sealed.interactions
        run = Run(model, sealed, record, options.folder, log)
        run.write()
        return run


def _validation_of(
    model: Model, sealed: SealedSplit, part: Part, config: TrainConfig, fit_on: FitPart
) -> Callable[[], Mapping[str, float]] | None:
    """What measures the metric that selects an epoch; None where no metric on valid does."""
    if not isinstance(model, TrainableModel) or config.metric in ("loss", "last"):
        return None
    check_selects(config.metric)
    if fit_on != "train" or not len(sealed.valid):
        return None
    seen: Any = config.select_seen
    return partial(validation, model, sealed.valid, config.metric, seen=seen, fit_part=part)


def _space(model: Model, split: SealedSplit, part: Part) -> Space:
    """The sizes; with item features as learnt from the items of the part, or the part's graph,
    where they are read.
    """
    sizes = {"n_users": split.n_users, "n_items": split.n_items}
    if model.wanted_features:
        log, known = split.interactions, part.item_counts() > 0
        features = ItemFeatures.learn(
            log.item_features, log.columns.item, log.items, known, model.wanted_features
        )
        return FeatureSpace(**sizes, features=features)
    if not model.reads_graph:
        return Space(**sizes)
    return GraphSpace(**sizes, graph=HeteroGraph.from_interactions(split.interactions, part))


def _refit(
    model: TrainableModel, split: Split | SealedSplit, options: FitOptions, fit_on: FitPart
) -> Run:
    """Select on a split, in the folder ``selection`` of the run's, and fit to ``fit_on`` for as
    many epochs.

    The number of epochs is what is carried over, so that every interaction is read as often as in
    the selection; with more interactions an epoch has more steps. A linear or cosine schedule keeps
    the selection's length in epochs and ends where the best epoch was; a step schedule drops after
    the same epochs; a warm-up keeps its number of steps. Observers of ``options`` see the
    selection.
    """
    config, folder = options.config, options.folder
    if folder is not None:
        of_all(partial(_check_refits, folder))  # all look before one writes
        options = replace(options, folder=folder / SELECTION)
    first = _fit_split(type(model)(model.config), split, options, "train")
    epochs = first.record.best_epoch or 0
    _log.info(
        "epoch %d of %d is the best on the validation part; now a new fit to %s",
        epochs,
        len(first.history),
        fit_on,
    )
    length = config.schedule_epochs
    if config.schedule in FALLING and length is None:
        length = max(1, config.max_epochs)
    fixed = {"metric": "last", "patience": None, "max_epochs": epochs, "schedule_epochs": length}
    selection = first.record.only(*_OF_SELECTION)
    options = replace(
        options,
        config=TrainConfig.of({**first.record.training, **fixed}),
        folder=folder,
        observers=(),
        selection=selection,
    )
    run = _fit_split(model, split, options, fit_on)
    run.selection = first
    if run.record.selection != selection:  # the selection has gone on with more epochs
        run.record.selection = selection
        run.write_record()
    return run


def _check_refits(folder: Path) -> None:
    if (folder / SELECTION / "config.json").exists():
        return
    if contents(folder) - {SELECTION}:
        raise ValueError(
            f"out: {folder} exists and was not made with refit=True; give an empty or new folder"
        )


# -- two stages: the split within the training part by which the second learns to rank


#: label in the split of the data set -> label in the inner split of its train and valid parts, or
#: of all: what is tested is the truth, what is validated on is known
_INNER_LABELS = {
    Label.TRAIN: Label.TRAIN,
    Label.VALID: Label.TRAIN,
    Label.VALID_HISTORY: Label.TRAIN,
    Label.VALID_LEFT: Label.TRAIN,
    Label.TEST: Label.VALID,
    Label.TEST_HISTORY: Label.VALID_HISTORY,
    Label.TEST_LEFT: Label.VALID_LEFT,
}
#: the settings of a strategy that its inner split has, too
_INNER_RULES = {"new_users", "order", "fold_in", "targets", "unknown_items"}


def inner_split(log: Interactions, strategy: Strategy, seed: int) -> tuple[Part, Cases]:
    """A training part, split once more: what models are fitted to, and what followed.

    By the rule of the data set, with the share that it tests, else a tenth; of parts that were
    given, a tenth of each user's interactions; of leave-one-out, and of a log that is not split,
    the last one of each user.
    """
    if isinstance(strategy, Shares):
        rules = strategy.model_dump(include=_INNER_RULES)
        rule: Strategy = type(strategy)(**rules, valid=0.0, test=strategy.test or 0.1)
    elif isinstance(strategy, Given):
        rule = Ratio(order=strategy.order, valid=0.0, test=0.1)
    else:
        return last_held_out(log.ordered.part)
    labels = rule.labels(log, seed)
    inner = torch.tensor([_INNER_LABELS[label] for label in Label], dtype=labels.dtype)
    split = Split(log, inner[labels.long()], rule, "inner", seed)
    return split.train, split.valid


def _plan(
    model: TwoStage,
    sealed: SealedSplit,
    opened: Split | SealedSplit,
    fit_on: FitPart,
    options: FitOptions,
) -> None:
    """Say how the models of a model of several are fitted to a part of a split; ``opened`` has the
    rows of the part.
    """
    refuse_launched(type(model).__name__, "give the same command without torchrun")

    def fit_member(model: Model, part: Part, member: Member) -> None:
        member_options = replace(
            options,
            config=_training_of(member.training, member.cls, selects=False),
            folder=None,
            resume=False,
            progress=False,
            observers=(),
            source={},
        )
        data = {"split": sealed.name, "n_users": sealed.n_users, "n_items": sealed.n_items}
        record = new_record(model, member_options, "its part", data)
        train_model(model, part, member_options, record)

    labels = torch.tensor(FITTED_ON[fit_on], dtype=opened.labels.dtype)
    log = opened.interactions.masked(torch.isin(opened.labels, labels).numpy())
    inner, cases = inner_split(log, opened.strategy, derive(options.seed, "inner split"))
    model.plan = Plan(inner, cases, partial(_space, model, sealed), fit_member)


# -- graphs


def _fit_nodes(
    model: NodeModel, graph: HeteroGraph, options: FitOptions, evaluation: dict[str, Any]
) -> NodeRun:
    target = model.target_of(graph)
    data = {
        "target": target,
        "graph_hash": graph.hash,
        "nodes": {name: graph.count(name) for name in graph.node_types},
        "edges": {"-".join(name): edges.adj.nnz for name, edges in graph.edges.items()},
    }
    record = new_record(model, options, "graph", data)
    record.task = "nodes"
    record.evaluation = evaluation
    with run_folder(model, options, record) as complete:
        if complete is not None:
            return NodeRun.open(complete)
        with without_test_data("a model is fitted to a graph"):
            space = GraphSpace(n_users=0, n_items=graph.count(target), graph=graph)
            build(model, space, options, record)
            train_model(model, None, options, record)
        names = ("model", "config", "training", "seed", "fitted_on", "data", "provenance")
        run = NodeRun(Embedder.of(model, target, record.only(*names)), record, options.folder)
        run.write()
        return run
