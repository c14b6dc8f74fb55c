"""Meta-paths that a schema offers, with how many target nodes each relates and how densely."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from recgraph.data.hetero import HeteroGraph
from recgraph.sparse.compose import compose
from recgraph.sparse.csr import Csr
from recgraph.views._factors import Cost, estimate_cost, estimate_nnz, steps_of
from recgraph.views._route import Route, Step, text_of

__all__ = ["Proposal", "propose"]

# A half of a path with more entries than this is not made to find out which nodes it relates; all paths count then.
_MAX_HALF = 1 << 25


@dataclass(frozen=True)
class Proposal:
    """A meta-path from the target type to itself.

    Attributes:
        path: as :class:`MetaPath` reads it.
        coverage: the share of target nodes that it relates to another one.
        density: estimated entries per place.
        cost: before any top-k.
    """

    path: str
    coverage: float
    density: float
    cost: Cost

    @property
    def score(self) -> float:
        """``coverage * (1 - density)``: a path that relates nobody, or everybody to everybody, tells nothing."""
        return self.coverage * (1 - min(self.density, 1.0))


def propose(graph: HeteroGraph, target: str, max_steps: int = 4) -> list[Proposal]:
    """All symmetric meta-paths of the target type, and its edges to itself, the best by :attr:`Proposal.score` first.

    Symmetric paths walk some steps out and the same steps back; those whose way out comes back over the very edge type
    that it has just taken are left out (``paper-author-paper-author-paper`` is a power of ``paper-author-paper``).

    Args:
        target: the node type at both ends.
        max_steps: the most steps of a path, at least 1.

    Raises:
        ValueError: ``max_steps`` is below 1; or the graph has no such type.
    """
    if max_steps < 1:
        raise ValueError(f"max_steps = {max_steps} must be at least 1")
    graph.count(target)
    direct = [(Step(edge_type),) for edge_type in graph.edges if edge_type[0] == edge_type[2] == target]
    round_trips = [
        half + tuple(step.reversed for step in reversed(half)) for half in _ways_out(graph, target, max_steps)
    ]
    found = [_judge(graph, route) for route in (*direct, *round_trips)]
    return sorted(found, key=lambda proposal: (-proposal.score, len(proposal.path), proposal.path))


def _ways_out(graph: HeteroGraph, target: str, max_steps: int) -> Iterator[Route]:
    walks: list[Route] = [(step,) for step in _steps_from(graph, target)]
    for _ in range(max_steps // 2):
        yield from walks
        walks = [
            (*walk, step) for walk in walks for step in _steps_from(graph, walk[-1].end) if step != walk[-1].reversed
        ]


def _steps_from(graph: HeteroGraph, start: str) -> list[Step]:
    every = [Step(edge_type, backwards) for edge_type in graph.edges for backwards in (False, True)]
    return [step for step in every if step.start == start]


def _judge(graph: HeteroGraph, route: Route) -> Proposal:
    steps = steps_of(route, graph, weights=False)
    path = text_of(route, graph)
    cost = estimate_cost(path, route, steps, "full", None)
    return Proposal(path, _coverage(route, steps), cost.density, cost)


def _coverage(route: Route, steps: list[Csr]) -> float:
    """The share of nodes with a path to another node."""
    if len(route) == 1:
        others = steps[0].with_diagonal(None)
        return _share(others.degrees > 0)
    half = steps[: len(steps) // 2]
    if estimate_nnz(half)[0] > _MAX_HALF:
        return _share(steps[0].degrees > 0)
    reached = half[0].pattern()
    for step in half[1:]:
        reached = compose(reached, step, "binary")
    # a node is related to another where it reaches something that another reaches too
    shared = (reached.t().degrees > 1).to(torch.float64)
    return _share(reached.with_weights(shared[reached.indices]).row_sums() > 0)


def _share(mask: torch.Tensor) -> float:
    return float(mask.to(torch.float64).mean()) if mask.numel() else 0.0
