"""Meta-paths of a graph that is too large for steps on all of it: held by their factors, read whole or by batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from recgraph.data.hetero import HeteroGraph
from recgraph.models._metapath_inputs import Features, Masks, MetaPathInputs, Moved, PathInputs, move
from recgraph.rng import Generators
from recgraph.sparse.chain import Chain
from recgraph.sparse.csr import Csr
from recgraph.sparse.linear_sum import Sum
from recgraph.sparse.normalise import Normalisation
from recgraph.sparse.spmm import Operator
from recgraph.views._context import Walked
from recgraph.views._route import Route
from recgraph.views.edge_drop import EdgeDrop
from recgraph.views.metapath import MetaPath

__all__ = ["MetaPathSource", "PathSource", "read_source"]


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
