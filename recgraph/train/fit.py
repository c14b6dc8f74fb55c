"""Fit a model to a log, a split, a typed graph or a data set of the catalogue, and get a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from recgraph import registry
from recgraph.config import Config, ConfigError, checked, unknown_key
from recgraph.data.catalog import load_graph
from recgraph.data.catalog.cards import GraphCard, find_card
from recgraph.data.item_features import ItemFeatures
from recgraph.data.log import InteractionLog
from recgraph.data.part import Part
from recgraph.data.sealing import without_test_data
from recgraph.data.split import FitPart, SealedSplit, Split
from recgraph.data.strategies import EVERYTHING
from recgraph.evaluate.evaluator import check_selects, validation
from recgraph.files import contents
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath
from recgraph.models.base import FeatureSpace, Model, Space, TrainableModel
from recgraph.models.heterogeneous.base import GraphModel, GraphSpace
from recgraph.models.two_stage import Member, TwoStage
from recgraph.ranks import of_all, together
from recgraph.serve.embedder import Embedder
from recgraph.train.callbacks import Observer
from recgraph.train.config import (
    FALLING,
    GraphTrainConfig,
    TrainConfig,
    own_defaults,
    pick_device,
    refuse_training,
    share_out,
    training_config,
)
from recgraph.train.fitting import FitOptions, build, new_record, run_folder, train_model
from recgraph.train.inner_split import give_plan
from recgraph.train.pretrained import InitItemsConfig, Scale, initial_items
from recgraph.train.record import SELECTION
from recgraph.train.run import NodeRun, Run
from recgraph.train.settings import DataConfig, ProbeSettings, check_task, models_for, prepare_once, source_of

#: entries of the selection's record that the record of a refit keeps
_KEPT = ("training", "best_epoch", "best", "history", "cost")
_log = logging.getLogger(__name__)


@checked
def fit(
    model: Model | str,
    data: InteractionLog | Split | SealedSplit,
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
    """Fit a model to a log, to serve; or to the training part of a split, selected on its validation part.

    A model that is fitted to a log, or with ``fit_on="all"``, knows each user's newest item. Nothing is held out to
    select an epoch on, so that all of ``max_epochs`` are trained, and the run is not evaluated.

    Args:
        model: with its settings, not built; or a name of the registry.
        data: a log, all of which is read; or a split, whose test part is sealed before anything is read.
        seed: of everything random in the run.
        out: folder of the run (log, checkpoints, bundle, record). None keeps all in memory, without checkpoints; only
            ``tensorboard=True`` writes then, into a folder of its own in ``runs/tensorboard``.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; None: a GPU with CUDA where there is one, else the CPU (see
            :func:`recgraph.train.config.pick_device`).
        resume: continue from the newest checkpoint in ``out``; a finished run is returned as it is.
        progress: None: a bar on a terminal and in a notebook, elsewhere nothing; True: elsewhere lines; False: nothing.
            Log records (logger ``recgraph``) tell the same.
        fit_on: what of a split is read: ``"train"``, the default; ``"train+valid"`` for a last fit before the test;
            ``"all"`` to serve. The last two have no validation: the last epoch is kept, or with ``metric="loss"`` the
            one of the lowest loss. Of a log it is all.
        refit: choose the number of epochs on the validation part first, then fit anew to all (or, with ``fit_on``, to
            train+valid) for so many epochs; :attr:`Run.selection` is the first of the two runs, which is evaluated.
        observers: called during the training; with ``refit``, during the one that chooses.
        init_items: where the vectors of items begin: a run, a recommender or an embedder, the folder of one, a frame of
            ids and vectors, or a mapping id -> vector, all matched by id; see
            :class:`recgraph.train.pretrained.InitItems`.
        init_items_scale: ``"initial"`` gives them the random vectors' standard deviation; ``"given"``: as they are.
        source: where the split is from, so that the run can be opened without it: ``dataset``, the name of a data card,
            and ``settings`` of :class:`recgraph.train.settings.DataConfig`. A log that was read from a file knows its
            own. Fingerprints of the features are added.
        training: settings of :class:`recgraph.train.config.TrainConfig`, for models that are trained.

    Raises:
        ConfigError: a setting that does not exist, is out of range, or needs a validation that there is not.
        ValueError: the model is built already, or embeds a graph (:func:`fit_graph`); ``out`` holds another run, or one
            and ``resume`` is False; another process trains into it; ``init_items`` does not fit; a log that is not
            split has no part to fit on or to choose on.
    """
    made: Model = registry.load("model", model)() if isinstance(model, str) else model
    if made.space is not None:
        raise ValueError(f"model {type(made).__name__} is built already; give a new one, e.g. {type(made).__name__}()")
    if isinstance(made, GraphModel):
        raise ValueError(f"model {type(made).__name__} embeds a typed graph; use rg.fit_graph(model, graph)")
    if training and not isinstance(made, TrainableModel):
        refuse_training(type(made), training)
        raise ConfigError(f"{type(made).__name__}: {unknown_key(next(iter(training)), made.Config.model_fields)}")
    folder = None if out is None else Path(out)
    options = FitOptions(TrainConfig(), seed, folder, device, resume, progress, observers)
    with together():
        split, part = _split_and_part(data, fit_on, refit)
        more = (init_items, init_items_scale, source_of(split, source))
        return _fit_log(made, split, part, training, options, refit, *more)


@checked
def fit_graph(
    model: Model,
    graph: HeteroGraph,
    *,
    seed: int,
    out: str | Path | None = None,
    device: str | None = None,
    resume: bool = False,
    progress: bool | None = None,
    observers: tuple[Observer, ...] = (),
    **training: Any,
) -> NodeRun:
    """Fit a model of a typed graph, without classes of its nodes; the epoch with the lowest loss is kept.

    Args:
        model: with its settings, among them ``metapaths``; not built.
        graph: all that is read.
        seed, out, device, resume, progress, observers: see :func:`fit`.
        training: settings of :class:`recgraph.train.config.GraphTrainConfig`.

    Raises:
        ConfigError: a setting that does not exist or is out of range.
        ValueError: the model embeds no graph, the graph has not its meta-paths, ``out`` holds another run, or another
            process trains into it.
    """
    if not isinstance(model, GraphModel):
        raise ValueError(
            f"model {type(model).__name__} embeds no graph; those that do: {', '.join(models_for(of_nodes=True))}"
        )
    folder = None if out is None else Path(out)
    options = FitOptions(GraphTrainConfig.of(training), seed, folder, device, resume, progress, observers)
    with together():
        return _fit_nodes(model, graph, options, source={}, evaluation={})


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

    On a graph with classes of nodes the model is fitted to the graph, and the run is a :class:`NodeRun`.

    Args:
        model: name of the registry.
        dataset: name of a data card, its path, or the path of files of one's own.
        out: folder of the run; refused where it exists, unless ``resume``. None keeps all in memory.
        settings: one flat namespace of the model's, the training's and the data's (or the probe's) settings.
        seed: of the run.
        device, resume, progress, fit_on, refit: see :func:`fit`.

    Raises:
        ConfigError: a setting that does not exist, is out of range, or needs a validation that there is not.
        ValueError: the model is not for the data set's task, ``out`` holds another run, or another process trains into
            it.
    """
    folder = None if out is None else Path(out)
    with together():
        cls, card = registry.load("model", model), find_card(dataset)
        check_task(cls, dataset, card.task == "nodes")
        parts = share_out(cls, settings, {"model": cls.Config, **parts_of(cls)})
        prepare_once(dataset)
        if issubclass(cls, GraphModel):
            assert isinstance(card, GraphCard)
            if fit_on is not None or refit:
                raise ValueError(f"fit_on, refit: {cls.__name__} reads its whole graph; leave them out")
            options = FitOptions(GraphTrainConfig.of(parts["training"]), seed, folder, device, resume, progress)
            return _train_nodes(cls, parts, dataset, card, options)
        made, data = cls(**parts["model"]), DataConfig.of(parts["data"]).completed(dataset)
        items = InitItemsConfig.of(parts.get("items"))
        options = FitOptions(TrainConfig(), seed, folder, device, resume, progress)
        split, part = _split_and_part(data.split_of(dataset), fit_on, refit)
        more = (items.init_items, items.init_items_scale, data.source_of(dataset))
        return _fit_log(made, split, part, parts.get("training", {}), options, refit, *more)


