"""``explain_node``: which nodes a model places next to a node, and what they share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from recgraph.explain.evidence import Walks, evidence_between
from recgraph.explain.explanation import Near, Neighbour, Node, NodeExplanation, PathWeight
from recgraph.explain.names import about, index_of, node_of
from recgraph.explain.user import load_run, nearest
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.serve.embedder import Embedder

__all__ = ["HasEmbedder", "embedder_of", "explain_node", "graph_of"]


@runtime_checkable
class HasEmbedder(Protocol):
    """A :class:`recgraph.runs.run.NodeRun`."""

    embedder: Embedder


def embedder_of(run: Any) -> Embedder:
    """The embeddings of a run.

    Args:
        run: a :class:`recgraph.runs.run.NodeRun`, an embedder, or the folder of a run or of a bundle.

    Raises:
        ValueError: it has none.
    """
    found = load_run(run) if isinstance(run, str | Path) else run
    if isinstance(found, HasEmbedder):
        found = found.embedder
    if not isinstance(found, Embedder):
        raise ValueError(
            f"run is a {type(found).__name__}, which embeds no nodes of a graph; for the users of a recommender see "
            "explain (`recgraph inspect RUN --user ID`)"
        )
    return found


def graph_of(embedder: Embedder) -> HeteroGraph:
    """The graph that a model of nodes was built for."""
    space = embedder.model.space
    assert isinstance(space, GraphSpace)
    return space.graph.to("cpu")


def explain_node(run: Any, node: Any, k: int = 10, *, n_paths: int = 3) -> NodeExplanation:
    """The nodes nearest to a node by their embeddings, and the contexts that they share along each meta-path.

    Args:
        run: a :class:`recgraph.runs.run.NodeRun`, an embedder, or the folder of a run or of a bundle.
        node: the id of a node of the embedded type; its index where the graph has no ids.
        k: how many nearest nodes.
        n_paths: the most whole paths of two nodes and a meta-path.

    Raises:
        ValueError: the node is not known (names the nearest ids), there is no bundle, or a number is too small.
    """
    for name, value in (("k", k), ("n_paths", n_paths)):
        if value < 1:
            raise ValueError(f"{name} = {value} must be at least 1")
    embedder = embedder_of(run)
    graph, target = graph_of(embedder), embedder.target
    index = index_of(graph.nodes[target].ids, graph.count(target), node, target)

    def name_of(node_type: str, place: int) -> Node:
        return node_of(graph, node_type, place)

    (found,) = nearest(embedder.vectors, torch.tensor([index]), k)
    weights = embedder.model.view_weights()
    others = [place for place, _ in found]
    evidence = [
        evidence_between(Walks(view.path, graph), index, others, weight, name_of, n_paths)
        for view, weight in weights.items()
    ]
    neighbours = tuple(
        Neighbour(
            rank + 1,
            Near(name_of(target, place), cosine),
            tuple(sorted((e for each in evidence if (e := each[rank]) is not None), key=lambda one: -one.score)),
        )
        for rank, (place, cosine) in enumerate(found)
    )
    model = embedder.model
    return NodeExplanation(
        model=type(model).__name__,
        dataset=embedder.record.get("data", {}).get("dataset"),
        node=name_of(target, index),
        about=about(graph, target, index),
        neighbours=neighbours,
        views=tuple(PathWeight(view.node_type, view.path, weight) for view, weight in weights.items()),
        notes=() if weights else (f"{type(model).__name__} has no meta-paths",),
    )
