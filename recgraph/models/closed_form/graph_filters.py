"""Graph filters of items, fitted in one step: GF-CF and Turbo-CF."""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from recgraph.config import Search
from recgraph.data.batches import Query
from recgraph.data.part import Part
from recgraph.encoders.items import SizedByState
from recgraph.models.base import ClosedFormModel, ModelConfig, PaddedForm, Space
from recgraph.models.closed_form.neighbours import NeighbourModel, fit_rows
from recgraph.rng import numpy_generator
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import power
from recgraph.sparse.products import compose, distinct, neighbours, presence
from recgraph.sparse.ragged import Ragged
from recgraph.sparse.spmm import spmm

#: the shorter side of a matrix, and its cells, up to which all its singular vectors are computed, of a dense copy
_DENSE, _DENSE_CELLS = 512, 1 << 23
#: singular values of a normalised matrix, of which the greatest is 1, up to which they are 0 but for rounding
_ZERO = 1e-7
#: users whose signals are filtered at a time, so that the signal on users [n_users, b] stays small
_SIGNALS = 256


class _Filter(NamedTuple):
    """``R~``, and ``D_I^-1/2`` and ``D_I^1/2`` [n_items, 1]."""

    matrix: Csr
    there: Tensor
    back: Tensor


def _is_dense(shape: tuple[int, int], n_vectors: int) -> bool:
    """Whether all singular vectors are computed: ARPACK finds fewer than the shorter side has."""
    return min(shape) <= n_vectors or (min(shape) <= _DENSE and math.prod(shape) <= _DENSE_CELLS)


class GFCFConfig(ModelConfig):
    n_factors: Annotated[
        int,
        Field(ge=0, description="rank of the ideal low-pass filter; 0: the linear filter alone"),
        Search(choices=(64, 128, 256, 512)),
    ] = 256
    ideal_weight: Annotated[
        float, Field(ge=0, description="alpha, of the ideal filter beside the linear one"), Search(0.0, 1.0)
    ] = 0.3


