"""From a model and a typed graph to a run: what is fitted is the graph alone, without classes of its nodes.

One call from a model and a split to a run: fit, evaluate, recommend, save.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from recgraph import registry
from recgraph.config import Config, ConfigError, distribute
from recgraph.data.catalog import load_graph
from recgraph.data.catalog.cards import Card, GraphCard, find_card
from recgraph.data.part import Part
from recgraph.data.sealing import without_test_data
from recgraph.data.split import SealedSplit, Split
from recgraph.evaluate.evaluator import validation
from recgraph.evaluate.metrics.names import split_metric
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath
from recgraph.models.base import Model, Space, TrainableModel
from recgraph.models.heterogeneous.base import GraphModel, GraphSpace
from recgraph.runs.fitting import Request, alone, build, fit_built, new_record
from recgraph.runs.pretrained import InitItemsConfig, Scale, initial_items
from recgraph.runs.run import DataConfig, NodeRun, ProbeSettings, Run
from recgraph.serve.embedder import Embedder
from recgraph.train.callbacks import Observer
from recgraph.train.config import GraphTrainConfig, TrainConfig, pick_device

__all__ = ["check_task", "fit", "fit_graph", "model_from", "parts_of", "train", "train_nodes"]


def fit_graph(
    model: GraphModel,
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
    """Fit a model of a typed graph; the lowest loss selects its weights.

    Args:
        model: with its settings, among them ``metapaths``; not built.
        graph: all that is read.
        seed: of everything random in the run.
        out: folder of the run (log, checkpoints, bundle, record); None keeps all in memory.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; None: a GPU with CUDA where there is one, else the CPU.
        resume: go on from the newest checkpoint in ``out``; a run that is finished is given back as it is.
        progress: show a progress bar; None: on a terminal.
        observers: told of every epoch.
        training: settings of :class:`recgraph.train.config.GraphTrainConfig`.

    Raises:
        ConfigError: a setting that does not exist or is out of range.
        ValueError: the model embeds no graph, the graph has not its meta-paths, ``out`` holds another run, or another
            process trains into it.
    """
    if not isinstance(model, GraphModel):
        raise ValueError(f"{type(model).__name__} embeds no graph; the models that do: {', '.join(_models(True))}")
    config = GraphTrainConfig.of(training)
    folder = None if out is None else Path(out)
    return _fit_nodes(model, graph, Request(config, seed, folder, device, resume, progress, observers), {}, {})


def train_nodes(
    cls: type[GraphModel],
    settings: Mapping[str, Any],
    probe: Mapping[str, Any],
    dataset: str,
    card: GraphCard,
    request: Request,
) -> NodeRun:
    """Train a model on the graph of a data set with classes of nodes, of which nothing is read.

    Args:
        cls: the model's class.
        settings: of the model; meta-paths that are not given are those of the card, and features that the card does
            not normalise stay as they are.
        probe: of :data:`ProbeSettings`, kept for the evaluation.
        dataset: the name of the card.
    """
    assert card.labels is not None
    as_published = tuple(name for name, node in card.nodes.items() if node.features and not node.normalise)
    given = {name: value for name, value in settings.items() if name != "metapaths" or value}
    model = cls(**{"metapaths": card.paths, "raw_features": as_published, **given})
    evaluation = ProbeSettings.of(probe).model_dump(mode="json")
    graph = load_graph(dataset)
    target = _target(model, graph)
    if target != card.labels.target:
        raise ValueError(
            f"metapaths = {model.config.metapaths} embed {target!r} nodes, but dataset {dataset!r} has classes of "
            f"{card.labels.target!r} nodes; its own paths are {', '.join(card.paths)}"
        )
    return _fit_nodes(model, graph, request, {"dataset": dataset}, evaluation)


def _fit_nodes(
    model: GraphModel, graph: HeteroGraph, request: Request, source: dict[str, Any], evaluation: dict[str, Any]
) -> NodeRun:
    target = _target(model, graph)
    data = {**source, "target": target, "graph_hash": graph.hash}
    data["nodes"] = {name: graph.count(name) for name in graph.node_types}
    data["edges"] = {"-".join(name): edges.adj.nnz for name, edges in graph.edges.items()}
    record = new_record(model, request, "graph", data)
    record |= {"task": "nodes", "evaluation": evaluation}
    with alone(request, record) as is_done:
        if is_done:
            assert request.folder is not None
            return NodeRun.open(request.folder)
        with without_test_data("a model is fitted to a graph"):
            build(model, GraphSpace(n_users=0, n_items=graph.count(target), graph=graph), request, record)
            fit_built(model, None, request, record)
        kept = ("model", "config", "training", "seed", "fitted_on", "data", "provenance")
        run = NodeRun(Embedder.of(model, target, {name: record[name] for name in kept}), record, request.folder)
        if request.folder is not None:
            run.save(request.folder / "bundle")
            run.write_record()
        return run


def _target(model: GraphModel, graph: HeteroGraph) -> str:
    """The node type that the meta-paths begin with; the model itself checks the rest when it is built."""
    if not model.config.metapaths:
        raise ValueError("metapaths = () must name at least one path, e.g. metapaths=('paper-author-paper',)")
    return MetaPath(model.config.metapaths[0]).route(graph)[0].start


def check_task(cls: type[Model], dataset: str, card: Card) -> None:
    """Refuse a model that recommends where there are classes of nodes, and the other way round.

    Raises:
        ValueError: names what to use.
    """
    of_nodes = card.task == "nodes"
    if of_nodes == issubclass(cls, GraphModel):
        return
    others = ", ".join(_models(of_nodes))
    if of_nodes:
        raise ValueError(
            f"dataset {dataset!r} is a graph with classes of nodes and {cls.__name__} recommends items; use one of "
            f"{others}, or a data set with interactions (recgraph data list)"
        )
    raise ValueError(
        f"dataset {dataset!r} is for recommendation and {cls.__name__} embeds the nodes of a graph; use one of "
        f"{others}, or a data set with classes of nodes, such as acm (recgraph data list)"
    )


def _models(of_nodes: bool) -> list[str]:
    return [
        name for name in registry.names("model") if issubclass(registry.load("model", name), GraphModel) == of_nodes
    ]


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
    init_items: Any = None,
    init_items_scale: Scale = "initial",
    source: Mapping[str, Any] | None = None,
    **training: Any,
) -> Run:
    """Fit a model to the training part of a split, selected on its validation part.

    Args:
        model: with its settings, not built; or a name of the registry.
        split: the test part is sealed before anything is read.
        seed: of everything random in the run.
        out: folder of the run (log, checkpoints, bundle, record); None keeps all in memory.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; None: a GPU with CUDA where there is one, else the CPU (see
            :func:`recgraph.train.config.pick_device`).
        resume: go on from the newest checkpoint in ``out``; a run that is finished is given back as it is.
        progress: show a progress bar; None: on a terminal.
        fit_on: ``"train+valid"`` for a last fit before the test, without a validation (``metric="loss"``).
        observers: told of every epoch.
        init_items: where the vectors of items begin: a run, a recommender or an embedder, the folder of one, a frame of
            ids and vectors, or a mapping id -> vector, all matched by id; see
            :class:`recgraph.runs.pretrained.InitItems`.
        init_items_scale: ``"initial"`` gives them the random vectors' standard deviation; ``"given"``: as they are.
        source: where the split is from, so that the run can be opened without it: ``dataset``, the name of a data card,
            and ``settings`` of :class:`recgraph.runs.run.DataConfig`.
        training: settings of :class:`recgraph.train.config.TrainConfig`, for models that are trained.

    Raises:
        ConfigError: a setting that does not exist or is out of range.
        ValueError: ``out`` holds another run, or one and ``resume`` is not asked for; another process trains into it;
            ``init_items`` does not fit.
    """
    made, config = model_from(model), TrainConfig.of(training)
    if training and not isinstance(made, TrainableModel):
        raise ConfigError(
            f"{type(made).__name__} is fitted in one step and takes no settings of training: leave out "
            f"{', '.join(training)}"
        )
    folder = None if out is None else Path(out)
    return _fit(
        made,
        split,
        Request(config, seed, folder, device, resume, progress, observers),
        fit_on,
        (init_items, init_items_scale),
        source,
    )


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
) -> Run | NodeRun:
    """Train a model on a data set of the catalogue: what ``recgraph train`` does.

    On a graph with classes of nodes it is the graph that is trained on, and the run is a :class:`NodeRun`.

    Args:
        model: name of the registry.
        dataset: name of a data card.
        out: folder of the run; refused where it exists, unless ``resume``. None keeps all in memory.
        settings: one flat namespace of the model's, the training's and the data's (or the probe's) settings.
        seed: of the run.

    Raises:
        ConfigError: a setting that does not exist or is out of range.
        ValueError: the model is not for the data set's task, ``out`` holds another run, or another process trains into
            it.
    """
    cls, card = registry.load("model", model), find_card(dataset)
    check_task(cls, dataset, card)
    of_nodes = issubclass(cls, GraphModel)
    training: type[TrainConfig] = GraphTrainConfig if of_nodes else TrainConfig
    parts = distribute(settings, {"model": cls.Config, **parts_of(cls)})
    folder = None if out is None else Path(out)
    request = Request(training.of(parts.get("training")), seed, folder, device, resume, progress)
    if of_nodes:
        assert isinstance(card, GraphCard)
        return train_nodes(cls, parts["model"], parts["probe"], dataset, card, request)
    made, data = cls(**parts["model"]), DataConfig.of(parts["data"])
    source = {"dataset": dataset, "settings": data.model_dump(mode="json")}
    items = InitItemsConfig.of(parts.get("items"))
    return _fit(made, data.split_of(dataset), request, "train", (items.init_items, items.init_items_scale), source)


def parts_of(model: type[Model]) -> dict[str, type[Config]]:
    """What can be set of a run beside the model's own settings, part by part."""
    if issubclass(model, GraphModel):
        return {"training": GraphTrainConfig, "probe": ProbeSettings}
    if not issubclass(model, TrainableModel):
        return {"data": DataConfig}
    return {"training": TrainConfig, "items": InitItemsConfig, "data": DataConfig}


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
    request: Request,
    fit_on: Literal["train", "train+valid"],
    init_items: tuple[Any, Scale],
    source: Mapping[str, Any] | None = None,
) -> Run:
    sealed = split.sealed()
    part = (
        sealed.train
        if fit_on == "train"
        else sealed.unseal(f"fit {type(model).__name__} on train+valid").fit_part(fit_on)
    )
    data = {
        **(source or {}),
        "split": split.name,
        "split_params": split.params,
        "split_hash": split.hash,
        "n_users": split.n_users,
        "n_items": split.n_items,
    }
    record = new_record(model, request, fit_on, data)
    record["unsealed"] = list(sealed.unsealed_reasons)
    begin = None
    if init_items[0] is not None:
        found = initial_items(init_items[0], sealed, init_items[1], fit_on)
        record["init_items"], begin = found.record, found.write
    with alone(request, record) as is_done:
        if not is_done:
            return _made(model, sealed, part, request, record, begin)
    assert request.folder is not None
    done = Run.open(request.folder, sealed)
    assert isinstance(done, Run)
    done.model.to(pick_device(request.device))
    return done


