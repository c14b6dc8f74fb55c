"""What meta-paths say of the category of a node."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from recgraph.contrast.views import About
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath

__all__ = ["about_nodes"]


def about_nodes(graph: HeteroGraph, node_type: str, paths: Sequence[MetaPath], left_out: Sequence[str] = ()) -> About:
    """The neighbours of each node over the first steps of its meta-paths, and its category among them.

    The categories are the nodes of the type of the fewest nodes that a first step leads to (subjects of papers, genres
    of films), numbered by their neighbours, most first; a node's category is its neighbour of the least number.

    Args:
        paths: from ``node_type``.
        left_out: types that are no categories.
    """
    steps = {step.end: step for step in (path.route(graph)[0] for path in paths)}
    counts = torch.zeros(graph.count(node_type))
    for step in steps.values():
        counts += step.matrix(graph).degrees.to(counts)
    offered = sorted((graph.count(name), name) for name in steps if name not in {node_type, *left_out})
    if not offered:
        return About(counts)
    n_categories, name = offered[0]
    adj = steps[name].matrix(graph)
    order = torch.argsort(torch.bincount(adj.indices, minlength=n_categories), descending=True, stable=True)
    number = torch.argsort(order)[adj.indices]
    none = torch.full((len(counts),), n_categories, device=adj.device)
    found = none.scatter_reduce(0, adj.rows, number, "amin")
    return About(counts, torch.where(found == n_categories, -1, found))
