"""Settings of MEOW and AdaMEOW as recommenders, and the meta-paths of users and of items."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from recgraph.augment.graph import make_augmentation
from recgraph.config import Search
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath, propose
from recgraph.models.collaborative.lightgcn import LightGCNConfig
from recgraph.models.heterogeneous.paths import MetaPathInputs, read_graph
from recgraph.models.heterogeneous.views import ViewsConfig, make_masks, make_paths
from recgraph.rng import Generators, derive
from recgraph.sparse.products import Counts

SIDES = ("user", "item")


class MetaPathRecommenderConfig(ViewsConfig, LightGCNConfig):
    user_metapaths: Annotated[
        tuple[str, ...] | None,
        Field(description="paths from users to users; none: relations of users, and all round trips to another type"),
    ] = None
    item_metapaths: Annotated[
        tuple[str, ...] | None,
        Field(description="paths from items to items; none: relations of items, and all round trips to another type"),
    ] = None
    top_k: Annotated[
        int | None,
        Field(
            ge=1,
            description="each node's so many most similar by PathSim are kept, of round trips to the other side; "
            "paths through what users or items have in common are factorised, and whole",
        ),
        Search(low=5, high=100, log=True),
    ] = 20
    counts: Annotated[
        Counts,
        Field(
            description="numbers of paths, or only whether there is one; paths through what users or items have in "
            "common have numbers"
        ),
    ] = "full"
    normalisation: Annotated[
        Literal["meow", "symmetric", "row", "column"], Field(description="of the paths' adjacencies")
    ] = "symmetric"
    view_encoder: Annotated[
        str,
        Field(
            description="of the views: 'light', products with adjacencies alone (as LightGCN), or a name of the "
            "registry's graph encoders: 'gcn' is MEOW's"
        ),
    ] = "light"
    recommend_by: Annotated[
        Literal["interactions", "fine", "both"],
        Field(
            description="the vectors that scores are made of: propagated from the nodes' own vectors, from their fine "
            "view, or from the sum"
        ),
        Search(choices=("interactions", "fine", "both")),
    ] = "both"
    dropout: Annotated[float, Field(ge=0, lt=1, description="of contexts and attention"), Search(0.0, 0.5)] = 0.1
    contrast_weight: Annotated[
        float, Field(ge=0, description="weight of the contrast of the views"), Search(1e-3, 0.5, log=True)
    ] = 0.02
    temperature: Annotated[
        float, Field(gt=0, description="of the contrastive similarities"), Search(0.05, 1.0, log=True)
    ] = 0.2

    @model_validator(mode="after")
    def _has_effect(self) -> MetaPathRecommenderConfig:
        if self.redraw_masks:
            raise ValueError("redraw_masks = True: recommenders draw their masks of edges once; leave it out")
        if self.projection_dim is not None and self.view_encoder == "light":
            raise ValueError(
                f"projection_dim = {self.projection_dim} needs view_encoder = 'gcn': the views of 'light' have no "
                "projection"
            )
        return self


def read_sides(graph: HeteroGraph, config: MetaPathRecommenderConfig, seed: int) -> tuple[MetaPathInputs, ...]:
    """What is read from the graph for users and for items; the masks of their twins are drawn with the seed."""
    given = zip(SIDES, (config.user_metapaths, config.item_metapaths), strict=True)
    chosen = [choose_paths(graph, side, paths, config) for side, paths in given]
    read = [read_graph(graph, side, paths, {side: None}) for side, paths in zip(SIDES, chosen, strict=True)]
    if config.augmentations is not None and any(
        make_augmentation(spec).reads == "features" for spec in config.augmentations
    ):
        raise ValueError(
            "augmentations: recommenders mask the vectors of nodes by feature_mask; name those of edges alone"
        )
    masks, n_users = make_masks([*chosen[0], *chosen[1]], config), len(chosen[0])
    if config.twin != "masked":
        return tuple(read)
    drawn = Generators(derive(seed, "graph views"))
    of_sides = (masks.edges[:n_users], masks.edges[n_users:])
    return tuple(replace(masks, edges=edges).draw(inputs, drawn) for inputs, edges in zip(read, of_sides, strict=True))


def choose_paths(graph: HeteroGraph, side: str, given: tuple[str, ...] | None, config: Any) -> tuple[MetaPath, ...]:
    """The meta-paths of a side, those with a type in common with neither side factorised.

    Raises:
        ValueError: there are none, or one leads elsewhere.
    """
    names = _offered(graph, side) if given is None else given
    if not names:
        raise ValueError(f"{side}_metapaths: the graph offers none; give at least one path, such as '{side}-x-{side}'")
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