def parts_of(model: type[Model]) -> dict[str, type[Config]]:
    """The settings of a run beside the model's own, part by part."""
    if issubclass(model, GraphModel):
        return {"training": GraphTrainConfig, "probe": ProbeSettings}
    if not issubclass(model, TrainableModel):
        return {"data": DataConfig}
    return {"training": training_config(model), "items": InitItemsConfig, "data": DataConfig}


# -- logs and splits


def _split_and_part(
    data: InteractionLog | Split | SealedSplit, fit_on: FitPart | None, refit: bool
) -> tuple[Split | SealedSplit, FitPart]:
    """The split, and the part of it that a model is fitted on: all of a log, or of a split what is asked for; of a
    refit, which has chosen on the training part, by default all."""
    if refit and fit_on == "train":
        raise ValueError("fit_on = 'train' is what refit=True selects on; leave it out (all), or give 'train+valid'")
    if isinstance(data, InteractionLog):
        if fit_on not in (None, "all"):
            raise ValueError(f"fit_on = {fit_on!r} is a part of a split; give data.split('leave-one-out')")
        return Split.of(data, EVERYTHING), "all"
    if data.name == EVERYTHING or (refit and fit_on is None):
        return data, "all"
    return data, fit_on or "train"


def _training_of(given: Mapping[str, Any], fit_on: FitPart, model: type[TrainableModel]) -> TrainConfig:
    """The settings of a training, with the model's own defaults; where nothing is held out, every epoch is trained and
    the last one kept."""
    held_out, given = fit_on == "train", {**own_defaults(model), **given}
    metric = given.get("metric", TrainConfig.model_fields["metric"].default if held_out else "last")
    if metric == "last":
        if given.get("patience") is not None:
            raise ConfigError("patience waits for a better metric, and none is measured: give max_epochs instead")
        if "max_epochs" not in given:
            _log.warning("nothing selects the epoch: all of max_epochs, by its default, are trained; give max_epochs")
        return TrainConfig.of(given, metric="last", patience=None)
    if not held_out and metric != "loss":
        raise ConfigError(
            f"metric = {metric!r} needs a validation part, and fit_on = {fit_on!r} leaves none: leave metric out, or "
            "choose the epoch first with refit=True (--refit)"
        )
    return TrainConfig.of(given)


