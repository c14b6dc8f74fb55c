"""From a model and a typed graph to a run: what is fitted is the graph alone, without classes of its nodes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recgraph import registry
from recgraph.data.graph_card import GraphCard, NodeTaskFiles
from recgraph.data.graph_catalog import load_graph
from recgraph.data.hetero import HeteroGraph
from recgraph.data.sealing import without_test_data
from recgraph.fitting import Request, alone, build, fit_built, new_record
from recgraph.models.base import Model
from recgraph.models.base_graph import GraphModel, GraphSpace
from recgraph.node_run import NodeRun, ProbeSettings
from recgraph.serve.embedder import Embedder
from recgraph.train.config import GraphTrainConfig
from recgraph.train.observers import Observer
from recgraph.views.metapath import MetaPath

__all__ = ["check_task", "fit_graph", "train_nodes"]


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
    return _fit(model, graph, Request(config, seed, folder, device, resume, progress, observers), {}, {})


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
    assert isinstance(card.task, NodeTaskFiles)
    as_published = tuple(name for name, node in card.nodes.items() if node.features and not node.normalise)
    given = {name: value for name, value in settings.items() if name != "metapaths" or value}
    model = cls(**{"metapaths": card.task.paths, "raw_features": as_published, **given})
    evaluation = ProbeSettings.of(probe).model_dump(mode="json")
    graph = load_graph(dataset)
    target = _target(model, graph)
    if target != card.task.target:
        raise ValueError(
            f"metapaths = {model.config.metapaths} embed {target!r} nodes, but dataset {dataset!r} has classes of "
            f"{card.task.target!r} nodes; its own paths are {', '.join(card.task.paths)}"
        )
    return _fit(model, graph, request, {"dataset": dataset}, evaluation)


def _fit(
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


def check_task(cls: type[Model], dataset: str, card: GraphCard | None) -> None:
    """Refuse a model that recommends where there are classes of nodes, and the other way round.

    Raises:
        ValueError: names what to use.
    """
    of_nodes = card is not None and isinstance(card.task, NodeTaskFiles)
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