def _made(
    model: Model,
    sealed: SealedSplit,
    part: Part,
    request: Request,
    record: dict[str, Any],
    begin: Callable[[Model], None] | None,
) -> Run:
    config = request.config

    def validate() -> dict[str, float]:
        return validation(model, sealed.valid, config.metric, seen=config.select_seen, fit_part=part)

    with_validation = isinstance(model, TrainableModel) and config.metric != "loss" and record["fitted_on"] == "train"
    if with_validation:
        split_metric(config.metric)  # a name that does not exist is an error before anything is computed
        if not len(sealed.valid):
            raise ValueError(
                f"metric = {config.metric!r} needs users to validate on, and the valid part of split {sealed.name!r} "
                "is empty; use metric='loss' or another split"
            )
    build(model, _space(model, sealed, part), request, record, begin)
    fit_built(model, part, request, record, validate if with_validation else None)
    run = Run(model, sealed, record, request.folder)
    if request.folder is not None:
        run.save(request.folder / "bundle")
        run.write_record()
    return run


def _space(model: Model, split: SealedSplit, part: Part) -> Space:
    """The sizes; for a model that reads a graph also that of what is fitted to, with all side information."""
    sizes = {"n_users": split.n_users, "n_items": split.n_items}
    if not model.reads_graph:
        return Space(**sizes)
    return GraphSpace(**sizes, graph=HeteroGraph.from_interactions(split.interactions, part))