def _warn_of_few_epochs(model: Model, config: TrainConfig) -> None:
    if isinstance(model, TrainableModel) and config.max_epochs <= (changing := model.changing_epochs):
        _log.warning("max_epochs leaves a part of %s untrained: give at least %d", type(model).__name__, changing + 1)


def _fit_log(
    model: Model,
    split: Split | SealedSplit,
    part: FitPart,
    training: Mapping[str, Any],
    options: FitOptions,
    refit: bool,
    init_items: Any,
    init_items_scale: Scale,
    source: Mapping[str, Any],
) -> Run:
    """Fit to a part of a split, once or (``refit``) twice, with ``training`` in the place of ``options``'."""
    more = (init_items, init_items_scale, source)
    if not isinstance(model, TrainableModel):  # it has no epoch to choose
        return _fit_split(model, split, options, part, *more)
    options = replace(options, config=_training_of(training, "train" if refit else part, type(model)))
    _warn_of_few_epochs(model, options.config)
    return (_refit_split if refit else _fit_split)(model, split, options, part, *more)


def _fit_split(
    model: Model,
    split: Split | SealedSplit,
    options: FitOptions,
    fit_on: FitPart,
    init_items: Any,
    init_items_scale: Scale,
    source: Mapping[str, Any],
) -> Run:
    """Fit a model that is not built to a part of a split, in the folder of ``options``."""
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

    validates = isinstance(model, TrainableModel) and config.metric not in ("loss", "last") and fit_on == "train"
    if validates:
        check_selects(config.metric)
        if not len(sealed.valid):
            raise ValueError(f"metric = {config.metric!r}: the valid part is empty; use metric='loss'")
    with run_folder(model, options, record) as is_complete:
        if is_complete:
            assert options.folder is not None
            done = Run.open(options.folder, sealed)
            assert isinstance(done, Run)
            done.model.to(pick_device(options.device))
            return done
        build(model, _space(model, sealed, part), options, record, initialise)
        if isinstance(model, TwoStage):
            fit_member = _fit_member(model, sealed, options)
            give_plan(model, read, fit_on, options.seed, partial(_space, model, sealed), fit_member)
        train_model(model, part, options, record, validate if validates else None)
        run = Run(model, sealed, record, options.folder, log)
        run.keep()
        return run


