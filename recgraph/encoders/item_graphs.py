"""Graphs of items, for vectors that items get from one another: through users, and through what follows what."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from recgraph.encoders.graph import mean
from recgraph.encoders.kept import SizedByState
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import normalise
from recgraph.sparse.products import distinct
from recgraph.sparse.ragged import Ragged
from recgraph.sparse.spmm import spmm

Steps = Annotated[int, Field(ge=1, le=100, description="layers of propagation")]
Window = Annotated[int, Field(ge=1, le=100, description="places between two items at most")]


class ItemGraph(nn.Module):
    """Base of the registry's kind ``item_graph``: ``graph(x, generator)`` makes vectors of items, [n_items, D], of the
    vectors x, [n_items, D], of those that each is related to.

    Its settings are the parameters of ``__init__``; it is given ``n_items`` and ``hidden_dim`` besides, and ``graph``,
    a typed graph, where :attr:`reads_graph`.
    """

    #: whether it is made of a typed graph beside the log
    reads_graph: ClassVar[bool] = False

    def connect(self, rows: Ragged) -> None:
        """Called before training with the items of each user, oldest first."""

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[n_items, D]; the generator draws dropout and is required in training mode where there is some."""
        raise NotImplementedError


class LinkedItems(SizedByState, ItemGraph):
    """Base of those whose relation is learned from the log: a normalised matrix, which is part of the state, so that a
    saved model ranks without its training data. Before :meth:`connect` no item has a neighbour.

    With A the operator that :meth:`hop` applies, ``g = mean(x, A x, ..., A^K x)``, LightGCN's propagation (He et al.,
    SIGIR 2020, equations 3 and 8) among items.

    Args:
        n_items: items.
        n_layers: K.
    """

    sized_by_state = ("indptr", "indices", "weights")
    indptr: Tensor
    indices: Tensor
    weights: Tensor

    def __init__(self, n_items: int, n_layers: Steps = 2) -> None:
        super().__init__()
        self.n_items, self.n_layers = n_items, n_layers
        # half the bytes of int64, in every checkpoint
        self.register_buffer("indptr", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("indices", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("weights", torch.zeros(0))

    def connect(self, rows: Ragged) -> None:
        found = normalise(self.links(rows.to(self.indptr.device)), "symmetric", self.weights.dtype)
        assert found.weights is not None
        self.indptr, self.indices, self.weights = found.indptr, found.indices.to(torch.int32), found.weights
        self.changed()

    def links(self, rows: Ragged) -> Csr:
        """[R, n_items]: what is normalised and kept."""
        raise NotImplementedError

    def hop(self, matrix: Csr, transposed: Csr, x: Tensor) -> Tensor:
        """[n_items, D]: ``A x``, of the kept matrix and its transpose."""
        raise NotImplementedError

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        matrix, transposed = self._matrices(x.dtype)
        every = [x]
        for _ in range(self.n_layers):
            every.append(self.hop(matrix, transposed, every[-1]))
        return mean(every)

    def _matrices(self, dtype: torch.dtype) -> tuple[Csr, Csr]:
        def make() -> tuple[Csr, Csr]:
            shape = (len(self.indptr) - 1, self.n_items)
            # a file of weights may hold anything
            matrix = Csr(self.indptr, self.indices.long(), self.weights.to(dtype), shape).checked()
            return matrix, matrix.t()

        return self.once(dtype, make)


class Interactions(LinkedItems):
    """Items that the same users chose: LightGCN over the log.

    ``A = R^T R`` with R the matrix of users by items of distinct interactions, ``D_u^-1/2 R D_i^-1/2``: two layers of
    LightGCN are one of these. Departure from LightGCN: users have no vectors of their own; a user is the sum of items.
    """

    def links(self, rows: Ragged) -> Csr:
        once = distinct(rows, self.n_items)
        return Csr(once.offsets, once.values, None, (once.n_rows, self.n_items))

    def hop(self, matrix: Csr, transposed: Csr, x: Tensor) -> Tensor:
        return spmm(transposed, spmm(matrix, x))


class Transitions(LinkedItems):
    """Items that follow one another within a user's history.

    A has ``w_ij``, the sum of ``1 / d`` over the places where i and j stand d <= ``window`` apart in a history, in
    either order, normalised symmetrically. With ``window`` above 1 it is the item graph of GCE-GNN (Wang et al., SIGIR
    2020, section 4.1) with these weights in the place of its attention and of its cut to the most frequent neighbours.

    Args:
        n_items, n_layers: see :class:`LinkedItems`.
        window: of places.
    """

    def __init__(self, n_items: int, n_layers: Steps = 2, window: Window = 1) -> None:
        super().__init__(n_items, n_layers)
        self.window = window
        self.indptr = torch.zeros(n_items + 1, dtype=torch.int64)

    def links(self, rows: Ragged) -> Csr:
        shape = (self.n_items, self.n_items)
        found: Csr | None = None
        for distance in range(1, self.window + 1):
            # the pairs of one distance at a time: a log has few distinct ones beside its places
            before, after = rows.values[:-distance], rows.values[distance:]
            row = rows.rows
            keep_mask = (row[:-distance] == row[distance:]) & (before != after)
            ends = before[keep_mask], after[keep_mask]
            weights = torch.full((2 * len(ends[0]),), 1 / distance, dtype=torch.float64, device=before.device)
            pairs = torch.cat(ends), torch.cat(ends[::-1])
            if found is not None:
                assert found.weights is not None
                pairs = torch.cat([found.rows, pairs[0]]), torch.cat([found.indices, pairs[1]])
                weights = torch.cat([found.weights, weights])
            found = Csr.from_coo(*pairs, weights, shape=shape, duplicates="sum")
        assert found is not None
        return found

    def hop(self, matrix: Csr, transposed: Csr, x: Tensor) -> Tensor:
        return spmm(matrix, x)
