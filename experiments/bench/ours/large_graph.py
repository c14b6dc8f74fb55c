"""A generated graph of papers, authors and terms: communities to be found, degrees as skewed as in real ones."""

from __future__ import annotations

import torch
from torch import Tensor

from recgraph.graph.hetero import HeteroGraph
from recgraph.rng import derive

#: per paper: authors and terms, edges of each of the two types
OTHERS, EDGES = 2.5, 25
COMMUNITIES, WITHIN, NOISE = 20, 0.6, 4.0


def generate(n_targets: int, seed: int = 0) -> tuple[HeteroGraph, Tensor]:
    """The graph and the community of each paper.

    Nodes of number i are of community ``i % 20``. 60 % of the edges stay within a community. Ends of edges are drawn
    with a density that falls with the square root of a node's rank: of 500,000 authors the first has 7,000 papers, half
    have at most eight. Features are noisy directions of the communities.
    """
    draw = torch.Generator().manual_seed(derive(seed, "large graph", n_targets))
    n_others, n_edges = int(OTHERS * n_targets), EDGES * n_targets
    pairs = {}
    for relation, other in (("by", "author"), ("about", "term")):
        # every paper once, the rest skewed, so that none is isolated
        papers = torch.cat([torch.arange(n_targets), _skewed(n_targets, n_edges - n_targets, draw)])
        ends = _skewed(n_others, n_edges, draw)
        within = torch.rand(n_edges, generator=draw) < WITHIN
        moved = (ends - ends % COMMUNITIES + papers % COMMUNITIES).clamp(max=n_others - 1)
        pairs["paper", relation, other] = papers, torch.where(within, moved, ends)
    counts = {"paper": n_targets, "author": n_others, "term": n_others}
    features = {name: _features(count, 64 if name == "paper" else 16, draw) for name, count in counts.items()}
    graph = HeteroGraph.from_edge_lists(counts, pairs, features=features)
    return graph, torch.arange(n_targets) % COMMUNITIES


def _skewed(n: int, count: int, draw: torch.Generator) -> Tensor:
    return (torch.rand(count, generator=draw, dtype=torch.float64).square_() * n).to(torch.int64)


def _features(n: int, width: int, draw: torch.Generator) -> Tensor:
    directions = torch.randn(COMMUNITIES, width, generator=draw)
    noise = torch.randn(n, width, generator=draw)
    return noise.mul_(NOISE).add_(directions[torch.arange(n) % COMMUNITIES])
