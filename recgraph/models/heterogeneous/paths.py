"""Meta-paths and their twins, a second view of each: their settings, and the inputs that models
read from a graph.

For batches of nodes (:mod:`recgraph.models.heterogeneous.sampling`) contexts are not composed, and
a twin has the same pattern as its path, so that one sample of edges serves both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from recgraph import augment
from recgraph.augment.graph import GraphAugmentation
from recgraph.config import Config, PartConfig
from recgraph.graph.contexts import Layered, Walked
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath, MetaPathConfig, Route, propose, types_of
from recgraph.registry import part
from recgraph.rng import Generators
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import Chain, Normalisation, Placing, Sum, compress_rows, normalise
from recgraph.sparse.spmm import Operator

Features = Tensor | Csr | None
V = TypeVar("V", bound=Tensor | Csr)
#: the node types of recommenders
SIDES = ("user", "item")


class Paths(MetaPathConfig):
    """How the matrices of meta-paths are made; which paths there are is a setting of the model."""

    path: Annotated[str, Field(exclude=True, description="given by the model")] = ""
    weights: Annotated[bool, Field(exclude=True, description="of edges, where counts are full")] = (
        True
    )
    top_k: Annotated[
        int | tuple[int | None, ...] | None,
        Field(
            description="keep the k nodes most similar to each by PathSim: one k for all paths, or one a path"
        ),
    ] = None  # type: ignore[assignment]

    def made(self, metapaths: Sequence[str], **changes: Any) -> tuple[MetaPath, ...]:
        """The paths, each with its top-k."""
        paths = []
        for path, k in zip(metapaths, one_each("top_k", self.top_k, len(metapaths)), strict=True):
            config = self.model_copy(update={"path": path, "top_k": k, **changes})
            paths.append(MetaPath(config))
        return tuple(paths)


class Twins(Config):
    """The second view of each meta-path."""

    kind: Annotated[
        Literal["masked", "latent", "none"],
        Field(description="from masked features and edges, from a latent augmenter, or none"),
    ] = "masked"
    augmentations: Annotated[
        tuple[Annotated[PartConfig, part("augmentation")], ...],
        Field(
            description="of masked twins, one after the other; the ratio of edge_drop may be one a path (of "
            "recommenders: the users' paths, then the items'); of a factorised path share r of the edges of each of "
            "its n steps, so that (1 - r)^n of its ways are left"
        ),
    ] = (augment.FeatureMask(), augment.EdgeDrop())
    augmenter: Annotated[PartConfig, part("augmenter"), Field(description="of latent twins")] = (
        augment.MLP()
    )

    def masks(self, paths: Sequence[MetaPath]) -> Masks | None:
        """The augmentations that make the masked twins of these paths; None: twins are no masked
        ones.
        """
        if self.kind != "masked":
            return None
        masks = Masks(features=[], edges={path: [] for path in paths})
        for config in self.augmentations:
            if config.member.reads == "features":
                masks.features.append(config.build())
                continue
            ratios = one_each("ratio", getattr(config, "ratio", None), len(paths))
            for path, ratio in zip(paths, ratios, strict=True):
                # a factorised path has no entries of its own: its factors lose theirs, and keep
                # their weights
                is_composed = path.config.form != "factorised"
                augmentation = config.build(ratio=ratio, binary=is_composed, self_loops=is_composed)
                masks.edges[path].append(augmentation)
        return masks


def one_each(name: str, value: Any, n: int) -> tuple[Any, ...]:
    """One value for each of n paths or types."""
    if not isinstance(value, tuple):
        return (value,) * n
    if len(value) != n:
        raise ValueError(f"{name} = {value} has {len(value)} values; give one, or {n}, one each")
    return value


@dataclass(frozen=True, eq=False)
class PathInputs:
    """One meta-path over N target nodes.

    Attributes:
        name: as it was written.
        adjacency: [N, N], normalised; equal rows are held once where that pays (ACM's
            paper-subject-paper: 61 rows for 4,019). For a batch of nodes one a layer, of which the
            last has the batch's rows.
        masked: its masked twin, normalised; the adjacency itself where no twin is masked.
        contexts: (node type, [N, N_type] without weights) of each intermediate type, in the order
            of the path.
        loops: the twin's diagonal is 1 (before its scales) whatever ``masked`` has there; for
            sampled paths alone.
    """

    name: str
    adjacency: Operator | Layered
    masked: Operator | Layered
    contexts: tuple[tuple[str, Csr | Walked], ...]
    loops: bool = False

    def placed(self, place: Placing) -> PathInputs:
        """The path there."""
        return replace(
            self,
            adjacency=place(self.adjacency),
            masked=place(self.masked),
            contexts=tuple((node_type, place(reached)) for node_type, reached in self.contexts),
        )

    def with_loops(self) -> PathInputs:
        """The path with the diagonal that ``loops`` stands for in its twin."""
        if not self.loops:
            return self
        twin: Any = self.masked
        every = torch.arange(twin.shape[0] + 1, device=twin.device)
        diagonal = Chain((Csr(every, every[:-1], None, twin.shape),), twin.left, twin.right)
        return replace(self, masked=Sum((twin, diagonal), (1.0, 1.0)), loops=False)


@dataclass(frozen=True, eq=False)
class MetaPathInputs:
    """The inputs of a target type.

    Attributes:
        target: the node type that is embedded.
        features: node type -> [N_type, F] as they enter the type's layer, or None; for a batch of
            nodes [n] int64, their indices, where the type has no features.
        masked: the target's masked features; None where it has no features.
        paths: one or more.
    """

    target: str
    features: Mapping[str, Features]
    masked: Features
    paths: tuple[PathInputs, ...]

    def whole(self) -> MetaPathInputs:
        """The inputs of all nodes with all neighbours, for embeddings: with the diagonal of
        ``loops`` in twins.
        """
        return replace(self, paths=tuple(path.with_loops() for path in self.paths))

    @property
    def context_types(self) -> set[str]:
        """The node types that paths lead through."""
        types: set[str] = set()
        for path in self.paths:
            types |= dict(path.contexts).keys()
        return types

    def to(self, device: torch.device, dtype: torch.dtype) -> MetaPathInputs:
        """The inputs there; what paths, adjacencies, twins and features share is moved once and
        shared there, too.
        """
        place = Placing(device, dtype)
        features = {name: place(x) for name, x in self.features.items()}
        return MetaPathInputs(
            self.target, features, place(self.masked), tuple(map(place, self.paths))
        )


@dataclass(frozen=True)
class Masks:
    """Augmentations that make masked twins, one after the other.

    Attributes:
        features: of the target's features.
        edges: of the adjacency of each path; of a factorised path, of each of its factors, so that
            of ways of n steps ``(1 - ratio) ** n`` are left: 49 % where an edge drop leaves 70 % of
            a composed path's.
    """

    features: list[GraphAugmentation]
    edges: dict[MetaPath, list[GraphAugmentation]]


def read_graph(
    graph: HeteroGraph,
    target: str,
    paths: Sequence[MetaPath],
    features: Mapping[str, Features],
    generators: Generators,
    ties: torch.Generator,
    masks: Masks | None = None,
    sampled: bool = False,
    context_cap: int | None = None,
) -> MetaPathInputs:
    """The paths of a graph, their contexts, and their masked twins where there are masks.

    Args:
        generators: draw the masks.
        ties: draws the orders of ties.
        sampled: for batches of nodes: contexts are not composed, so that memory grows with the
            edges alone.
        context_cap: of these contexts, see :class:`recgraph.graph.contexts.Walked`.
    """
    known: dict[Route, Csr] = {}
    walked: dict[Route, Walked] = {}
    inputs = []
    for path in paths:
        plain: Csr | Chain
        if path.config.form == "factorised":
            plain = path.factorised(graph)
        else:
            plain = path.adjacency(graph, generator=ties)
        if sampled:
            contexts = _walked(path, graph, walked, context_cap)
        else:
            contexts = [(part.node_type, part.reached) for part in path.contexts(graph, known)]
        kind = path.config.normalisation
        adjacency = twin = _normalised(plain, kind, sampled)
        loops = False
        if masks is not None:
            factors = (plain,) if isinstance(plain, Csr) else plain.factors
            kept = _augmented(masks.edges[path], factors, generators, path.name)
            if sampled:
                loops = isinstance(plain, Csr) and bool((kept[0].diagonal() == 1).all())
                twin = _sampled_twin(factors, kept, kind, loops)
            elif isinstance(plain, Csr):
                twin = _composed_twin(plain, kept[0], kind)
            else:
                twin = normalise(Chain(kept, plain.left, plain.right), kind)
        inputs.append(
            PathInputs(
                name=path.name,
                adjacency=adjacency,
                masked=twin,
                contexts=tuple(contexts),
                loops=loops,
            )
        )
    masked = features[target]
    if masks is not None and masked is not None:
        (masked,) = _augmented(masks.features, (masked,), generators, target)
    return MetaPathInputs(target, features, masked, tuple(inputs))


def _walked(
    path: MetaPath, graph: HeteroGraph, known: dict[Route, Walked], cap: int | None
) -> list[tuple[str, Csr | Walked]]:
    """The contexts of a path, one object for paths that begin alike."""
    contexts: list[tuple[str, Csr | Walked]] = []
    route = path.route(graph)
    steps: tuple[Csr, ...] = ()
    for hop, step in enumerate(route[:-1], 1):
        matrix = step.followed(graph, path.config.weights).with_weights(None)
        steps = (*steps, matrix)
        context = known.setdefault(route[:hop], Walked(steps, cap))
        contexts.append((step.end, context))
    return contexts


def _normalised(plain: Csr | Chain, kind: Normalisation, sampled: bool) -> Operator:
    """A normalised adjacency: for samples a chain, else equal rows are held once where that
    pays.
    """
    if isinstance(plain, Chain):
        return normalise(plain, kind)
    if sampled:
        return normalise(Chain((plain,)), kind)
    return normalise(compress_rows(plain), kind)


def _augmented(
    augmentations: Sequence[GraphAugmentation],
    values: tuple[V, ...],
    generators: Generators,
    name: str,
) -> tuple[V, ...]:
    for number, augmentation in enumerate(augmentations):
        stream = augmentation.stream(generators, f"{name}/{number}" if number else name)
        values = tuple(augmentation(value, stream) for value in values)
    return values


def _composed_twin(plain: Csr, kept: Csr, kind: Normalisation) -> Operator:
    """The normalised twin of a composed path.

    Where a path has few distinct rows, its twin is cheapest as these rows minus the entries left
    out.
    """
    if kept.weights is None or bool((kept.weights == 1).all()):
        rows = compress_rows(plain.pattern())
        if isinstance(rows, Chain) and 2 * (rows.nnz + plain.nnz - kept.nnz) < plain.nnz:
            gone = difference(plain, kept)
            if 2 * (rows.nnz + gone.nnz) < plain.nnz:
                return normalise(Sum((rows, gone), (1.0, -1.0)), kind)
    return normalise(kept, kind, plain.values().dtype)


def difference(plain: Csr, kept: Csr) -> Csr:
    """``plain.pattern() - kept.pattern()`` of matrices [R, C] without duplicate entries: 1 and -1
    where they differ.
    """
    gone, added = ~_found(plain, kept), ~_found(kept, plain)
    weights = torch.ones(plain.nnz, dtype=plain.values().dtype, device=plain.device)[gone]
    return Csr.from_coo(
        torch.cat([plain.rows[gone], kept.rows[added]]),
        torch.cat([plain.indices[gone], kept.indices[added]]),
        torch.cat([weights, -weights.new_ones(int(added.sum()))]),
        shape=plain.shape,
    )


def _found(entries: Csr, among: Csr) -> Tensor:
    """[E] bool: which entries the other matrix has too; of several with one index, as many as it
    has.
    """
    keys, others = (matrix.rows * matrix.shape[1] + matrix.indices for matrix in (entries, among))
    number = torch.arange(len(keys), device=keys.device) - torch.searchsorted(keys, keys)
    return torch.searchsorted(others, keys) + number < torch.searchsorted(others, keys, right=True)


def _sampled_twin(
    factors: Sequence[Csr], kept: Sequence[Csr], kind: Normalisation, loops: bool
) -> Chain:
    """The normalised twin in the pattern of the path, with weight 0 for entries that are left out;
    ``loops`` as in :class:`PathInputs`.
    """
    marked = []
    for factor, view in zip(factors, kept, strict=True):
        keep_mask = _found(factor, view)
        values = view.values(factor.values().dtype)
        if loops:
            keep_mask = keep_mask & (factor.rows != factor.indices)
            values = values[view.rows != view.indices]
        if len(values) != int(keep_mask.sum()):
            raise ValueError(
                "mini_batch: augmentations may leave edges out and add all self-loops, but no other edges"
            )
        marks = torch.zeros(factor.nnz, dtype=values.dtype, device=factor.device)
        marks[keep_mask] = values
        marked.append(factor.with_weights(marks))
    twin = normalise(Chain(tuple(marked)), kind)
    if loops:
        scales = normalise(Chain(tuple(kept)), kind)
        twin = Chain(twin.factors, scales.left, scales.right)
    return twin


# -- the two sides of a recommender


def read_sides(
    graph: HeteroGraph,
    metapaths: Sequence[Sequence[str] | None],
    paths: Paths,
    twins: Twins,
    generators: Generators,
) -> tuple[MetaPathInputs, ...]:
    """The inputs of the views of users and of items.

    Args:
        metapaths: those of users and those of items; None: see :func:`side_paths`.
        generators: draw the orders of ties, and the masks of twins.
    """
    user_paths, item_paths = (
        side_paths(graph, side, names, paths) for side, names in zip(SIDES, metapaths, strict=True)
    )
    masks = twins.masks([*user_paths, *item_paths])
    ties = generators.fresh("ties")
    inputs = []
    for side, its_paths in zip(SIDES, (user_paths, item_paths), strict=True):
        of_side = read_graph(
            graph,
            side,
            paths=its_paths,
            features={side: None},
            generators=generators,
            ties=ties,
            masks=masks,
        )
        inputs.append(of_side)
    return tuple(inputs)


def side_paths(
    graph: HeteroGraph, side: str, metapaths: Sequence[str] | None, paths: Paths
) -> tuple[MetaPath, ...]:
    """The meta-paths of a side, by default relations within it and round trips to another type;
    those through other types alone are factorised.

    Raises:
        ValueError: there are none, or one leads elsewhere.
    """
    if metapaths is None:
        proposals = propose(graph, side, max_steps=2)
        metapaths = [
            proposal.path
            for proposal in proposals
            if side not in types_of(MetaPath(proposal.path).route(graph))[1:-1]
        ]
    if not metapaths:
        raise ValueError(f"{side}_metapaths: name at least one path, such as '{side}-x-{side}'")
    made: list[MetaPath] = []
    for name in metapaths:
        start, *between, end = types_of(MetaPath(name).route(graph))
        if (start, end) != (side, side):
            raise ValueError(f"{side}_metapaths: {name!r} does not lead from {side}s to {side}s")
        if not between:
            made += paths.made([name], top_k=None)
        elif set(between) & set(SIDES):
            made += paths.made([name])
        else:
            made += paths.made([name], top_k=None, form="factorised", counts="full")
    return tuple(made)
