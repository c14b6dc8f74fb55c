"""The meta-paths of the two sides of a recommendation, users and items, read from a graph."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath, propose
from recgraph.models.heterogeneous.paths import MetaPathInputs, read_graph
from recgraph.models.heterogeneous.settings import make_masks, make_paths
from recgraph.rng import Generators, derive

__all__ = ["SIDES", "choose_paths", "read_sides"]

SIDES = ("user", "item")


def read_sides(graph: HeteroGraph, config: Any, seed: int) -> tuple[MetaPathInputs, ...]:
    """The inputs of the views of users and of items; the seed draws the masks of their twins."""
    given = zip(SIDES, (config.user_metapaths, config.item_metapaths), strict=True)
    chosen = [choose_paths(graph, side, paths, config) for side, paths in given]
    drawn = Generators(derive(seed, "graph views"))
    ties = drawn.fresh("ties")
    read = [
        read_graph(graph, side, paths, {side: None}, generator=ties) for side, paths in zip(SIDES, chosen, strict=True)
    ]
    masks, n_users = make_masks([*chosen[0], *chosen[1]], config), len(chosen[0])
    if config.twin != "masked":
        return tuple(read)
    of_sides = (masks.edges[:n_users], masks.edges[n_users:])
    return tuple(replace(masks, edges=edges).draw(inputs, drawn) for inputs, edges in zip(read, of_sides, strict=True))


def choose_paths(graph: HeteroGraph, side: str, given: tuple[str, ...] | None, config: Any) -> tuple[MetaPath, ...]:
    """The meta-paths of a side; those through other types alone are factorised.

    Raises:
        ValueError: there are none, or one leads elsewhere.
    """
    names = _offered(graph, side) if given is None else given
    if not names:
        raise ValueError(f"{side}_metapaths: name at least one path, such as '{side}-x-{side}'")
    made: list[MetaPath] = []
    for name in names:
        route = MetaPath(name).route(graph)
        ends = (route[0].start, route[-1].end)
        if ends != (side, side):
            raise ValueError(f"{side}_metapaths: {name!r} leads from {ends[0]!r} to {ends[1]!r}, not between {side}s")
        through = {step.end for step in route[:-1]}
        shared = {"top_k": None} if not through else {"top_k": None, "form": "factorised", "counts": "full"}
        made += make_paths((name,), config if through & set(SIDES) else config.model_copy(update=shared))
    return tuple(made)


def _offered(graph: HeteroGraph, side: str) -> tuple[str, ...]:
    """Relations within a side, and round trips to another type."""
    routes = {found.path: MetaPath(found.path).route(graph) for found in propose(graph, side, max_steps=2)}
    return tuple(path for path, route in routes.items() if len(route) == 1 or route[0].end != side)
