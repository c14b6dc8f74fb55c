"""What a graph view is: a random variation of an adjacency or of features, once or drawn anew.

Edge drop: random entries of an adjacency are left out.

Feature mask: random features of nodes become 0.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, overload

import torch
from pydantic import Field
from torch import Tensor

from recgraph.config import Config, Search, configure
from recgraph.rng import Generators
from recgraph.sparse.csr import Csr

__all__ = [
    "EdgeDrop",
    "EdgeDropConfig",
    "FeatureMask",
    "FeatureMaskConfig",
    "GraphView",
    "GraphViewConfig",
    "keep_some",
]


class GraphViewConfig(Config):
    redraw: Annotated[
        bool,
        Field(description="draw anew at each call; False (as published) draws the same at every call"),
    ] = False


class GraphView:
    """Base of the random views of a graph. A subclass sets ``Config`` and defines ``__call__(value, generator)``.

    Args:
        config: the settings as a value, or
        settings: the settings by name.

    Raises:
        ConfigError: a setting that does not exist, or its value is not allowed.
    """

    #: what the view varies; views of sequences say ``"sequence"``
    target: ClassVar[str] = "graph"
    Config: ClassVar[type[GraphViewConfig]] = GraphViewConfig

    def __init__(self, config: GraphViewConfig | None = None, /, **settings: Any) -> None:
        self.config: Any = configure(self, self.Config, config, settings)

    def stream(self, generators: Generators, name: str) -> torch.Generator:
        """The generator for this view of something, by a name that tells it from others (a path, a node type).

        One that starts afresh at every call, so that the same is drawn however often it is asked for, also after a
        run is resumed; with ``redraw`` a stream that goes on.
        """
        purpose = f"view/{type(self).__name__}/{name}"
        return generators[purpose] if self.config.redraw else generators.fresh(purpose)


def keep_some(n: int, ratio: float, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """[n] bool: False for ``floor(ratio * n)`` places, uniform without replacement.

    Args:
        generator: may live on another device than the result, so that all devices draw the same.
    """
    keep_mask = torch.ones(n, dtype=torch.bool, device=generator.device)
    order = torch.randperm(n, generator=generator, device=generator.device)
    keep_mask[order[: int(ratio * n)]] = False
    return keep_mask.to(device)


class EdgeDropConfig(GraphViewConfig):
    ratio: Annotated[
        float, Field(ge=0, lt=1, description="the share of the entries that is left out"), Search(low=0.0, high=0.8)
    ] = 0.3
    binary: Annotated[bool, Field(description="what is kept becomes 1; False leaves it its weight")] = True
    self_loops: Annotated[
        bool,
        Field(
            description="of square matrices: the diagonal is never drawn, and is 1 throughout; False treats it as rest"
        ),
    ] = True


class EdgeDrop(GraphView):
    """Leave out ``floor(ratio * n)`` of the n entries, each direction by itself, uniform without replacement.

    Source: MEOW (SDM 2023) with the defaults: off-diagonal entries of a path's top-K matrix are deleted, the rest made
    binary, the identity added; normalise the result (``normalise(view, "meow")``). SGL (Wu et al., SIGIR 2021) drops
    edges of the user-item matrix: ``self_loops=False`` does not matter there, as it is not square.
    """

    Config = EdgeDropConfig

    def __call__(self, adj: Csr, generator: torch.Generator) -> Csr:
        """A view of a matrix, on its device.

        Args:
            adj: [R, C]; not changed.
            generator: see :meth:`GraphView.stream`.
        """
        return self.apply(adj, self.draw(adj, generator))

    def draw(self, adj: Csr, generator: torch.Generator) -> Tensor:
        """[E] bool: which entries stay (with self-loops those on the diagonal count as staying)."""
        candidates = torch.nonzero(self._may_go(adj)).squeeze(1)
        keep_mask = torch.ones(adj.nnz, dtype=torch.bool, device=adj.device)
        keep_mask[candidates] = keep_some(candidates.numel(), self.config.ratio, generator, adj.device)
        return keep_mask

    def apply(self, adj: Csr, keep_mask: Tensor) -> Csr:
        """The view that keeps the given entries ([E] bool)."""
        kept = adj.select(keep_mask)
        if self.config.binary:
            kept = kept.with_weights(None)
        return kept.with_diagonal(1.0) if self._has_loops(adj) else kept

    def difference(self, adj: Csr, keep_mask: Tensor) -> Csr:
        """What :meth:`apply` takes away: ``apply(adj, keep_mask) = adj.pattern() - difference(adj, keep_mask)``.

        It is small beside the matrix. Where the matrix has few distinct rows, the view is cheapest as
        ``Sum.of([compress_rows(adj.pattern()), difference], [1, -1])``.

        Args:
            adj: one entry a place.

        Raises:
            ValueError: the view keeps weights, so that it is no difference of patterns.
        """
        if not self.config.binary:
            raise ValueError("difference() is of patterns; it needs binary=True")
        gone = ~keep_mask
        on_diagonal = adj.rows == adj.indices
        if self._has_loops(adj):
            gone = gone & ~on_diagonal
        rows, cols = adj.rows[gone], adj.indices[gone]
        weights = torch.ones(rows.numel(), dtype=adj.values().dtype, device=adj.device)
        if self._has_loops(adj):  # the identity comes where it is not there yet
            absent = torch.ones(adj.shape[0], dtype=torch.bool, device=adj.device)
            absent[adj.rows[on_diagonal]] = False
            added = torch.nonzero(absent).squeeze(1)
            rows, cols = torch.cat([rows, added]), torch.cat([cols, added])
            weights = torch.cat([weights, -weights.new_ones(added.numel())])
        return Csr.from_coo(rows, cols, weights, shape=adj.shape)

    def _has_loops(self, adj: Csr) -> bool:
        return bool(self.config.self_loops) and adj.shape[0] == adj.shape[1]

    def _may_go(self, adj: Csr) -> Tensor:
        if self._has_loops(adj):
            return adj.rows != adj.indices
        return torch.ones_like(adj.indices, dtype=torch.bool)


class FeatureMaskConfig(GraphViewConfig):
    ratio: Annotated[
        float,
        Field(ge=0, lt=1, description="the share of the features that are not 0 which becomes 0"),
        Search(low=0.0, high=0.8),
    ] = 0.3


class FeatureMask(GraphView):
    """Set ``floor(ratio * n)`` of the n features that are not 0 to 0, uniform over all nodes without replacement.

    Source: MEOW (SDM 2023). What is left is not scaled.
    """

    Config = FeatureMaskConfig

    @overload
    def __call__(self, features: Tensor, generator: torch.Generator) -> Tensor: ...
    @overload
    def __call__(self, features: Csr, generator: torch.Generator) -> Csr: ...
    def __call__(self, features: Tensor | Csr, generator: torch.Generator) -> Tensor | Csr:
        """A view of features, on their device.

        Args:
            features: [N, F], dense or sparse; not changed.
            generator: see :meth:`GraphView.stream`.
        """
        if isinstance(features, Csr):
            return features.select(keep_some(features.nnz, self.config.ratio, generator, features.device))
        places = torch.nonzero(features.reshape(-1)).squeeze(1)
        keep_mask = keep_some(places.numel(), self.config.ratio, generator, features.device)
        masked = features.reshape(-1).index_fill(0, places[~keep_mask], 0)
        return masked.view(features.shape)
