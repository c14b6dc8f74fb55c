"""Meta-paths as texts and as routes: the edge types that they follow, each forwards or backwards."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.schema import EdgeType, UnknownTypeError
from recgraph.sparse.blocks import work_type
from recgraph.sparse.csr import Csr


class PathError(ValueError):
    """A meta-path that is not written as one, or that the graph does not have."""


@dataclass(frozen=True)
class Step:
    """One edge type, walked from its source to its target or back."""

    edge_type: EdgeType
    backwards: bool = False

    @property
    def start(self) -> str:
        return self.edge_type[2 if self.backwards else 0]

    @property
    def end(self) -> str:
        return self.edge_type[0 if self.backwards else 2]

    @property
    def reversed(self) -> Step:
        return Step(self.edge_type, not self.backwards)

    def matrix(self, graph: HeteroGraph) -> Csr:
        """[N_start, N_end]."""
        adj = graph.adjacency(self.edge_type)
        return adj.t() if self.backwards else adj

    def followed(self, graph: HeteroGraph, weights: bool) -> Csr:
        """:meth:`matrix` as a path follows it: with weights no edge of weight 0 is one, without them all are alike.

        Weights of half precision are widened: their products and sums soon exceed what it holds.
        """
        adj = self.matrix(graph)
        if not weights or adj.weights is None:
            return adj.with_weights(None)
        if (wide := work_type(adj.weights)) != adj.weights.dtype:  # else it keeps what it has computed
            adj = adj.with_weights(adj.weights.to(wide))
        is_edge = adj.values() != 0
        return adj if bool(is_edge.all()) else adj.select(is_edge)

    def edges(self, graph: HeteroGraph) -> Csr:
        """:meth:`matrix` without weights: an edge of weight 0 is none, all others are alike."""
        return self.followed(graph, weights=True).with_weights(None)

    def __str__(self) -> str:
        source, relation, target = self.edge_type
        return f"{target}<{relation}<{source}" if self.backwards else f"{source}>{relation}>{target}"


Route = tuple[Step, ...]


def distinct_steps(graph: HeteroGraph) -> dict[Step, Step]:
    """Every step of a graph -> the first one with the same ends that follows the same edges.

    A graph may hold a relation in both directions (as PyTorch Geometric's ``ToUndirected`` makes it): the one backwards
    is then the other forwards.
    """
    found: dict[Step, Step] = {}
    kept: dict[tuple[str, str], list[tuple[Step, Csr]]] = {}
    for backwards in (False, True):
        for edge_type in graph.edges:
            step = Step(edge_type, backwards)
            adj, others = step.followed(graph, weights=True), kept.setdefault((step.start, step.end), [])
            found[step] = next((other for other, known in others if _are_same(adj, known)), step)
            if found[step] is step:
                others.append((step, adj))
    return found


def _are_same(one: Csr, other: Csr) -> bool:
    if not (torch.equal(one.indptr, other.indptr) and torch.equal(one.indices, other.indices)):
        return False
    return bool((one.values() == other.values()).all())


def parse(path: str | Sequence[EdgeType], graph: HeteroGraph) -> Route:
    """The route that a meta-path means in a graph.

    Args:
        path: ``"paper-author-paper"``, where each pair of types is joined by one edge type, forwards if there is one
            in that direction and else backwards; or ``"user>rates>item<rates<user"``, which names relations and
            directions; or a list of edge types that follow each other, each walked in the direction that fits.

    Raises:
        PathError: it is not of one of these forms, or two types are joined by no or by several edge types.
    """
    if not isinstance(path, str):
        return _from_edge_types([(source, relation, target) for source, relation, target in path], graph)
    if "<" in path or ">" in path:
        return _from_arrows(path, graph)
    names = [name.strip() for name in path.split("-")]
    if len(names) < 2:
        raise PathError(f"path = {path!r} must join at least two node types, as 'paper-author-paper' does")
    for name in names:
        graph.count(name)
    return tuple(_join(a, b, path, graph) for a, b in pairwise(names))


def _join(start: str, end: str, path: str, graph: HeteroGraph) -> Step:
    forwards = [Step(edge_type) for edge_type in graph.edges if (edge_type[0], edge_type[2]) == (start, end)]
    backwards = [Step(edge_type, True) for edge_type in graph.edges if (edge_type[2], edge_type[0]) == (start, end)]
    found = forwards or backwards
    if len(found) == 1:
        return found[0]
    if not found:
        raise PathError(f"path = {path!r}: no edge type joins {start!r} and {end!r}")
    choices = " or ".join(f"'{step}'" for step in found)
    raise PathError(f"path = {path!r}: several edge types join {start!r} and {end!r}; write {choices}")


def _from_arrows(path: str, graph: HeteroGraph) -> Route:
    parts = [part.strip() for part in re.split(r"([<>])", path)]
    names, arrows = parts[::2], parts[1::2]
    if len(names) < 3 or len(names) % 2 == 0 or arrows[::2] != arrows[1::2] or "" in names:
        raise PathError(f"path = {path!r} must be of the form 'user>rates>item<rates<user'")
    steps = []
    for start, relation, end, arrow in zip(names[::2], names[1::2], names[2::2], arrows[::2], strict=False):
        step = Step((start, relation, end)) if arrow == ">" else Step((end, relation, start), True)
        graph.adjacency(step.edge_type)
        steps.append(step)
    return tuple(steps)


def _from_edge_types(edge_types: Sequence[EdgeType], graph: HeteroGraph) -> Route:
    for edge_type in edge_types:
        graph.adjacency(edge_type)
    # the first may be walked in either direction: the one from which all others can follow
    for first in (Step(edge_types[0]), Step(edge_types[0], True)):
        route = [first]
        for edge_type in edge_types[1:]:
            route += _following(route[-1], edge_type)[:1]
        if len(route) == len(edge_types):
            return tuple(route)
    raise PathError(f"path = {list(edge_types)}: each edge type must begin or end where the one before it ends")


def _following(before: Step, edge_type: EdgeType) -> list[Step]:
    """The ways to walk an edge type from where a step ends; first the one that walks that very step back."""
    both = [before.reversed] if edge_type == before.edge_type else []
    both += [Step(edge_type), Step(edge_type, True)]
    return [step for step in both if step.start == before.end]


def types_of(route: Route) -> list[str]:
    """The node types along a route, both ends among them."""
    return [route[0].start, *(step.end for step in route)]


def is_palindrome(route: Route) -> bool:
    """Whether the second half walks the first one back, so that the product is ``B B^T``."""
    return len(route) % 2 == 0 and all(a == b.reversed for a, b in zip(route, reversed(route), strict=True))


def text_of(route: Route, graph: HeteroGraph) -> str:
    """A text that :func:`parse` reads as this route: the types alone where that is enough."""
    short = "-".join(types_of(route))
    try:
        if parse(short, graph) == route:
            return short
    except (PathError, UnknownTypeError):
        pass
    return types_of(route)[0] + "".join(str(step).removeprefix(step.start) for step in route)
