"""What explanations and maps take of memory; what does not fit is refused before it is computed."""

from __future__ import annotations

import logging

from recgraph.evaluate.topk import CHUNK
from recgraph.explain.attribution.subject import MOST_CELLS
from recgraph.graph.hetero import HeteroGraph
from recgraph.memory import Estimate, check_estimate, resident
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.serve.memory import vector_width
from recgraph.serve.recommender import Recommender

__all__ = ["check_attribution", "check_explanation", "check_map", "check_node_explanation"]

#: bytes, measured: what polars' joins and torch's products begin to use, and what scikit-learn is, once it is imported
_LIBRARIES, _PROJECTIONS = 10 * 2**20, 72 * 2**20
#: of an edge: its adjacency and the transpose, which stay, and while these are sorted and the walks along it made
_OF_EDGE, _OF_WALKS = 45, 35
#: of a number of a vector: directions in float64, twice; and those that a projection is fitted to
_OF_DIRECTION, _OF_PROJECTION = 22, 22
#: of a score of a variant of the history: it, its softmax and its gradient
_OF_SCORE = 16
_log = logging.getLogger(__name__)


def check_explanation(recommender: Recommender, attributed: bool = False) -> None:
    """Refuse an explanation of recommendations for a user that does not fit.

    Args:
        attributed: whether recommendations are attributed to the history, too.

    Raises:
        MemoryLimitError: it does not fit.
    """
    model, n_items, width = recommender.model, len(recommender.items), _width(recommender)
    space = model.space
    if model.path_weights() and isinstance(space, GraphSpace):
        n_edges = _edges(space.graph)
    else:
        n_edges = recommender.seen.values.numel()
    held = _held(recommender) | {"paths": _OF_EDGE * n_edges}
    moments = {"walks along paths": _OF_WALKS * n_edges, "nearest items": _OF_DIRECTION * n_items * width}
    if attributed:
        moments["variants of the history"] = _variants(recommender, 256) + _OF_DIRECTION * n_items * width
    _check(held, moments, f"the explanation of {type(model).__name__}")


def check_attribution(recommender: Recommender, block_rows: int) -> None:
    """Refuse an attribution of recommendations to the history that does not fit.

    Args:
        block_rows: variants of the history that are computed at a time, at most.

    Raises:
        MemoryLimitError: it does not fit.
    """
    moments = {"variants of the history": _variants(recommender, block_rows)}
    _check(_held(recommender), moments, f"the attribution of {type(recommender.model).__name__}")


def _held(recommender: Recommender) -> dict[str, int]:
    """Bytes that are held throughout."""
    n_items = len(recommender.items)
    items = 24 * n_items + 4 * (n_items + CHUNK) * _width(recommender)
    return {"library and bundle": resident(), "libraries at work": _LIBRARIES, "items": items}


def _width(recommender: Recommender) -> int:
    """Of the model's vectors; 0 where it has none."""
    return vector_width(recommender.model) if recommender.model.has_vectors else 0


def _variants(recommender: Recommender, block_rows: int) -> int:
    """Bytes of the variants of a history that are in memory at a time."""
    config = recommender.model.config
    length = getattr(config, "max_len", 0)  # of a model of sequences, whose variants hold states and weights of pairs
    of_variant = max(len(recommender.items), length * max(length, getattr(config, "hidden_dim", 0)))
    return _OF_SCORE * max(min(block_rows * of_variant, MOST_CELLS), of_variant)


def check_node_explanation(graph: HeteroGraph, n_vectors: int, width: int) -> None:
    """Refuse an explanation of what is near a node of a graph that does not fit.

    Raises:
        MemoryLimitError: it does not fit.
    """
    n_edges = _edges(graph)
    held = {"library and bundle": resident(), "libraries at work": _LIBRARIES, "paths": _OF_EDGE * n_edges}
    moments = {"walks along paths": _OF_WALKS * n_edges, "nearest nodes": _OF_DIRECTION * n_vectors * width}
    _check(held, moments, "the explanation of a node")


def check_map(n_vectors: int, width: int) -> None:
    """Refuse a map of so many vectors that does not fit.

    Raises:
        MemoryLimitError: it does not fit.
    """
    held = {"library and bundle": resident(), "libraries at work": _PROJECTIONS}
    _check(held, {"directions": _OF_PROJECTION * n_vectors * width}, "the map", "leave it out (--map none), or draw it")


def _check(held: dict[str, int], moments: dict[str, int], what: str, way_out: str = "explain") -> None:
    check_estimate(Estimate(held, moments), what, lambda _: f"{way_out} where there is more memory", _log)


def _edges(graph: HeteroGraph) -> int:
    return sum(edges.adj.nnz for edges in graph.edges.values())
