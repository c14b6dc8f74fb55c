"""Fit a model to a log, a split, a typed graph or a data set of the catalogue, and get a run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from recgraph import registry
from recgraph.arguments import checked
from recgraph.config import Config, ConfigError, unknown_key
from recgraph.data.catalog import load_graph
from recgraph.data.catalog.cards import GraphCard, find_card
from recgraph.data.log import InteractionLog
from recgraph.data.sealing import without_test_data
from recgraph.data.split import FitPart, SealedSplit, Split
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath
from recgraph.models.base import Model, TrainableModel
from recgraph.models.heterogeneous.base import GraphModel, GraphSpace
from recgraph.ranks import together
from recgraph.runs.fit_split import check_epochs, fit_split, split_and_part, training_of
from recgraph.runs.fitting import FitOptions, build, new_record, run_folder, train_model
from recgraph.runs.pretrained import InitItemsConfig, Scale
from recgraph.runs.refit import refit_split
from recgraph.runs.run import DataConfig, NodeRun, ProbeSettings, Run
from recgraph.runs.settings import prepare_once
from recgraph.runs.source import source_of
from recgraph.runs.task import check_task, models_for
from recgraph.serve.embedder import Embedder
from recgraph.train.callbacks import Observer
from recgraph.train.config import (
    GraphTrainConfig,
    TrainConfig,
    refuse_training,
    share_out,
    training_config,
)

__all__ = ["fit", "fit_graph", "parts_of", "train"]


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
    memory_limit: str | int | None = None,
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
            See :func:`recgraph.runs.refit.refit_split` for what is carried over.
        observers: called during the training; with ``refit``, during the one that chooses.
        init_items: where the vectors of items begin: a run, a recommender or an embedder, the folder of one, a frame of
            ids and vectors, or a mapping id -> vector, all matched by id; see
            :class:`recgraph.runs.pretrained.InitItems`.
        init_items_scale: ``"initial"`` gives them the random vectors' standard deviation; ``"given"``: as they are.
        source: where the split is from, so that the run can be opened without it: ``dataset``, the name of a data card,
            and ``settings`` of :class:`recgraph.runs.run.DataConfig`. A log that was read from a file knows its own.
            Fingerprints of the features are added.
        memory_limit: of this process, e.g. ``"8GiB"`` or bytes: the predicted peak is logged first, and what does not
            fit is refused with what would; None: that of ``RECGRAPH_MEMORY_LIMIT``, if any.
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
        raise ValueError(
            f"{type(made).__name__} embeds the nodes of a typed graph and reads no split; "
            "use rg.fit_graph(model, graph)"
        )
    _refuse_training(type(made), training)
    folder = None if out is None else Path(out)
    options = FitOptions(TrainConfig(), seed, folder, device, resume, progress, observers, memory_limit=memory_limit)
    with together():
        split, part = split_and_part(data, _part_of(fit_on, refit))
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
    memory_limit: str | int | None = None,
    **training: Any,
) -> NodeRun:
    """Fit a model of a typed graph, without classes of its nodes; the epoch with the lowest loss is kept.

    Args:
        model: with its settings, among them ``metapaths``; not built.
        graph: all that is read.
        seed: of everything random in the run.
        out: folder of the run (log, checkpoints, bundle, record). None keeps all in memory, without checkpoints; only
            ``tensorboard=True`` writes then, into a folder of its own in ``runs/tensorboard``.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; None: a GPU with CUDA where there is one, else the CPU.
        resume: continue from the newest checkpoint in ``out``; a finished run is returned as it is.
        progress: None: a bar on a terminal and in a notebook, elsewhere nothing; True: elsewhere lines; False: nothing.
            Log records (logger ``recgraph``) tell the same.
        observers: called during the training.
        memory_limit: of this process, e.g. ``"8GiB"``; see :func:`fit`.
        training: settings of :class:`recgraph.train.config.GraphTrainConfig`.

    Raises:
        ConfigError: a setting that does not exist or is out of range.
        ValueError: the model embeds no graph, the graph has not its meta-paths, ``out`` holds
            another run, or another process trains into it.
    """
    if not isinstance(model, GraphModel):
        raise ValueError(f"{type(model).__name__} embeds no graph; the models that do: {', '.join(models_for(True))}")
    _refuse_batches(model, training)
    config = GraphTrainConfig.of(training)
    folder = None if out is None else Path(out)
    options = FitOptions(config, seed, folder, device, resume, progress, observers, memory_limit=memory_limit)
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
        of_nodes = issubclass(cls, GraphModel)
        parts = share_out(cls, settings, {"model": cls.Config, **parts_of(cls)})
        prepare_once(dataset)
        if of_nodes:
            assert isinstance(card, GraphCard)
            if fit_on is not None or refit:
                asked = "refit" if fit_on is None else f"fit_on = {fit_on!r}"
                raise ValueError(f"{asked} is for logs; {cls.__name__} reads its whole graph")
            options = FitOptions(GraphTrainConfig.of(parts["training"]), seed, folder, device, resume, progress)
            return _train_nodes(cls, parts, dataset, card, options)
        made, data = cls(**parts["model"]), DataConfig.of(parts["data"]).completed(dataset)
        items = InitItemsConfig.of(parts.get("items"))
        options = FitOptions(TrainConfig(), seed, folder, device, resume, progress)
        source = data.source_of(dataset)
        split, part = split_and_part(data.split_of(dataset), _part_of(fit_on, refit))
        more = (items.init_items, items.init_items_scale, source)
        return _fit_log(made, split, part, parts.get("training", {}), options, refit, *more)


def parts_of(model: type[Model]) -> dict[str, type[Config]]:
    """The settings of a run beside the model's own, part by part."""
    if issubclass(model, GraphModel):
        return {"training": GraphTrainConfig, "probe": ProbeSettings}
    if not issubclass(model, TrainableModel):
        return {"data": DataConfig}
    return {"training": training_config(model), "items": InitItemsConfig, "data": DataConfig}


