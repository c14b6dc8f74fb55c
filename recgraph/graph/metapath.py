"""Meta-paths: from a line of schema to adjacencies, similar nodes and contexts; their cost; which a
graph offers.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from recgraph.config import Config, Search, configure, did_you_mean
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.schema import EdgeType, UnknownTypeError
from recgraph.rng import derive
from recgraph.sparse.blocks import row_blocks, unit_length, work_type
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import Chain, Normalisation, compress_rows, normalise, power
from recgraph.sparse.products import Counts, compose, compose_blocks, count_dtype, stack_rows
from recgraph.sparse.select import split_hubs, top_k
from recgraph.sparse.spmm import Operator

#: MiB that a path or context may take, a setting of paths and of models of paths
MaxMemoryMiB = Annotated[
    float, Field(gt=0, description="a path or context that needs more is refused")
]
#: how nodes that are equally similar to another one are told apart
Ties = Literal["index", "cosine", "random"]

_MIB = 2**20
_INDEX_BYTES = 8
# Rows whose entries are counted exactly for an estimate, and the most entries that they may have in
# all.
_SAMPLE = 128
_MAX_SAMPLED = 1 << 23
# A half of a path with more entries than this is not made to find out which nodes it relates; all
# paths count then.
_MAX_HALF = 1 << 25
# Proposed paths that an error names.
_MOST_OFFERED = 5
# Features with a larger share of entries than this are multiplied as a dense matrix.
_DENSE = 1 / 64


class PathError(ValueError):
    """A meta-path that is not written as one, or that the graph does not have."""


class PathTooLargeError(PathError):
    """A meta-path that would need more memory than the setting allows."""


@dataclass(frozen=True)
class Step:
    """One edge type, walked from its source to its target or back."""

    edge_type: EdgeType
    backwards: bool = False

    @property
    def ends(self) -> tuple[str, str]:
        source, _, target = self.edge_type
        return (target, source) if self.backwards else (source, target)

    @property
    def start(self) -> str:
        return self.ends[0]

    @property
    def end(self) -> str:
        return self.ends[1]

    @property
    def reversed(self) -> Step:
        return Step(self.edge_type, not self.backwards)

    def matrix(self, graph: HeteroGraph) -> Csr:
        """[N_start, N_end]."""
        adj = graph.adjacency(self.edge_type)
        return adj.t() if self.backwards else adj

    def followed(self, graph: HeteroGraph, weights: bool) -> Csr:
        """:meth:`matrix` as a path follows it: with weights no edge of weight 0 is one, without
        them all are alike.

        Weights of half precision are widened: their products and sums soon exceed what it holds.
        """
        adj = self.matrix(graph)
        if not weights or adj.weights is None:
            return adj.with_weights(None)
        if (
            wide := work_type(adj.weights)
        ) != adj.weights.dtype:  # else it keeps what it has computed
            adj = adj.with_weights(adj.weights.to(wide))
        is_edge = adj.values() != 0
        return adj if bool(is_edge.all()) else adj.select(is_edge)

    def __str__(self) -> str:
        source, relation, target = self.edge_type
        return (
            f"{target}<{relation}<{source}" if self.backwards else f"{source}>{relation}>{target}"
        )


Route = tuple[Step, ...]


def parse(path: str, graph: HeteroGraph) -> Route:
    """The route that a meta-path means in a graph.

    Args:
        path: ``"paper-author-paper"``, where each pair of types is joined by one edge type,
            forwards if there is one in that direction and else backwards; or
            ``"user>rates>item<rates<user"``, which names relations and directions.
    """
    arrows = re.findall("[<>]", path)
    names = [part.strip() for part in re.split("[<>]" if arrows else "-", path)]
    if len(names) < 2 or (arrows and (len(names) % 2 == 0 or arrows[::2] != arrows[1::2])):
        raise PathError(
            f"path = {path!r} must be as 'paper-author-paper' or 'user>rates>item<rates<user'"
        )
    if arrows:
        triples = zip(names[::2], names[1::2], names[2::2], arrows[::2], strict=False)
        steps = [
            Step((a, name, b)) if arrow == ">" else Step((b, name, a), True)
            for a, name, b, arrow in triples
        ]
        for step in steps:
            graph.adjacency(step.edge_type)
        return tuple(steps)
    if unknown := next((name for name in names if name not in graph.nodes), None):
        start = names[0] if names[0] in graph.nodes else next(iter(graph.nodes))
        offered = (
            ", ".join(proposal.path for proposal in propose(graph, start)[:_MOST_OFFERED]) or "none"
        )
        edge = next(
            (
                f"; write an edge type as '{a}>{name}>{b}'"
                for a, name, b in graph.edges
                if name == unknown
            ),
            "",
        )
        types = f"{did_you_mean(unknown, graph.nodes)}; there are {', '.join(graph.nodes)}{edge}"
        raise UnknownTypeError(
            f"path = {path!r}: no node type {unknown!r}{types}; paths from {start!r}: {offered}"
        )
    steps = []
    for start, end in pairwise(names):
        ways = [
            Step(edge_type, backwards) for backwards in (False, True) for edge_type in graph.edges
        ]
        joining = [step for step in ways if step.ends == (start, end)]
        found = [step for step in joining if not step.backwards] or joining
        if len(found) != 1:
            choices = " or ".join(f"'{step}'" for step in found)
            fix = f"several edge types join {start!r} and {end!r}; write {choices}"
            raise PathError(
                f"path = {path!r}: {fix if found else f'no edge type joins {start!r} and {end!r}'}"
            )
        steps += found
    return tuple(steps)


def types_of(route: Route) -> list[str]:
    """The node types along a route, both ends among them."""
    return [route[0].start, *(step.end for step in route)]


def is_palindrome(route: Route) -> bool:
    """Whether the second half walks the first one back, so that the product is ``B B^T``."""
    return len(route) % 2 == 0 and all(
        a == b.reversed for a, b in zip(route, reversed(route), strict=True)
    )


def text_of(route: Route, graph: HeteroGraph) -> str:
    """A text that :func:`parse` reads as this route: the types alone where that is enough."""
    short = "-".join(types_of(route))
    try:
        if parse(short, graph) == route:
            return short
    except (PathError, UnknownTypeError):
        pass
    return types_of(route)[0] + "".join(str(step).removeprefix(step.start) for step in route)


@dataclass(frozen=True)
class Cost:
    """What a meta-path costs, known before it is made.

    Attributes:
        nnz: entries of the composed matrix, estimated from a sample of rows; exact where that is
            all rows.
        kept_nnz: entries after the top-k per row, or ``nnz``.
        nbytes, factor_nbytes: of the kept matrix and of the factorised form, transposes included.
    """

    path: str
    shape: tuple[int, int]
    nnz: int
    kept_nnz: int
    nbytes: int
    factor_nbytes: int

    def __str__(self) -> str:
        kept = f", {self.kept_nnz:,} after top-k" if self.kept_nnz != self.nnz else ""
        return (
            f"{self.path}: {self.shape[0]:,} x {self.shape[1]:,}, about {self.nnz:,} entries{kept}, "
            f"{self.nbytes / _MIB:,.1f} MiB; factorised {self.factor_nbytes / _MIB:,.1f} MiB"
        )


def estimate_cost(
    path: str, route: Route, steps: Sequence[Csr], counts: Counts, top_k: int | None
) -> Cost:
    """The cost of a path; nothing larger than a sample of its rows is made."""
    shape = (steps[0].shape[0], steps[-1].shape[1])
    nnz = estimate_nnz(steps)
    kept = nnz if top_k is None else min(nnz, shape[0] * top_k)
    per_entry = _INDEX_BYTES + (0 if counts == "binary" else count_dtype(*steps).itemsize)
    distinct = {step.edge_type: matrix for step, matrix in zip(route, steps, strict=True)}.values()
    parts = [
        part for matrix in distinct for part in (matrix.indptr, matrix.indices, matrix.weights)
    ]
    of_factors = sum(part.nbytes for part in parts if part is not None)
    return Cost(path, shape, nnz, kept, 2 * per_entry * kept, 2 * of_factors)


def estimate_nnz(steps: Sequence[Csr]) -> int:
    """Entries of the product of all steps: the sum of the rows' bounds (the paths of each, or the
    columns that can be reached where these are less) by the ratio of entries to bounds that rows at
    regular distances show."""
    reachable = int((steps[-1].t().degrees > 0).sum())
    bounds = path_counts(steps).clamp(max=reachable)
    total = float(bounds.sum())
    if not total:
        return 0
    n_rows = bounds.numel()
    n = max(min(_SAMPLE, int(_MAX_SAMPLED * n_rows / total), n_rows), min(8, n_rows))
    rows = (torch.arange(n, device=bounds.device) * n_rows) // n
    found = steps[0].take_rows(rows).with_weights(None)
    if len(steps) == 1:
        found = found.pattern()
    for step in steps[1:]:
        found = compose(found, step, "binary")
    sampled = float(bounds[rows].sum())
    return round(total * found.nnz / sampled) if sampled else int(total)


def path_counts(steps: Sequence[Csr]) -> Tensor:
    """[R] float64: the paths that begin at each node, each of repeated edges counted."""
    counts = torch.ones(steps[-1].shape[1], dtype=torch.float64, device=steps[0].device)
    for step in reversed(steps):
        counts = step.with_weights(counts[step.indices]).row_sums()
    return counts


def ranking(block: Csr, of_rows: Tensor, of_columns: Tensor) -> Tensor:
    """[E] float64: what a top-k compares, by the diagonals of rows and columns: PathSim, ``2 A_ij /
    (A_ii + A_jj)``, and below it, where no path leads from either node back to itself, ``-1 / (1 +
    A_ij)``.

    Source: Sun et al., PathSim: Meta Path-Based Top-K Similarity Search in Heterogeneous
    Information Networks (2011).
    """
    both, counts = of_rows[block.rows].add_(of_columns[block.indices]), block.values(torch.float64)
    has_way_back = both > 0
    return torch.where(
        has_way_back, 2 * counts / both.masked_fill_(~has_way_back, 1), -1 / (1 + counts)
    )


def pathsim_top_k(
    parts: Sequence[Csr],
    counts: Counts,
    k: int,
    features: Tensor | Csr | None = None,
    order: Tensor | None = None,
    hub_cap: int | None = None,
) -> Csr:
    """Each row's k most similar columns (:func:`ranking`), with their counts; ties by
    :data:`recgraph.sparse.select.TIE_RULE`.

    Costs the square of each middle node's entries, or with ``hub_cap`` at most that many pairs for
    each entry of the first matrix: hubs are divided (:func:`recgraph.sparse.select.split_hubs`),
    always in the same way.

    Args:
        parts: one or two matrices whose product, [N, N], holds the counts.
        features: [N, F]; ties are broken by their cosine first.
        order: [N], different numbers; then by these, the highest first.

    Warns:
        UserWarning: hubs are divided.
    """
    blocks: Iterable[tuple[slice, Csr]] = [(slice(0, parts[0].shape[0]), parts[0])]
    if len(parts) == 1:
        diagonal = parts[0].diagonal().to(torch.float64)
    else:
        left, right = parts
        if hub_cap is not None:
            if n_hubs := int((right.degrees > hub_cap).sum()):
                what = (
                    f"PathSim divides {n_hubs:,} nodes that lead to more than hub_cap = {hub_cap:,}"
                )
                warnings.warn(what, stacklevel=3)
            left, right = split_hubs(
                left, right, hub_cap, torch.Generator().manual_seed(derive(0, "hubs"))
            )
        back = _values_at(right.t(), left)
        diagonal = left.with_weights(left.values(torch.float64) * back).row_sums()
        diagonal = diagonal if counts == "full" else (diagonal > 0).to(torch.float64)
        blocks = compose_blocks(left, right, counts)
    cosine = None if features is None else _Cosine(features)
    order = None if order is None else order.to(parts[0].device, torch.float64)
    kept = []
    for rows, block in blocks:
        keys = [] if cosine is None else [cosine(block, rows.start, k)]
        keys += [] if order is None else [order[block.indices]]
        kept.append(top_k(block, k, ranking(block, diagonal[rows], diagonal), *keys))
    return stack_rows(kept, parts[-1].shape[1], parts[0])


def _values_at(matrix: Csr, places: Csr) -> Tensor:
    """[E] float64: the values of a matrix at the entries of another, 0 where it has none; one entry
    a place.
    """
    values = matrix.values(torch.float64)
    return torch.cat([values, values.new_zeros(1)])[matrix.entries_at(places.rows, places.indices)]


class _Cosine:
    """[E] float32: cosines of the features of the two ends of entries, 0 for a node without
    features; made in float64, so that equal ones stay equal after rounding, in whichever order a
    processor adds."""

    def __init__(self, features: Tensor | Csr) -> None:
        self.units: Tensor | Csr
        if (
            isinstance(features, Csr)
            and features.nnz <= _DENSE * features.shape[0] * features.shape[1]
        ):
            features = features.coalesce()
            exact = features.with_weights(features.values(torch.float64))
            lengths = exact.with_weights(exact.values().square()).row_sums().sqrt()
            self.units = exact.scale(left=power(lengths, -1))
        else:
            dense = features.to_dense() if isinstance(features, Csr) else features
            self.units = unit_length(dense.to(torch.float64))
        self.columns = self.units.t()

    def __call__(self, block: Csr, first_row: int, k: int) -> Tensor:
        """Of the entries of rows ``first_row ...`` of a square matrix; 0 in rows of at most k,
        which are kept whole.
        """
        is_long = block.degrees > k
        nodes = torch.nonzero(is_long).squeeze(1)
        entries = block.with_weights(None).take_rows(nodes)
        nodes = nodes + first_row
        parts = [torch.empty(0, dtype=torch.float64, device=block.device)]
        if isinstance(self.units, Csr) and isinstance(self.columns, Csr):
            for rows, products in compose_blocks(self.units.take_rows(nodes), self.columns):
                parts.append(_values_at(products, entries.row_block(rows)))
        else:
            assert isinstance(self.units, Tensor)
            for rows in row_blocks(len(nodes), len(self.units), self.units):
                some = entries.row_block(rows)
                parts.append((self.units[nodes[rows]] @ self.units.t())[some.rows, some.indices])
        found = torch.zeros(block.nnz, dtype=torch.float32, device=block.device)
        found[is_long[block.rows]] = torch.cat(parts).to(torch.float32)
        return found


@dataclass(frozen=True, eq=False)
class Context:
    """The distinct nodes of an intermediate type that the target nodes reach along a path:
    [N_target, N_type], one entry a node reached, without weights."""

    node_type: str
    reached: Csr


class MetaPathConfig(Config):
    path: Annotated[str, Field(description="'paper-author-paper' or 'user>rates>item<rates<user'")]
    counts: Annotated[
        Counts,
        Field(
            description="'full': the number of paths, or the sum of their products of weights; 'binary': 1"
        ),
    ] = "full"
    weights: Annotated[
        bool,
        Field(
            description="full counts multiply the weights of edges, of which 0 is no edge; False: each counts 1"
        ),
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
    ] = 4096
    form: Annotated[
        Literal["composed", "compressed", "factorised"],
        Field(
            description="'compressed' holds equal rows of the composed matrix once; 'factorised' never makes it, "
            "and knows neither top_k nor binary counts"
        ),
    ] = "composed"
    normalisation: Annotated[Normalisation, Field(description="see recgraph.sparse.operators")] = (
        "meow"
    )
    max_memory_mib: MaxMemoryMiB = 4096


class MetaPath:
    """A meta-path, on any graph that has its types.

    ``MetaPath("paper-author-paper", top_k=110)(graph)`` is what a graph convolution multiplies
    with.

    Source: MEOW (SDM 2023), sections 4.1 and 4.2; PathSim (VLDB 2011). Departures: ties at the
    top-k cut are broken as ``ties`` says (the published code's sort is not stable, and keeps
    neighbours in the file: where a file lies in the order of classes, as ACM's and AMiner's do,
    ties by index tell the class); contexts follow from the path, for every intermediate type and
    hop.

    Args:
        path: see :func:`recgraph.graph.metapath.parse`; or a config as the only argument.
        settings: the other settings by name, see :class:`MetaPathConfig`.
    """

    target: ClassVar[str] = "graph"
    Config: ClassVar[type[MetaPathConfig]] = MetaPathConfig

    def __init__(self, path: str | MetaPathConfig | None = None, /, **settings: Any) -> None:
        config = path if isinstance(path, MetaPathConfig) else None
        if isinstance(path, str):
            settings["path"] = path
        self.config: MetaPathConfig = configure(self, MetaPathConfig, config, settings)

    @property
    def name(self) -> str:
        """The path as a text."""
        return self.config.path

    def __repr__(self) -> str:
        return f"MetaPath({self.name!r}, counts={self.config.counts!r}, top_k={self.config.top_k})"

    def route(self, graph: HeteroGraph) -> Route:
        """The edge types that the path follows; a PathError or UnknownTypeError where the graph
        does not have it.
        """
        return parse(self.config.path, graph)

    def steps(self, graph: HeteroGraph) -> list[Csr]:
        """The matrix of each step, see :meth:`Step.followed`."""
        return [step.followed(graph, self.config.weights) for step in self.route(graph)]

    def cost(self, graph: HeteroGraph) -> Cost:
        """Entries and memory, before anything is made (print it)."""
        return estimate_cost(
            self.name, self.route(graph), self.steps(graph), self.config.counts, self.config.top_k
        )

    def counts(self, graph: HeteroGraph) -> Csr:
        """[N_start, N_end]: the counts of all paths, one entry a pair (no weights where counts are
        binary).
        """
        parts = self._halves(graph, None)
        return parts[0] if len(parts) == 1 else compose(parts[0], parts[1], self.config.counts)

    def adjacency(self, graph: HeteroGraph, generator: torch.Generator | None = None) -> Csr:
        """The counts, after the top-k by PathSim where one is asked for; not normalised. The
        generator, on any device, draws the order of ``ties="random"``; a PathTooLargeError where it
        would need more than ``max_memory_mib``."""
        k, ties = self.config.top_k, self.config.ties
        if k is None:
            return self.counts(graph)
        types = types_of(self.route(graph))
        if types[0] != types[-1]:
            raise PathError(
                f"path {self.name!r}: top_k needs PathSim, which compares nodes of one type, not {types}"
            )
        features = graph.features(types[0]) if ties == "cosine" else None
        if features is None and ties == "cosine":
            raise PathError(
                f"path {self.name!r}: ties='cosine' needs features of {types[0]!r}; use ties='random'"
            )
        order = None
        if ties == "random":
            assert generator is not None
            order = torch.randperm(
                graph.count(types[0]), generator=generator, device=generator.device
            )
        return pathsim_top_k(
            self._halves(graph, k), self.config.counts, k, features, order, self.config.hub_cap
        )

    def _halves(self, graph: HeteroGraph, top_k: int | None) -> list[Csr]:
        """One or two matrices whose product is the path, once it is known that it fits; one entry a
        place.

        The second may be the first's transpose.
        """
        route, steps, counts = self.route(graph), self.steps(graph), self.config.counts
        cost = estimate_cost(self.name, route, steps, counts, top_k)
        self._check_fits(cost.nbytes, str(cost))
        middle = max(len(steps) // 2, 1)
        parts = (
            [steps[:middle]]
            if len(steps) == 1 or is_palindrome(route)
            else [steps[:middle], steps[middle:]]
        )
        made = []
        for first, *others in parts:
            product = first.pattern() if counts == "binary" else first.coalesce()
            for step in others:
                product = compose(product, step, counts)
            made.append(product)
        return made if len(steps) == 1 or len(made) == 2 else [made[0], made[0].t()]

    def _check_fits(self, nbytes: int, what: str) -> None:
        if nbytes > self.config.max_memory_mib * _MIB:
            limit = f"max_memory_mib = {self.config.max_memory_mib:g}"
            raise PathTooLargeError(
                f"{what}; {limit}: raise it, or use form='factorised' or a smaller top_k"
            )

    def factorised(self, graph: HeteroGraph) -> Chain:
        """The path as a product that is never made; not normalised."""
        return Chain(tuple(self.steps(graph)))

    def __call__(
        self,
        graph: HeteroGraph,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> Operator:
        """What :func:`recgraph.sparse.spmm.spmm` multiplies with: the adjacency in its form,
        normalised; the weights of a composed form have a type of their own where ``dtype`` is
        given."""
        form, kind = self.config.form, self.config.normalisation
        if form == "factorised":
            return normalise(self.factorised(graph), kind)
        made = self.adjacency(graph, generator)
        return normalise(compress_rows(made) if form == "compressed" else made, kind, dtype)

    def contexts(
        self, graph: HeteroGraph, known: dict[Route, Csr] | None = None
    ) -> tuple[Context, ...]:
        """What lies between the ends: a context for each step but the last.

        ``paper-author-paper`` has one, ``author-paper-conference-paper-author`` three: papers,
        conferences, papers.

        Args:
            known: what has been made for other paths that begin alike; is added to.
        """
        known = {} if known is None else known
        route = self.route(graph)
        found = []
        for hop, step in enumerate(route[:-1], 1):
            if route[:hop] not in known:
                last = step.followed(graph, self.config.weights).with_weights(None)
                if hop == 1:
                    known[route[:hop]] = last.pattern()
                else:
                    before = known[route[: hop - 1]]
                    nbytes = 2 * _INDEX_BYTES * estimate_nnz([before, last])
                    self._check_fits(
                        nbytes, f"{self.name}: a context of {step.end}, {nbytes / _MIB:,.0f} MiB"
                    )
                    known[route[:hop]] = compose(before, last, "binary")
            found.append(Context(step.end, known[route[:hop]]))
        return tuple(found)


@dataclass(frozen=True, repr=False)
class Proposal:
    """A meta-path from the target type to itself.

    Attributes:
        path: as :class:`MetaPath` reads it.
        coverage: the share of target nodes that it relates to another one.
        density: estimated entries per place, before any top-k.
    """

    path: str
    coverage: float
    density: float

    @property
    def score(self) -> float:
        """``coverage * (1 - density)``: a path that relates nobody, or everybody to everybody,
        tells nothing.
        """
        return self.coverage * (1 - min(self.density, 1.0))

    def __repr__(self) -> str:
        return f"Proposal({self.path}, coverage {self.coverage:.0%}, density {self.density:.2%})"


def propose(graph: HeteroGraph, target: str, max_steps: int = 4) -> list[Proposal]:
    """All symmetric meta-paths of the target type, and its edges to itself, the best by
    :attr:`Proposal.score` first.

    Symmetric paths walk some steps out and the same steps back; those whose way out comes back over
    the very edges that it has just taken are left out (``paper-author-paper-author-paper`` is a
    power of ``paper-author-paper``). Of edge types with the same edges, one perhaps from end to
    start, the first is followed.

    Args:
        target: the node type at both ends.
        max_steps: the most steps of a path.
    """
    graph.count(target)
    steps = _distinct_steps(graph)
    once = list(dict.fromkeys(steps.values()))
    routes: list[Route] = [
        (step,) for step in once if step.start == step.end == target and not step.backwards
    ]
    walks: list[Route] = [(step,) for step in once if step.start == target]
    for _ in range(max_steps // 2):
        routes += [walk + tuple(step.reversed for step in reversed(walk)) for walk in walks]
        on = [(walk, step) for walk in walks for step in once if step.start == walk[-1].end]
        walks = [(*walk, step) for walk, step in on if step != steps[walk[-1].reversed]]
    found = []
    for route in routes:
        matrices = [step.followed(graph, weights=True).with_weights(None) for step in route]
        density = estimate_nnz(matrices) / max(matrices[0].shape[0] * matrices[-1].shape[1], 1)
        found.append(Proposal(text_of(route, graph), _coverage(matrices), density))
    return sorted(found, key=lambda proposal: (-proposal.score, len(proposal.path), proposal.path))


def _distinct_steps(graph: HeteroGraph) -> dict[Step, Step]:
    """Every step of a graph -> the first one with the same ends that follows the same edges,
    perhaps backwards.
    """
    found: dict[Step, Step] = {}
    kept: dict[Step, Csr] = {}
    for step in [
        Step(edge_type, backwards) for backwards in (False, True) for edge_type in graph.edges
    ]:
        adj = step.followed(graph, weights=True)
        same = (
            other
            for other, known in kept.items()
            if other.ends == step.ends and _are_same(adj, known)
        )
        found[step] = next(same, step)
        if found[step] is step:
            kept[step] = adj
    return found


def _are_same(one: Csr, other: Csr) -> bool:
    same_places = torch.equal(one.indptr, other.indptr) and torch.equal(one.indices, other.indices)
    return same_places and bool((one.values() == other.values()).all())


def _coverage(steps: Sequence[Csr]) -> float:
    """The share of nodes with a path to another node."""
    half = steps[: len(steps) // 2]
    if len(steps) == 1:
        is_related = steps[0].with_diagonal(None).degrees > 0
    elif estimate_nnz(half) > _MAX_HALF:
        is_related = steps[0].degrees > 0
    else:
        reached = half[0].pattern()
        for step in half[1:]:
            reached = compose(reached, step, "binary")
        # a node is related to another where it reaches something that another reaches too
        shared = (reached.t().degrees > 1).to(torch.float64)
        is_related = reached.with_weights(shared[reached.indices]).row_sums() > 0
    return float(is_related.to(torch.float64).mean()) if is_related.numel() else 0.0
