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
    steps = dict.fromkeys(path.route(graph)[0] for path in paths)
    counts = torch.zeros(graph.count(node_type))
    for step in steps:
        counts += step.followed(graph, weights=True).degrees.to(counts)
    ends = {step.end for step in steps} - {node_type, *left_out}
    offered = sorted((graph.count(name), name) for name in ends)
    if not offered:
        return About(counts)
    n_categories, name = offered[0]
    # more than one relation may lead to the type
    matrices = [step.followed(graph, weights=True) for step in steps if step.end == name]
    rows, categories = (torch.cat(parts) for parts in zip(*((adj.rows, adj.indices) for adj in matrices), strict=True))
    order = torch.argsort(torch.bincount(categories, minlength=n_categories), descending=True, stable=True)
    none = torch.full((len(counts),), n_categories, device=rows.device)
    found = none.scatter_reduce(0, rows, torch.argsort(order)[categories], "amin")
    return About(counts, torch.where(found == n_categories, -1, found))
