"""Settings of the views over meta-paths, and the paths, twins and contrasts that are made by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from recgraph import registry
from recgraph import registry as _r
def make_augmentation(spec, **k):
    return _r.make('augmentation', spec, **k)
from recgraph.config import Added, Search
from recgraph.contrast.objectives import InfoNCE
from recgraph.contrast.term import ContrastiveTerm
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MaxMemoryMiB, MetaPath, Ties, propose
from recgraph.models.contrast import AugmentationSpec, ContrastConfig, contrastive_term
from recgraph.models.heterogeneous.paths import Masks, MetaPathInputs, read_graph
from recgraph.rng import Generators, derive
from recgraph.sparse.operators import Normalisation
from recgraph.sparse.products import Counts

TIES = (
    "of top_k, of equally similar nodes: keep those of the highest index, which says what the order of the file says; "
    "of the greatest cosine of features, then by index; or the last ones of an order that the seed draws for each path"
)
Ratio = Annotated[float, Field(ge=0, lt=1)]


class ViewsConfig(ContrastConfig):
    """Settings of meta-paths, of their twins (a second view of each path), and of the contrast."""

    top_k: Annotated[
        int | tuple[int | None, ...] | None,
        Field(description="keep the k nodes most similar to each by PathSim: one k for all paths, or one a path"),
    ] = None
    ties: Annotated[Ties, Field(description=TIES)] = "index"
    hub_cap: Annotated[
        int | None,
        Field(
            ge=1,
            description="of top_k: a node in the middle of a path that leads to more nodes than this is divided into "
            "random groups of so many, whose nodes alone are compared through it; none: all, at the cost of the square",
        ),
        Added(),
    ] = 4096
    counts: Annotated[Counts, Field(description="numbers of paths, or only whether there is one")] = "full"
    form: Annotated[
        Literal["composed", "factorised"],
        Field(description="'factorised' never makes a path's matrix; without top_k, with full counts"),
    ] = "composed"
    normalisation: Annotated[Normalisation, Field(description="of adjacencies; see recgraph.sparse.operators")] = "meow"
    max_memory_mib: MaxMemoryMiB = 4096
    twin: Annotated[
        Literal["masked", "latent", "none"],
        Field(description="second view of each path: from masked features and edges, from a latent augmenter, or none"),
    ] = "masked"
    context_dropout: Annotated[
        Literal["shared", "separate"],
        Field(description="of masked twins: drawn for a path and its twin together, or for each, as published"),
        Added(),
    ] = "shared"
    feature_mask: Annotated[
        float, Field(ge=0, lt=1, description="share of the target's features that are masked"), Search(0.0, 0.6)
    ] = 0.3
    edge_mask: Annotated[
        Ratio | tuple[Ratio, ...],
        Field(
            description="share of each path's edges that are masked: for all paths, or one a path (of recommenders: "
            "the users' paths, then the items'); of a factorised path share r of the edges of each of its n steps, so "
            "that (1 - r)^n of its ways are left"
        ),
    ] = 0.3
    augmentations: Annotated[
        tuple[AugmentationSpec, ...] | None,
        Field(
            description="of masked twins, one after the other: names of the registry, or mappings with name and "
            "settings; none: feature_mask and edge_drop. A ratio that is not given is feature_mask or edge_mask"
        ),
        Added(),
    ] = None
    redraw_masks: Annotated[bool, Field(description="draw masks at every step; False: once, as published")] = False
    augmenter: Annotated[str, Field(description="of latent twins, a name of the registry's kind 'augmenter'")] = "mlp"
    augmenter_options: Annotated[
        dict[str, Any], Field(default_factory=dict, description="further settings of the augmenter"), Added()
    ]
    encoder_options: Annotated[
        dict[str, Any], Field(default_factory=dict, description="settings of the views' encoder"), Added()
    ]
    objective: Annotated[
        str,
        Field(description="how anchors and candidates are chosen, a name of the registry's kind 'objective'"),
        Added(),
    ] = "info_nce"
    similarity: Annotated[
        Literal["dot", "cosine"], Field(description="of the contrastive term, between projections of length 1"), Added()
    ] = "dot"
    temperature: Annotated[
        float, Field(gt=0, description="tau, of the contrastive similarities"), Search(0.1, 2.0, log=True)
    ] = 0.5
    block_rows: Annotated[
        int | None, Field(ge=1, description="anchors of the contrast in memory at once; none: by the cache")
    ] = None
    projection_dim: Annotated[
        int | None, Field(ge=1, description="width of the projection; none: that of the embeddings")
    ] = None


def make_paths(metapaths: tuple[str, ...], config: ViewsConfig) -> tuple[MetaPath, ...]:
    """The paths with the settings' form, counts and top-k.

    Raises:
        ValueError: another number of values than paths.
    """
    names = ("counts", "ties", "hub_cap", "form", "normalisation", "max_memory_mib")
    shared = {name: getattr(config, name) for name in names}
    each = _each("top_k", config.top_k, len(metapaths))
    return tuple(MetaPath(path, top_k=k, **shared) for path, k in zip(metapaths, each, strict=True))


def make_masks(paths: Sequence[MetaPath], config: ViewsConfig, sampled: bool = False) -> Masks:
    """The augmentations that make masked twins.

    Args:
        sampled: the twins are for batches of nodes.

    Raises:
        ValueError: another number of values than paths, or an augmentation that is not one of graphs.
    """
    specs = ("feature_mask", "edge_drop") if config.augmentations is None else config.augmentations
    redraw = config.redraw_masks
    of_features = [make_augmentation(spec, ratio=config.feature_mask, redraw=redraw) for spec in specs]
    edges = []
    for path, ratio in zip(paths, _each("edge_mask", config.edge_mask, len(paths)), strict=True):
        # a factorised path has no entries of its own: its factors lose theirs, and keep their weights
        composed = path.config.form != "factorised"
        given = {"ratio": ratio, "redraw": redraw, "binary": composed, "self_loops": composed}
        made = [make_augmentation(spec, **given) for spec in specs]
        edges.append(tuple(one for one in made if one.reads == "adjacency"))
    features = tuple(one for one in of_features if one.reads == "features")
    return Masks(features, tuple(edges), config.normalisation, sampled)


def make_contrast(config: ViewsConfig, dim: int, info_nce: Mapping[str, Any], **other: Any) -> ContrastiveTerm:
    """The contrast of the projected views, 0 where no anchor has a candidate (a batch inside one cluster).

    Args:
        dim: D, the width of the projections.
        info_nce: the model's settings of the objective where that is InfoNCE, or one made of it.
        other: settings of the term that differ from the model's.
    """
    own = info_nce if issubclass(registry.load("objective", config.objective), InfoNCE) else {}
    return contrastive_term(config, dim, {"block_rows": config.block_rows, "if_none": "zero", **own}, **other)


def _each(name: str, value: Any, n_paths: int) -> tuple[Any, ...]:
    """One value a path."""
    if not isinstance(value, tuple):
        return (value,) * n_paths
    if len(value) != n_paths:
        raise ValueError(f"{name} = {value} has {len(value)} values for {n_paths} meta-paths; give one, or one a path")
    return value


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