def _fit_member(models: TwoStage, split: SealedSplit, options: FitOptions) -> Callable[[Model, Part, Member], None]:
    """What fits a built model, one of several, to a part of a split on which nothing selects an epoch."""

    def fit_one(model: Model, part: Part, member: Member) -> None:
        config = options.config
        if issubclass(member.cls, TrainableModel):
            config = _training_of(member.training, "all", member.cls)
        own = replace(options, config=config, folder=None, resume=False, observers=())
        data = {"split": split.name, "n_users": split.n_users, "n_items": split.n_items}
        train_model(model, part, own, new_record(model, own, "its part", data))

    for member in models.members:  # a wrong setting is an error before anything is fitted
        if issubclass(member.cls, TrainableModel):
            _warn_of_few_epochs(member.make(), _training_of(member.training, "all", member.cls))
    return fit_one


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


def _refit_split(
    model: Model,
    split: Split | SealedSplit,
    options: FitOptions,
    fit_on: FitPart,
    init_items: Any,
    init_items_scale: Scale,
    source: Mapping[str, Any],
) -> Run:
    """Select on a split, in the folder ``selection`` of the run's, and fit to ``fit_on`` for as many epochs.

    The number of epochs is what is carried over, so that every interaction is read as often as in the selection; with
    more interactions an epoch has more steps. A linear or cosine schedule keeps the selection's length in epochs and
    ends where the best epoch was; a step schedule drops after the same epochs; a warm-up keeps its number of steps.
    Observers of ``options`` see the selection.
    """
    config, folder = options.config, options.folder
    if split.name == EVERYTHING or config.metric in ("loss", "last"):
        raise ConfigError(
            "refit=True chooses the number of epochs on a validation part: give data.split('leave-one-out') and a "
            "validation metric such as 'ndcg@10'"
        )
    of_all(lambda: _check_refit_folder(folder, options.resume))  # all look before one writes
    inside = None if folder is None else folder / SELECTION
    more = (init_items, init_items_scale, source)
    first = _fit_split(type(model)(model.config), split, replace(options, folder=inside), "train", *more)
    epochs, found = first.record.best_epoch or 0, first.record
    _log.info(
        "epoch %d of %d is the best on the validation part; now a new fit to %s", epochs, len(found.history), fit_on
    )
    length = config.schedule_epochs
    if config.schedule in FALLING and length is None:
        length = max(1, config.max_epochs)
    fixed = {"metric": "last", "patience": None, "max_epochs": epochs, "schedule_epochs": length}
    kept = found.only(*_KEPT)
    then = replace(options, config=TrainConfig.of({**config.model_dump(), **fixed}), observers=(), selection=kept)
    run = _fit_split(model, split, then, fit_on, *more)
    run.selection = first
    if run.record.selection != kept:  # the selection has gone on with more epochs
        run.record.selection = kept
        run.write_record()
    return run