class GFCF(SizedByState, ClosedFormModel):
    """A linear and an ideal low-pass filter of the signal that a history is on the graph of items.

    ``s = x (R~' R~ + alpha D_I^-1/2 V V' D_I^1/2)`` with ``R~ = D_U^-1/2 R D_I^-1/2``, R the binary [users, items]
    matrix of training, D the degrees of users and items, V the ``n_factors`` first right singular vectors of R~ (those
    of singular values above 0) and x a binary history.

    ``R~' R~`` is never made: a history is taken to the users and back by two sparse products, so that the model keeps
    the training matrix, V and nothing of items by items. Memory is 8 bytes an interaction and 4 ``n_factors`` an item.

    Source: Shen et al., How Powerful is Graph Convolution for Recommendation? (CIKM 2021), equations 10 to 12, and the
    published code for where D_I stands around V. Departures: none; V is computed in float64 on the host by ARPACK
    (implicitly restarted Lanczos, a seeded start), or from a dense copy where a side is at most 512 and the copy small,
    or ``n_factors`` is all of a side.

    Attributes:
        items: [nnz] int64, the distinct items of each training user, one after another.
        offsets: [n_users + 1] int64, where the items of each user begin.
        factors: [n_items, K] float32, V; K is ``n_factors`` or the shorter side. Columns beyond the rank are 0.
    """

    Config = GFCFConfig
    reads_repeats = False
    sized_by_state = ("items",)
    items: Tensor
    offsets: Tensor
    factors: Tensor

    def _build(self, space: Space) -> None:
        width = min(self.config.n_factors, space.n_users, space.n_items)
        self.register_buffer("items", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("offsets", torch.zeros(space.n_users + 1, dtype=torch.int64))
        self.register_buffer("factors", torch.zeros(space.n_items, width))

    def fit(self, train: Part) -> Self:
        device = self.factors.device
        rows = fit_rows(self, train, train.items.device)  # scipy runs where the log is
        self.items, self.offsets = rows.values.to(device), rows.offsets.to(device)
        if self.factors.shape[1] and len(rows.values):
            self.factors.copy_(self._singular(rows))
        self.changed()
        return self

    def _singular(self, rows: Ragged) -> Tensor:
        """[n_items, K]: the right singular vectors of the normalised matrix, the greatest first."""
        from scipy.sparse.linalg import svds

        matrix, width = self._normalised(rows.values, rows.offsets, torch.float64)[0].to_scipy(), self.factors.shape[1]
        if _is_dense(matrix.shape, width):
            _, values, found = np.linalg.svd(matrix.toarray(), full_matrices=False)
        else:
            assert self.seed is not None
            start = numpy_generator(self.seed, "gf-cf").standard_normal(min(matrix.shape))
            _, values, found = svds(matrix, k=width, v0=start)
        order = np.argsort(-values, kind="stable")[:width]
        # a vector of singular value 0 is any one that is orthogonal to the histories
        vectors = found[order] * (values[order] > _ZERO)[:, None]
        return torch.from_numpy(np.ascontiguousarray(vectors.T))

    def _normalised(self, items: Tensor, offsets: Tensor, dtype: torch.dtype) -> tuple[Csr, Tensor]:
        """R~ [n_users, n_items], and D_I."""
        assert self.space is not None
        degrees = torch.bincount(items, minlength=self.space.n_items).to(dtype)
        edges = Csr(offsets, items, None, (len(offsets) - 1, len(degrees)))
        return edges.scale(power(torch.diff(offsets).to(dtype), -0.5), power(degrees, -0.5)), degrees

    def _filter(self) -> _Filter:
        matrix, degrees = self._normalised(self.items, self.offsets, self.factors.dtype)
        return _Filter(matrix, power(degrees, -0.5)[:, None], power(degrees, 0.5)[:, None])

    def score(self, query: Query) -> Tensor:
        assert self.space is not None
        n_items = self.space.n_items
        history = distinct(query.history, n_items)
        matrix, there, back = self.once("filter", self._filter)
        scores = self.factors.new_zeros(len(query), n_items)
        for first in range(0, len(query), _SIGNALS):
            some = history.take(torch.arange(first, min(first + _SIGNALS, len(query)), device=history.device))
            signal = scores.new_zeros(n_items, some.n_rows)
            signal[some.values, some.rows] = 1
            scores[first : first + some.n_rows] = spmm(matrix.t(), spmm(matrix, signal)).T
        if self.config.ideal_weight and self.factors.shape[1]:
            table = self.factors * there
            vectors = F.embedding_bag(history.values, table, history.offsets, mode="sum", include_last_offset=True)
            scores.addmm_(vectors, (self.factors * back).T, alpha=self.config.ideal_weight)
        return scores


class TurboCFConfig(ModelConfig):
    k: Annotated[
        int | None,
        Field(ge=1, description="entries of the graph that are kept of each item; none: all"),
        Search(low=10, high=1000, log=True),
    ] = 200
    user_power: Annotated[
        float,
        Field(ge=0, le=1, description="alpha: of users' degrees; items' have 1 - alpha"),
        Search(choices=(0.4, 0.5, 0.6, 0.7)),
    ] = 0.5
    power: Annotated[
        float, Field(gt=0, description="s, the exponent of each entry of the graph of items"), Search(0.5, 1.5)
    ] = 1.0
    filter: Annotated[
        Literal["linear", "second", "third"],
        Field(description="low-pass filter: P, 2 P - P^2, or P + 0.01 (-P^3 + 10 P^2 - 29 P)"),
        Search(choices=("linear", "second", "third")),
    ] = "linear"


#: filter -> its coefficients of P, P^2 and P^3
_POLYNOMIALS = {"linear": (1.0,), "second": (2.0, -1.0), "third": (0.71, 0.1, -0.01)}


class TurboCF(SizedByState, NeighbourModel):
    """A polynomial low-pass filter of a history on the graph of items, without factors.

    ``P = (R~' R~) ** s`` entry by entry, with ``R~ = D_U^-alpha R D_I^(alpha - 1)``, R the binary [users, items] matrix
    of training; scores are ``x P``, ``x (2 P - P^2)`` or ``x (P + 0.01 (-P^3 + 10 P^2 - 29 P))`` for a binary history
    x. Powers of P are applied one after another to a history and never made.

    Source: Park, Shin and Shin, Turbo-CF: Matrix Decomposition-Free Graph Filtering for Fast Recommendation (SIGIR
    2024), equations 5 to 9. Departure: of each item the ``k`` greatest entries of P are kept (12 bytes each), itself
    among them, where the paper holds items by items. With ``k=None`` it is the paper's, and P is held sparse: 12 bytes
    for each pair of items that a user has both of.

    Attributes:
        neighbours, similarities: as in :class:`NeighbourModel`; of all entries [nnz], those of one item after another.
        offsets: [n_items + 1] int64, where those of each item begin; of all entries alone.
    """

    Config = TurboCFConfig
    reads_weights = False
    sized_by_state = ("neighbours", "similarities")
    offsets: Tensor | None

    def _build(self, space: Space) -> None:
        if self.config.k is not None:
            super()._build(space)
        else:
            self.register_buffer("neighbours", torch.zeros(0, dtype=torch.int64))
            self.register_buffer("similarities", torch.zeros(0))
        offsets = torch.zeros(space.n_items + 1, dtype=torch.int64)
        self.register_buffer("offsets", offsets if self.config.k is None else None)

    def fit(self, train: Part) -> Self:
        rows = fit_rows(self, train, self.neighbours.device)
        alpha = self.config.user_power
        weights = rows.lengths.to(torch.float64).clamp(min=1).pow(-2 * alpha)
        if self.offsets is None:
            index, entries = neighbours(
                presence(rows, train.n_items, weights),
                self.neighbours.shape[1],
                norm_power=1 - alpha,
                with_itself=True,
            )
            self.neighbours.copy_(index)
            self.similarities.copy_(torch.where(entries > 0, entries.pow(self.config.power), 0))
        else:
            edges = Csr(rows.offsets, rows.values, None, (rows.n_rows, train.n_items))
            degrees = torch.bincount(rows.values, minlength=train.n_items).to(torch.float64)
            of_items = power(degrees, alpha - 1)
            graph = compose(edges.scale(weights, of_items).t(), edges, dtype=torch.float64).scale(None, of_items)
            self.offsets, self.neighbours = graph.indptr, graph.indices
            self.similarities = graph.values(torch.float64).pow(self.config.power).to(torch.float32)
        self.changed()
        return self

    def score(self, query: Query) -> Tensor:
        first, *higher = _POLYNOMIALS[self.config.filter]
        assert self.space is not None
        n_items = self.space.n_items
        history = distinct(query.history, n_items)
        # a history has few items, whatever the catalogue; what it leads to is dense
        known = Csr(history.offsets, history.values, None, (len(query), n_items))
        matrix = self.once("matrix", self._matrix)
        signal = compose(known, matrix).to_dense().T
        scores = first * signal
        for coefficient in higher:
            signal = self._filtered(matrix, signal)
            scores.add_(signal, alpha=coefficient)
        return scores.T

    def _filtered(self, matrix: Csr, signal: Tensor) -> Tensor:
        """P' of a signal [n_items, B]."""
        if self.offsets is not None:  # P is symmetric
            return spmm(matrix, signal)
        return F.embedding_bag(self.neighbours, signal, per_sample_weights=self.similarities, mode="sum")

    def _matrix(self) -> Csr:
        """P [items of a history, scored items]."""
        if self.offsets is not None:
            n_items = len(self.offsets) - 1
            return Csr(self.offsets, self.neighbours, self.similarities, (n_items, n_items))
        kept = self.similarities > 0
        entries = (self.neighbours[kept], kept.nonzero()[:, 0], self.similarities[kept])
        return Csr.from_coo(*entries, shape=(len(kept), len(kept)))

    def padded_form(self) -> PaddedForm | None:
        return super().padded_form() if self.config.filter == "linear" and self.offsets is None else None
