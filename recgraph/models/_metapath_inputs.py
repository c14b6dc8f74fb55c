"""What MEOW and AdaMEOW read from a typed graph: adjacencies, contexts, features, and their masked twins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from recgraph.data.hetero import HeteroGraph
from recgraph.rng import Generators
from recgraph.sparse.chain import Chain
from recgraph.sparse.compress import compress_rows
from recgraph.sparse.csr import Csr
from recgraph.sparse.layered import Layered
from recgraph.sparse.linear_sum import Sum
from recgraph.sparse.normalise import Normalisation, normalise
from recgraph.sparse.spmm import Operator
from recgraph.views._context import Walked
from recgraph.views._route import Route
from recgraph.views.edge_drop import EdgeDrop
from recgraph.views.feature_mask import FeatureMask
from recgraph.views.metapath import MetaPath

__all__ = ["Masks", "MetaPathInputs", "PathInputs", "move", "read_graph"]

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
