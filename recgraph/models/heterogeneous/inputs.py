"""What MEOW and AdaMEOW read from a typed graph: adjacencies, contexts, features, and their masked twins.

Meta-paths of a graph that is too large for steps on all of it: held by their factors, read whole or by batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from recgraph.augment.graph import EdgeDrop, FeatureMask
from recgraph.graph.contexts import Walked
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath
from recgraph.graph.route import Route
from recgraph.rng import Generators
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import Chain, Normalisation, Sum, compress_rows, normalise
from recgraph.sparse.spmm import Layered, Operator

__all__ = ["Masks", "MetaPathInputs", "MetaPathSource", "PathInputs", "PathSource", "move", "read_graph", "read_source"]


Features = Tensor | Csr | None
R = TypeVar("R", bound=Csr | Walked)
Moved = dict[int, Any]


@dataclass(frozen=True, eq=False)
class PathInputs:
    """One meta-path over N target nodes.

    Attributes:
        name: as it was written.
        plain: [N, N], before normalisation; what masks are drawn from. The adjacency, where they have been and are not
            drawn again: it is the largest part.
        adjacency: [N, N], normalised; equal rows are held once where that pays (ACM's paper-subject-paper: 61 rows for
            4,019). For a batch of nodes one a layer, of which the last has the batch's rows.
        masked: its masked twin, normalised.
        contexts: (node type, [N, N_type] without weights) of each intermediate type, in the order of the path.
    """

    name: str
    plain: Operator | Layered
    adjacency: Operator | Layered
    masked: Operator | Layered
    contexts: tuple[tuple[str, Csr | Walked], ...]

    def to(self, device: torch.device, dtype: torch.dtype, moved: Moved) -> PathInputs:
        plain, adjacency, masked = (part.to(device, dtype) for part in (self.plain, self.adjacency, self.masked))
        return PathInputs(self.name, plain, adjacency, masked, move(self.contexts, device, moved))


@dataclass(frozen=True, eq=False)
class MetaPathInputs:
    """All that the model reads.

    Attributes:
        target: the node type that is embedded.
        features: node type -> [N_type, F] as they enter the type's layer, or None; for a batch of nodes [n] int64,
            which ones they are, where the type has no features.
        masked: the target's masked features; None where it has no features.
        paths: one or more.
    """

    target: str
    features: Mapping[str, Features]
    masked: Features
    paths: tuple[PathInputs, ...]

    def to(self, device: torch.device, dtype: torch.dtype) -> MetaPathInputs:
        features = {name: None if x is None else x.to(device, dtype) for name, x in self.features.items()}
        masked = None if self.masked is None else self.masked.to(device, dtype)
        moved: Moved = {}
        paths = tuple(path.to(device, dtype, moved) for path in self.paths)
        return MetaPathInputs(self.target, features, masked, paths)


def move(contexts: Sequence[tuple[str, R]], device: torch.device, moved: Moved) -> tuple[tuple[str, R], ...]:
    """A path's contexts on a device.

    Args:
        moved: what is there already, by the identity of what it was: paths that begin alike share it there too.
    """
    for _, reached in contexts:
        if id(reached) not in moved:
            moved[id(reached)] = reached.to(device)
    return tuple((node_type, moved[id(reached)]) for node_type, reached in contexts)


@dataclass(frozen=True)
class Masks:
    """How the masked twins are drawn.

    Attributes:
        features: the view of the target's features.
        edges: the view of each path's adjacency.
        normalisation: of what the masks leave.
    """

    features: FeatureMask
    edges: tuple[EdgeDrop, ...]
    normalisation: Normalisation

    def draw(self, inputs: MetaPathInputs, generators: Generators) -> MetaPathInputs:
        """The inputs with masks drawn from these generators."""
        features = inputs.features[inputs.target]
        stream = self.features.stream(generators, inputs.target)
        masked = None if features is None else self.features(features, stream)
        paths = tuple(
            replace(
                path,
                masked=self._edges(view, path, generators),
                plain=path.plain if view.config.redraw else path.adjacency,
            )
            for view, path in zip(self.edges, inputs.paths, strict=True)
        )
        return replace(inputs, masked=masked, paths=paths)

    def _edges(self, view: EdgeDrop, path: PathInputs, generators: Generators) -> Operator:
        stream = view.stream(generators, path.name)
        if isinstance(path.plain, Csr):
            return self._masked(view, path.plain, view.draw(path.plain, stream))
        assert isinstance(path.plain, Chain)
        # a path that is never made has no entries to leave out: its factors lose theirs
        partial = EdgeDrop(ratio=view.config.ratio, redraw=view.config.redraw, binary=False, self_loops=False)
        factors = tuple(partial(factor, stream) for factor in path.plain.factors)
        return Chain(factors, path.plain.left, path.plain.right).normalise(self.normalisation)

    def _masked(self, view: EdgeDrop, plain: Csr, keep_mask: Tensor) -> Operator:
        if view.config.binary:
            rows = compress_rows(plain.pattern())
            if isinstance(rows, Chain):
                gone = view.difference(plain, keep_mask)
                if 2 * (rows.nnz + gone.nnz) < plain.nnz:
                    return Sum.of((rows, gone), (1.0, -1.0)).normalise(self.normalisation)
        kept = view.apply(plain, keep_mask)
        return normalise(kept, self.normalisation, plain.values().dtype)


def read_graph(
    graph: HeteroGraph, target: str, paths: tuple[MetaPath, ...], features: Mapping[str, Features]
) -> MetaPathInputs:
    """Compose the paths and their contexts; no masks yet (``masked`` is the unmasked)."""
    known: dict[Route, Csr] = {}
    made = []
    for path in paths:
        plain = path.factorised(graph) if path.config.form == "factorised" else path.adjacency(graph)
        kind = path.config.normalisation
        smaller = plain if isinstance(plain, Chain) else compress_rows(plain)
        normal = smaller.normalise(kind) if isinstance(smaller, Chain) else normalise(smaller, kind)
        contexts = tuple((context.node_type, context.reached) for context in path.contexts(graph, known))
        made.append(PathInputs(path.name, plain, normal, normal, contexts))
    return MetaPathInputs(target, features, features[target], tuple(made))


@dataclass(frozen=True, eq=False)
class PathSource:
    """One meta-path over N target nodes.

    Attributes:
        name: as it was written.
        plain: [N, N], before normalisation: the path's steps, or one factor where it was composed.
        adjacency: [N, N], normalised.
        masked: its twin, in the same places, with weight 0 where an entry is left out. None: no twin is masked.
        loops: the twin's diagonal is 1 (before its scales) whatever ``masked`` says: composed paths.
        contexts: (node type, what is reached) of each intermediate type, in the order of the path.
    """

    name: str
    plain: Chain
    adjacency: Chain
    masked: Chain | None
    loops: bool
    contexts: tuple[tuple[str, Walked], ...]

    def draw(self, view: EdgeDrop, kind: Normalisation, generators: Generators) -> PathSource:
        """With a masked twin: the entries that :class:`Masks` draws from the same generators."""
        stream = view.stream(generators, self.name)
        if not self.loops:  # a path that is never made has no entries to leave out: its factors lose theirs
            view = EdgeDrop(ratio=view.config.ratio, redraw=view.config.redraw, binary=False, self_loops=False)
        kept, marked = [], []
        for factor in self.plain.factors:
            keep_mask = view.draw(factor, stream)
            if self.loops:
                kept.append(view.apply(factor, keep_mask))
                marks = (keep_mask & (factor.rows != factor.indices)).to(factor.values().dtype)
            else:
                marks = factor.values() * keep_mask
            marked.append(factor.with_weights(marks))
        twin = Chain(tuple(marked)).normalise(kind)
        if self.loops:
            scales = Chain(tuple(kept)).normalise(kind)
            twin = Chain(twin.factors, scales.left, scales.right)
        return replace(self, masked=twin)

    def whole_twin(self) -> Operator:
        """[N, N]: the masked twin for all nodes."""
        if self.masked is None:
            return self.adjacency
        if not self.loops:
            return self.masked
        every = Csr.eye(self.masked.shape[0], self.masked.device)
        return Sum.of((self.masked, Chain((every,), self.masked.left, self.masked.right)), (1.0, 1.0))

    def to(self, device: torch.device, dtype: torch.dtype, moved: Moved) -> PathSource:
        return replace(
            self,
            plain=self.plain.to(device),
            adjacency=self.adjacency.to(device, dtype),
            masked=None if self.masked is None else self.masked.to(device, dtype),
            contexts=move(self.contexts, device, moved),
        )


@dataclass(frozen=True, eq=False)
class MetaPathSource:
    """All that the model reads. Memory grows with the edges, and with top-k entries where a path is composed.

    Attributes:
        target: the node type that is embedded.
        features: node type -> [N_type, F] as they enter the type's layer, or None.
        masked: the target's masked features; None where it has no features.
        paths: one or more.
    """

    target: str
    features: Mapping[str, Features]
    masked: Features
    paths: tuple[PathSource, ...]

    def draw(self, masks: Masks, generators: Generators) -> MetaPathSource:
        """With masks drawn from these generators: the same ones as :meth:`Masks.draw` draws."""
        features = self.features[self.target]
        masked = None if features is None else masks.features(features, masks.features.stream(generators, self.target))
        paths = tuple(
            path.draw(view, masks.normalisation, generators) for view, path in zip(masks.edges, self.paths, strict=True)
        )
        return replace(self, masked=masked, paths=paths)

    def whole(self) -> MetaPathInputs:
        """The inputs of all nodes with all neighbours, for embeddings: contexts are made a block of nodes at a time."""
        paths = tuple(
            PathInputs(path.name, path.adjacency, path.adjacency, path.whole_twin(), path.contexts)
            for path in self.paths
        )
        return MetaPathInputs(self.target, self.features, self.masked, paths)

    def to(self, device: torch.device, dtype: torch.dtype) -> MetaPathSource:
        features = {name: None if x is None else x.to(device, dtype) for name, x in self.features.items()}
        masked = None if self.masked is None else self.masked.to(device, dtype)
        moved: Moved = {}
        paths = tuple(path.to(device, dtype, moved) for path in self.paths)
        return MetaPathSource(self.target, features, masked, paths)


def read_source(
    graph: HeteroGraph, target: str, paths: tuple[MetaPath, ...], features: Mapping[str, Features]
) -> MetaPathSource:
    """The paths of a graph; no masks yet. Only paths of ``form="composed"`` are made."""
    known: dict[Route, Walked] = {}
    made = []
    for path in paths:
        composed = path.config.form != "factorised"
        plain = Chain.of((path.adjacency(graph),)) if composed else path.factorised(graph)
        route = path.route(graph)
        for hop in range(1, len(route)):
            if route[:hop] not in known:
                steps = tuple(step.matrix(graph).with_weights(None) for step in route[:hop])
                known[route[:hop]] = Walked(steps)
        contexts = tuple((step.end, known[route[:hop]]) for hop, step in enumerate(route[:-1], 1))
        adjacency = plain.normalise(path.config.normalisation)
        made.append(PathSource(path.name, plain, adjacency, None, composed, contexts))
    return MetaPathSource(target, features, features[target], tuple(made))
