"""Meta-paths: from a line of schema to adjacencies, similar nodes and contexts; and which ones a graph offers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field

from recgraph.config import Added, Config, Search, configure
from recgraph.graph.contexts import Context
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.pathsim import Cost, estimate_cost, estimate_nnz, halves, pathsim_top_k, steps_of
from recgraph.graph.route import PathError, Route, Step, distinct_steps, parse, text_of, types_of
from recgraph.graph.schema import EdgeType
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import Chain, Normalisation, compress_rows, normalise
from recgraph.sparse.products import Counts, compose
from recgraph.sparse.spmm import Operator

__all__ = [
    "Context",
    "Cost",
    "MaxMemoryMiB",
    "MetaPath",
    "MetaPathConfig",
    "PathError",
    "PathTooLargeError",
    "Proposal",
    "Ties",
    "propose",
]


#: MiB that a path or context may take, a setting of paths and of models of paths
MaxMemoryMiB = Annotated[float, Field(gt=0, description="a path or context that needs more is refused")]
#: how nodes that are equally similar to another one are told apart
Ties = Literal["index", "cosine", "random"]

_MIB = 2**20


class PathTooLargeError(PathError):
    """A meta-path that would need more memory than the setting allows."""


class MetaPathConfig(Config):
    path: Annotated[
        str | tuple[EdgeType, ...],
        Field(description="'paper-author-paper', 'user>rates>item<rates<user' or a list of edge types"),
    ]
    counts: Annotated[
        Counts, Field(description="'full': the number of paths, or the sum of their products of weights; 'binary': 1")
    ] = "full"
    weights: Annotated[
        bool,
        Field(description="full counts multiply the weights of edges, of which 0 is no edge; False: each counts 1"),
    ] = True
    top_k: Annotated[
        int | None,
        Field(ge=1, description="keep each node's so many most similar by PathSim; None keeps all"),
        Search(low=5, high=1000, log=True),
    ] = None
    ties: Annotated[
        Ties,
        Field(
            description="of equal PathSim at the cut: 'index' keeps the highest indices, 'cosine' the nodes of the "
            "most similar features, then the highest indices, 'random' the last ones of a random order of the nodes"
        ),
    ] = "index"
    hub_cap: Annotated[
        int | None,
        Field(
            ge=1,
            description="PathSim divides a node in the middle of the path that leads to more nodes than this into "
            "random groups of so many, whose nodes alone are compared through it; none: all, at the cost of the square",
        ),
        Added(),
    ] = 4096
    form: Annotated[
        Literal["composed", "compressed", "factorised"],
        Field(
            description="'compressed' holds equal rows of the composed matrix once; 'factorised' never makes it, "
            "and knows neither top_k nor binary counts"
        ),
    ] = "composed"
    normalisation: Annotated[Normalisation, Field(description="see recgraph.sparse.operators")] = "meow"
    max_memory_mib: MaxMemoryMiB = 4096


class MetaPath:
    """A meta-path, on any graph that has its types.

    ``MetaPath("paper-author-paper", top_k=110)(graph)`` is what a graph convolution multiplies with.

    Source: MEOW (SDM 2023), sections 4.1 and 4.2; PathSim (VLDB 2011). Departures: ties at the top-k cut are broken as
    ``ties`` says (the published code's sort is not stable, and keeps neighbours in the file: where a file lies in the
    order of classes, as ACM's and AMiner's do, ties by index tell the class); contexts follow from the path, for every
    intermediate type and hop.

    Args:
        path: see :func:`recgraph.graph.route.parse`; or a config as the only argument.
        settings: the other settings by name, see :class:`MetaPathConfig`.

    Raises:
        ConfigError: a setting that does not exist, or its value is not allowed.
        PathError: top-k or binary counts of a factorised path.
    """

    target: ClassVar[str] = "graph"
    Config: ClassVar[type[MetaPathConfig]] = MetaPathConfig

    def __init__(
        self, path: str | tuple[EdgeType, ...] | list[EdgeType] | MetaPathConfig | None = None, /, **settings: Any
    ) -> None:
        config = path if isinstance(path, MetaPathConfig) else None
        if path is not None and config is None:
            settings["path"] = path
        self.config: MetaPathConfig = configure(self, MetaPathConfig, config, settings)
        if self.config.form == "factorised" and (self.config.top_k is not None or self.config.counts == "binary"):
            raise PathError(f"path {self.name!r}: form='factorised' takes neither top_k nor counts='binary'")

    @property
    def name(self) -> str:
        """The path as a text."""
        path = self.config.path
        return path if isinstance(path, str) else ",".join("|".join(edge_type) for edge_type in path)

    def __repr__(self) -> str:
        return f"MetaPath({self.name!r}, counts={self.config.counts!r}, top_k={self.config.top_k})"

    def route(self, graph: HeteroGraph) -> Route:
        """The edge types that the path follows.

        Raises:
            PathError, UnknownTypeError: the graph does not have the path.
        """
        return parse(self.config.path, graph)

    def cost(self, graph: HeteroGraph) -> Cost:
        """Entries and memory, before anything is made (print it)."""
        route = self.route(graph)
        steps = steps_of(route, graph, self.config.weights, self.config.counts)
        return estimate_cost(self.name, route, steps, self.config.counts, self.config.top_k)

    def counts(self, graph: HeteroGraph) -> Csr:
        """[N_start, N_end]: the counts of all paths, one entry a pair (no weights where counts are binary).

        Raises:
            PathError: full counts of edges of negative weight.
            PathTooLargeError: that would need more than ``max_memory_mib``.
        """
        parts = self._parts(graph, None)
        return parts[0] if len(parts) == 1 else compose(parts[0], parts[1], self.config.counts)

    def adjacency(self, graph: HeteroGraph, generator: torch.Generator | None = None) -> Csr:
        """The counts, after the top-k by PathSim where one is asked for; not normalised.

        Args:
            generator: draws the order of ``ties="random"``; on any device.

        Raises:
            PathError: a top-k of a path whose ends are of different types, or ties by features that are not there.
            PathTooLargeError: it would need more than ``max_memory_mib``.
        """
        if self.config.top_k is None:
            return self.counts(graph)
        types = types_of(self.route(graph))
        if types[0] != types[-1]:
            raise PathError(f"path {self.name!r}: top_k needs PathSim, which compares nodes of one type, not {types}")
        features = graph.features(types[0]) if self.config.ties == "cosine" else None
        if features is None and self.config.ties == "cosine":
            raise PathError(f"path {self.name!r}: ties='cosine' needs features of {types[0]!r}; use ties='random'")
        order = None
        if self.config.ties == "random":
            assert generator is not None
            order = torch.randperm(graph.count(types[0]), generator=generator, device=generator.device)
        parts = self._parts(graph, self.config.top_k)
        return pathsim_top_k(parts, self.config.counts, self.config.top_k, features, order, self.config.hub_cap)

    def factorised(self, graph: HeteroGraph) -> Chain:
        """The path as a product that is never made; not normalised. Equals :meth:`counts` (full)."""
        return Chain(tuple(steps_of(self.route(graph), graph, self.config.weights)))

    def __call__(
        self,
        graph: HeteroGraph,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> Operator:
        """What :func:`recgraph.sparse.spmm.spmm` multiplies with: the adjacency in its form, normalised.

        Args:
            dtype: of a composed form's weights; default: that of the graph's, or the default type.
            generator: see :meth:`adjacency`.
        """
        if self.config.form == "factorised":
            return normalise(self.factorised(graph), self.config.normalisation)
        adjacency = self.adjacency(graph, generator)
        if self.config.form == "compressed":
            return normalise(compress_rows(adjacency), self.config.normalisation, dtype)
        return normalise(adjacency, self.config.normalisation, dtype)

    def contexts(self, graph: HeteroGraph, known: dict[Route, Csr] | None = None) -> tuple[Context, ...]:
        """What lies between the ends: a context for each step but the last.

        ``paper-author-paper`` has one, ``author-paper-conference-paper-author`` three: papers, conferences, papers.

        Args:
            known: what has been made for other paths that begin alike; is added to.

        Raises:
            PathTooLargeError: a context would need more than ``max_memory_mib``.
        """
        known = {} if known is None else known
        route = self.route(graph)
        return tuple(
            Context(self.name, step.end, hop, self._reached(route[:hop], graph, known))
            for hop, step in enumerate(route[:-1], 1)
        )

    def _reached(self, route: Route, graph: HeteroGraph, known: dict[Route, Csr]) -> Csr:
        if route not in known:
            last = route[-1].followed(graph, self.config.weights).with_weights(None)
            if len(route) == 1:
                known[route] = last.pattern()
            else:
                before = self._reached(route[:-1], graph, known)
                nbytes = 2 * 8 * estimate_nnz([before, last])
                if nbytes > self.config.max_memory_mib * _MIB:
                    raise PathTooLargeError(
                        f"path {self.name!r}: the context of {route[-1].end!r} would take {nbytes / _MIB:,.0f} MiB; "
                        f"max_memory_mib = {self.config.max_memory_mib:g}"
                    )
                known[route] = compose(before, last, "binary")
        return known[route]

    def _parts(self, graph: HeteroGraph, top_k: int | None) -> list[Csr]:
        """The halves, once it is known that the product fits."""
        route = self.route(graph)
        steps = steps_of(route, graph, self.config.weights, self.config.counts)
        cost = estimate_cost(self.name, route, steps, self.config.counts, top_k)
        if cost.nbytes > self.config.max_memory_mib * _MIB:
            raise PathTooLargeError(
                f"{cost}; max_memory_mib = {self.config.max_memory_mib:g}: raise it, use form='factorised' or a "
                "smaller top_k"
            )
        return halves(route, steps, self.config.counts)


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

    Symmetric paths walk some steps out and the same steps back; those whose way out comes back over the very edges that
    it has just taken are left out (``paper-author-paper-author-paper`` is a power of ``paper-author-paper``). Of edge
    types with the same edges, one perhaps from end to start, the first is followed.

    Args:
        target: the node type at both ends.
        max_steps: the most steps of a path, at least 1.
    """
    graph.count(target)
    steps = distinct_steps(graph)
    once = list(dict.fromkeys(steps.values()))
    direct = [(step,) for step in once if step.start == step.end == target and not step.backwards]
    round_trips = [
        half + tuple(step.reversed for step in reversed(half)) for half in _ways_out(steps, once, target, max_steps)
    ]
    found = [_judge(graph, route) for route in (*direct, *round_trips)]
    return sorted(found, key=lambda proposal: (-proposal.score, len(proposal.path), proposal.path))