def _refuse_training(model: type[Model], names: Collection[str]) -> None:
    """Refuse what stands where settings of training do, for a model that takes none."""
    if not names or issubclass(model, TrainableModel):
        return
    refuse_training(model, names)
    first, own, name = next(iter(names)), model.Config.model_fields, model.__name__
    if first in own:
        raise ConfigError(f"{first} is a setting of the model: give it there, as {name}({first}=...)")
    raise ConfigError(f"{name}: {unknown_key(first, own)}")


def _part_of(fit_on: FitPart | None, refit: bool) -> FitPart | None:
    """What is fitted to: of a refit, which has chosen on the training part, by default all."""
    return "all" if refit and fit_on is None else fit_on


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
    if isinstance(model, TrainableModel):
        options = replace(options, config=training_of(training, "train" if refit else part, type(model)))
        check_epochs(model, options.config)
    fit_it = refit_split if refit else fit_split
    return fit_it(model, split, options, part, init_items, init_items_scale, source)


def _fit_nodes(
    model: GraphModel,
    graph: HeteroGraph,
    options: FitOptions,
    source: Mapping[str, Any],
    evaluation: dict[str, Any],
) -> NodeRun:
    check_epochs(model, options.config)
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


def _refuse_batches(model: GraphModel, training: Mapping[str, Any]) -> None:
    """Refuse a size of batches for a model that makes its steps on the whole graph."""
    by_batches = getattr(model.config, "mini_batch", None)
    if "batch_size" in training and not by_batches:
        instead = "" if by_batches is None else ", or set mini_batch=True"
        raise ConfigError(
            f"batch_size = {training['batch_size']!r} has no effect on steps on the whole graph; leave it out{instead}"
        )


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
    """Train on the graph of a data set with classes of nodes.

    Meta-paths that are not given are those of the card, and features that the card does not normalise stay as they are.
    """
    assert card.labels is not None
    as_published = tuple(name for name, node in card.nodes.items() if node.features and not node.normalise)
    given = {name: value for name, value in parts["model"].items() if name != "metapaths" or value}
    model = cls(**{"metapaths": card.paths, "raw_features": as_published, **given})
    _refuse_batches(model, parts["training"])
    evaluation = ProbeSettings.of(parts["probe"]).model_dump(mode="json")
    graph = load_graph(dataset)
    target = _target(model, graph)
    if target != card.labels.target:
        raise ValueError(
            f"metapaths = {model.config.metapaths} embed {target!r} nodes, but dataset {dataset!r} has classes of "
            f"{card.labels.target!r} nodes; its own paths are {', '.join(card.paths)}"
        )
    return _fit_nodes(model, graph, options, {"dataset": dataset}, evaluation)