def _check_refit_folder(folder: Path | None, resume: bool) -> None:
    """Refuse a folder that holds something else, before the selection is trained into it."""
    if folder is None or not folder.exists():
        return
    is_run, is_refit = ((each / "config.json").exists() for each in (folder, folder / SELECTION))
    if not is_run and contents(folder) - {SELECTION}:
        raise ValueError(f"out: {folder} exists and is not a run; give an empty or new folder")
    if (is_run or is_refit) and not resume:
        raise ValueError(f"{folder} holds a run already; use resume=True (--resume) or another folder")
    if is_run and not is_refit:
        raise ValueError(f"refit: {folder} holds a run that was not made with refit=True; give another folder")


# -- graphs


def _fit_nodes(
    model: GraphModel,
    graph: HeteroGraph,
    options: FitOptions,
    source: Mapping[str, Any],
    evaluation: dict[str, Any],
) -> NodeRun:
    _warn_of_few_epochs(model, options.config)
    target = _target(model, graph)
    if not graph.count(target):
        raise ValueError(f"the graph has no node of type {target!r}, whose nodes {type(model).__name__} embeds")
    data = {
        **source,
        "target": target,
        "graph_hash": graph.hash,
        "nodes": {name: graph.count(name) for name in graph.node_types},
        "edges": {"-".join(name): edges.adj.nnz for name, edges in graph.edges.items()},
    }
    record = new_record(model, options, "graph", data)
    record.task, record.evaluation = "nodes", evaluation
    with run_folder(model, options, record) as is_complete:
        if is_complete:
            assert options.folder is not None
            return NodeRun.open(options.folder)
        with without_test_data("a model is fitted to a graph"):
            space = GraphSpace(n_users=0, n_items=graph.count(target), graph=graph)
            build(model, space, options, record)
            train_model(model, None, options, record)
        names = ("model", "config", "training", "seed", "fitted_on", "data", "provenance")
        run = NodeRun(Embedder.of(model, target, record.only(*names)), record, options.folder)
        run.keep()
        return run


def _target(model: GraphModel, graph: HeteroGraph) -> str:
    """The node type that the meta-paths begin with; the model itself checks the rest when it is built."""
    if not model.config.metapaths:
        raise ValueError("metapaths = () must name at least one path, e.g. metapaths=('paper-author-paper',)")
    return MetaPath(model.config.metapaths[0]).route(graph)[0].start


def _train_nodes(
    cls: type[GraphModel],
    parts: Mapping[str, Mapping[str, Any]],
    dataset: str,
    card: GraphCard,
    options: FitOptions,
) -> NodeRun:
    """Train on the graph of a data set with classes of nodes, which are not read.

    Meta-paths that are not given are those of the card, and features that the card does not normalise stay as they are.
    """
    assert card.labels is not None
    as_published = tuple(name for name, node in card.nodes.items() if node.features and not node.normalise)
    given = {name: value for name, value in parts["model"].items() if name != "metapaths" or value}
    model = cls(**{"metapaths": card.paths, "raw_features": as_published, **given})
    evaluation = ProbeSettings.of(parts["probe"]).model_dump(mode="json")
    graph = load_graph(dataset)
    target = _target(model, graph)
    if target != card.labels.target:
        raise ValueError(
            f"metapaths embed {target!r} nodes, and {dataset!r} has classes of {card.labels.target!r} nodes; its own "
            f"paths are {', '.join(card.paths)}"
        )
    return _fit_nodes(model, graph, options, {"dataset": dataset}, evaluation)
