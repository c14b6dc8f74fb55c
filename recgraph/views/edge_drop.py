"""Edge drop: random entries of an adjacency are left out."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from recgraph.config import Search
from recgraph.sparse.csr import Csr
from recgraph.views.base_graph import GraphView, GraphViewConfig, keep_some

__all__ = ["EdgeDrop", "EdgeDropConfig"]


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