def _ways_out(steps: Mapping[Step, Step], once: Sequence[Step], target: str, max_steps: int) -> Iterator[Route]:
    walks: list[Route] = [(step,) for step in once if step.start == target]
    for _ in range(max_steps // 2):
        yield from walks
        walks = [
            (*walk, step)
            for walk in walks
            for step in once
            if step.start == walk[-1].end and step != steps[walk[-1].reversed]
        ]


def _judge(graph: HeteroGraph, route: Route) -> Proposal:
    steps = [step.edges(graph) for step in route]
    path = text_of(route, graph)
    cost = estimate_cost(path, route, steps, "full", None)
    return Proposal(path, _coverage(route, steps), cost.density, cost)


def _coverage(route: Route, steps: list[Csr]) -> float:
    """The share of nodes with a path to another node."""
    if len(route) == 1:
        others = steps[0].with_diagonal(None)
        return _share(others.degrees > 0)
    half = steps[: len(steps) // 2]
    if estimate_nnz(half) > _MAX_HALF:
        return _share(steps[0].degrees > 0)
    reached = half[0].pattern()
    for step in half[1:]:
        reached = compose(reached, step, "binary")
    # a node is related to another where it reaches something that another reaches too
    shared = (reached.t().degrees > 1).to(torch.float64)
    return _share(reached.with_weights(shared[reached.indices]).row_sums() > 0)


def _share(mask: torch.Tensor) -> float:
    return float(mask.to(torch.float64).mean()) if mask.numel() else 0.0
