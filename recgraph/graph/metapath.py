"""Meta-paths: from a line of schema to adjacencies, similar nodes and contexts; their cost; which a
graph offers.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from recgraph.config import Config, Search, configure, did_you_mean
from recgraph.data.ids import listed
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
        if self.backwards:
            return target, source
        return source, target

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
        wide = work_type(adj.weights)
        if wide != adj.weights.dtype:  # else it keeps what it has computed
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
    if re.search("[<>]", path):
        return _parse_relations(path, graph)
    return _parse_types(path, graph)


def _parse_relations(path: str, graph: HeteroGraph) -> Route:
    """The route of a path that names relations; each stands between two arrows of one direction."""
    parts = [part.strip() for part in re.split("([<>])", path)]
    if len(parts) % 4 != 1:
        raise PathError(f"path = {path!r} must be as 'user>rates>item<rates<user'")
    steps = []
    for place in range(0, len(parts) - 1, 4):
        left, arrow, relation, second_arrow, right = parts[place : place + 5]
        if arrow != second_arrow:
            raise PathError(f"path = {path!r}: write '>{relation}>' or '<{relation}<'")
        if arrow == ">":
            step = Step((left, relation, right))
        else:
            step = Step((right, relation, left), backwards=True)
        graph.adjacency(step.edge_type)  # an UnknownTypeError where it is not there
        steps.append(step)
    return tuple(steps)


def _parse_types(path: str, graph: HeteroGraph) -> Route:
    """The route of a path that names the types of nodes alone."""
    names = [part.strip() for part in path.split("-")]
    if len(names) < 2:
        raise PathError(f"path = {path!r} must be as 'paper-author-paper'")
    for name in names:
        if name not in graph.nodes:
            raise _unknown_type(path, name, graph)
    route = []
    for start, end in pairwise(names):
        steps = _joining(graph, start, end) or _joining(graph, start, end, backwards=True)
        if len(steps) != 1:
            raise PathError(
                f"path = {path!r}: {start!r} and {end!r} are joined by "
                f"{' and by '.join(map(str, steps)) or 'no edge type'}; name one as "
                "'user>rates>item' does"
            )
        route += steps
    return tuple(route)


def _joining(graph: HeteroGraph, start: str, end: str, backwards: bool = False) -> list[Step]:
    """The steps of one direction from a type of nodes to another."""
    steps = [Step(edge_type, backwards) for edge_type in graph.edges]
    return [step for step in steps if step.ends == (start, end)]


def _unknown_type(path: str, name: str, graph: HeteroGraph) -> UnknownTypeError:
    """The error of a path through a type that is not there; it offers paths that are."""
    message = (
        f"path = {path!r}: no node type {name!r}{did_you_mean(name, graph.nodes)}; there are "
        f"{listed(graph.nodes)}; paths are {offered_paths(graph)}"
    )
    for source, relation, target in graph.edges:
        if relation == name:
            message += f"; write an edge type as '{source}>{relation}>{target}'"
    return UnknownTypeError(message)


def offered_paths(graph: HeteroGraph) -> str:
    """The two best paths of each type, for messages."""
    paths = []
    for node_type in graph.node_types:
        paths += [proposal.path for proposal in propose(graph, node_type)[:2]]
    return listed(paths) or "none"


def types_of(route: Route) -> list[str]:
    """The node types along a route, both ends among them."""
    return [route[0].start, *(step.end for step in route)]


def walked_back(route: Route) -> Route:
    """The route from its end to its start."""
    return tuple(step.reversed for step in reversed(route))


def is_palindrome(route: Route) -> bool:
    """Whether the second half walks the first one back, so that the product is ``B B^T``."""
    return route == walked_back(route)


def text_of(route: Route, graph: HeteroGraph) -> str:
    """A text that :func:`parse` reads as this route: the types alone where that is enough."""
    types = types_of(route)
    short = "-".join(types)
    with suppress(PathError, UnknownTypeError):
        if parse(short, graph) == route:
            return short
    return types[0] + "".join(str(step).removeprefix(step.start) for step in route)


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
    nnz = kept_nnz = estimate_nnz(steps)
    if top_k is not None:
        kept_nnz = min(nnz, shape[0] * top_k)
    entry_nbytes = _INDEX_BYTES
    if counts == "full":
        entry_nbytes += count_dtype(*steps).itemsize
    # a step that is walked back is the transpose
    factors = dict(zip([step.edge_type for step in route], steps, strict=True)).values()
    factor_nbytes = 0
    for factor in factors:
        factor_nbytes += factor.indptr.nbytes + factor.indices.nbytes
        if factor.weights is not None:
            factor_nbytes += factor.weights.nbytes
    return Cost(
        path=path,
        shape=shape,
        nnz=nnz,
        kept_nnz=kept_nnz,
        nbytes=2 * entry_nbytes * kept_nnz,
        factor_nbytes=2 * factor_nbytes,
    )


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
    reached = steps[0].take_rows(rows).with_weights(None)
    reached = compose_binary([reached, *steps[1:]])
    sampled = float(bounds[rows].sum())
    return round(total * reached.nnz / sampled) if sampled else int(total)


def compose_binary(steps: Sequence[Csr]) -> Csr:
    """[R, C] without weights: the nodes that a walk of all steps reaches."""
    reached = steps[0].pattern()
    for step in steps[1:]:
        reached = compose(reached, step, "binary")
    return reached


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
    blocks: Iterable[tuple[slice, Csr]]
    if len(parts) == 1:
        blocks = [(slice(0, parts[0].shape[0]), parts[0])]
        diagonal = parts[0].diagonal().to(torch.float64)
    else:
        left, right = parts
        if hub_cap is not None:
            left, right = _divide_hubs(left, right, hub_cap)
        back = _values_at(right.t(), left)
        diagonal = left.with_weights(left.values(torch.float64) * back).row_sums()
        if counts == "binary":
            diagonal = (diagonal > 0).to(torch.float64)
        blocks = compose_blocks(left, right, counts)
    cosine = None if features is None else _Cosine(features)
    if order is not None:
        order = order.to(parts[0].device, torch.float64)
    kept = []
    for rows, block in blocks:
        keys = [ranking(block, diagonal[rows], diagonal)]
        if cosine is not None:
            keys.append(cosine(block, rows.start, k))
        if order is not None:
            keys.append(order[block.indices])
        kept.append(top_k(block, k, *keys))
    return stack_rows(kept, parts[-1].shape[1], parts[0])


def _divide_hubs(left: Csr, right: Csr, hub_cap: int) -> tuple[Csr, Csr]:
    """Two factors whose product compares the nodes of each hub in groups, with a warning."""
    n_hubs = int((right.degrees > hub_cap).sum())
    if n_hubs:
        message = f"PathSim divides {n_hubs:,} nodes that lead to more than hub_cap = {hub_cap:,}"
        warnings.warn(message, stacklevel=4)
    generator = torch.Generator().manual_seed(derive(0, "hubs"))
    return split_hubs(left, right, hub_cap, generator)


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
        if isinstance(features, Csr):
            n_places = features.shape[0] * features.shape[1]
            if features.nnz > _DENSE * n_places:
                features = features.to_dense()
        if isinstance(features, Csr):
            features = features.coalesce()
            exact = features.with_weights(features.values(torch.float64))
            lengths = exact.with_weights(exact.values().square()).row_sums().sqrt()
            self.units = exact.scale(left=power(lengths, -1))
        else:
            self.units = unit_length(features.to(torch.float64))

    def __call__(self, block: Csr, first_row: int, k: int) -> Tensor:
        """Of the entries of rows ``first_row ...`` of a square matrix; 0 in rows of at most k,
        which are kept whole.
        """
        is_long = block.degrees > k
        rows_of_block = torch.nonzero(is_long).squeeze(1)
        entries = block.with_weights(None).take_rows(rows_of_block)
        nodes = rows_of_block + first_row
        parts = [torch.empty(0, dtype=torch.float64, device=block.device)]
        units = self.units
        if isinstance(units, Csr):
            for rows, products in compose_blocks(units.take_rows(nodes), units.t()):
                parts.append(_values_at(products, entries.row_block(rows)))
        else:
            for rows in row_blocks(len(nodes), len(units), units):
                some = entries.row_block(rows)
                parts.append((units[nodes[rows]] @ units.t())[some.rows, some.indices])
        cosines = torch.zeros(block.nnz, dtype=torch.float32, device=block.device)
        cosines[is_long[block.rows]] = torch.cat(parts).to(torch.float32)
        return cosines


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
        factors = self._factors(graph, None)
        if len(factors) == 1:
            return factors[0]
        return compose(factors[0], factors[1], self.config.counts)

    def adjacency(self, graph: HeteroGraph, generator: torch.Generator | None = None) -> Csr:
        """The counts, after the top-k by PathSim where one is asked for; not normalised. The
        generator, on any device, draws the order of ``ties="random"``; a PathTooLargeError where it
        would need more than ``max_memory_mib``."""
        config = self.config
        if config.top_k is None:
            return self.counts(graph)
        types = types_of(self.route(graph))
        target = types[0]
        if types[-1] != target:
            raise PathError(
                f"path {self.name!r}: top_k needs PathSim, which compares nodes of one type, not {types}"
            )
        features = order = None
        if config.ties == "cosine":
            features = graph.features(target)
            if features is None:
                raise PathError(
                    f"path {self.name!r}: ties='cosine' needs features of {target!r}; use "
                    "ties='random'"
                )
        if config.ties == "random":
            assert generator is not None
            order = torch.randperm(
                graph.count(target), generator=generator, device=generator.device
            )
        return pathsim_top_k(
            self._factors(graph, config.top_k),
            counts=config.counts,
            k=config.top_k,
            features=features,
            order=order,
            hub_cap=config.hub_cap,
        )

    def _factors(self, graph: HeteroGraph, top_k: int | None) -> list[Csr]:
        """One or two matrices whose product is the path, once it is known that it fits; one entry a
        place.

        The second may be the first's transpose.
        """
        route, steps = self.route(graph), self.steps(graph)
        cost = estimate_cost(self.name, route, steps, self.config.counts, top_k)
        self._check_fits(cost.nbytes, str(cost))
        if len(steps) == 1:
            return [self._product(steps)]
        middle = len(steps) // 2
        left = self._product(steps[:middle])
        if is_palindrome(route):
            return [left, left.t()]
        return [left, self._product(steps[middle:])]

    def _product(self, steps: Sequence[Csr]) -> Csr:
        """The counts of paths along some steps."""
        if self.config.counts == "binary":
            return compose_binary(steps)
        product = steps[0].coalesce()
        for step in steps[1:]:
            product = compose(product, step, "full")
        return product

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
        kind = self.config.normalisation
        if self.config.form == "factorised":
            return normalise(self.factorised(graph), kind)
        adjacency = self.adjacency(graph, generator)
        if self.config.form == "compressed":
            return normalise(compress_rows(adjacency), kind, dtype)
        return normalise(adjacency, kind, dtype)

    def contexts(
        self, graph: HeteroGraph, known: dict[Route, Csr] | None = None
    ) -> tuple[Context, ...]:
        """What lies between the ends: a context for each step but the last.

        ``paper-author-paper`` has one, ``author-paper-conference-paper-author`` three: papers,
        conferences, papers.

        Args:
            known: what has been made for other paths that begin alike; is added to.
        """
        if known is None:
            known = {}
        route = self.route(graph)
        contexts = []
        for hop, step in enumerate(route[:-1], 1):
            walk = route[:hop]
            if walk not in known:
                last = step.followed(graph, self.config.weights).with_weights(None)
                known[walk] = last.pattern() if hop == 1 else self._reached(known[walk[:-1]], last)
            contexts.append(Context(step.end, known[walk]))
        return tuple(contexts)

    def _reached(self, before: Csr, last: Csr) -> Csr:
        """What one more step reaches, once it is known that it fits."""
        nbytes = 2 * _INDEX_BYTES * estimate_nnz([before, last])
        self._check_fits(nbytes, f"{self.name}: a context of {nbytes / _MIB:,.0f} MiB")
        return compose(before, last, "binary")


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
    distinct = _distinct_steps(graph)
    steps = list(dict.fromkeys(distinct.values()))
    walks: list[Route] = [(step,) for step in steps if step.start == target]
    routes = [walk for walk in walks if walk[0].end == target and not walk[0].backwards]
    for _ in range(max_steps // 2):
        routes += [walk + walked_back(walk) for walk in walks]
        longer: list[Route] = []
        for walk in walks:
            way_back = distinct[walk[-1].reversed]
            onward = [step for step in steps if step.start == walk[-1].end and step != way_back]
            longer += [(*walk, step) for step in onward]
        walks = longer
    proposals = []
    for route in routes:
        matrices = [step.followed(graph, weights=True).with_weights(None) for step in route]
        n_places = matrices[0].shape[0] * matrices[-1].shape[1]
        proposal = Proposal(
            path=text_of(route, graph),
            coverage=_coverage(matrices),
            density=estimate_nnz(matrices) / max(n_places, 1),
        )
        proposals.append(proposal)
    proposals.sort(key=lambda proposal: (-proposal.score, len(proposal.path), proposal.path))
    return proposals


def _distinct_steps(graph: HeteroGraph) -> dict[Step, Step]:
    """Every step of a graph -> the first one with the same ends that follows the same edges,
    perhaps backwards.
    """
    forwards = [Step(edge_type) for edge_type in graph.edges]
    distinct: dict[Step, Step] = {}
    matrices: dict[Step, Csr] = {}
    for step in [*forwards, *(step.reversed for step in forwards)]:
        matrix = step.followed(graph, weights=True)
        for other, known in matrices.items():
            if other.ends == step.ends and _are_same(matrix, known):
                distinct[step] = other
                break
        else:
            distinct[step] = step
            matrices[step] = matrix
    return distinct


def _are_same(one: Csr, other: Csr) -> bool:
    same_places = torch.equal(one.indptr, other.indptr) and torch.equal(one.indices, other.indices)
    return same_places and bool((one.values() == other.values()).all())


def _coverage(steps: Sequence[Csr]) -> float:
    """The share of nodes with a path to another node; 0 where there are no nodes."""
    half = steps[: len(steps) // 2]
    if len(steps) == 1:
        is_related = steps[0].with_diagonal(None).degrees > 0
    elif estimate_nnz(half) > _MAX_HALF:
        is_related = steps[0].degrees > 0
    else:
        reached = compose_binary(half)
        # a node is related to another where it reaches something that another reaches too
        shared = (reached.t().degrees > 1).to(torch.float64)
        is_related = reached.with_weights(shared[reached.indices]).row_sums() > 0
    return float(is_related.to(torch.float64).mean().nan_to_num())
