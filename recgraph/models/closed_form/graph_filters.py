"""Graph filters of items, fitted in one step: GF-CF, BSPM and Turbo-CF."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from recgraph.config import Search
from recgraph.data.batches import Query
from recgraph.data.part import Part
from recgraph.encoders.items import SizedByState
from recgraph.models.base import ClosedFormModel, ModelConfig, Space
from recgraph.models.closed_form.neighbours import fit_matrix
from recgraph.rng import numpy_generator
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import Chain, power
from recgraph.sparse.products import compose, distinct, neighbours
from recgraph.sparse.ragged import Ragged
from recgraph.sparse.spmm import Operator, spmm

#: the shorter side of a matrix, and its cells, up to which all its singular vectors are computed,
#: of a dense copy
_DENSE, _DENSE_CELLS = 512, 1 << 23
#: singular values of a normalised matrix, of which the greatest is 1, up to which they are 0 but
#: for rounding
_ZERO = 1e-7
#: users whose signals are filtered at a time, so that the signal on users [n_users, b] stays small
_SIGNALS = 256


class GraphFilter(SizedByState, ClosedFormModel):
    """Base of filters of the signal that a history is on the graph of items, ``P = R~' R~``.

    ``R~ = D_U^-alpha R D_I^(alpha - 1)``, R the [users, items] matrix of training, binary or of the
    roots of weights, D_U the numbers of items, D_I the sums of weights: a user of weights 2 counts
    as two. P is never made: a signal is taken to the users and back, so that memory is 12 bytes an
    interaction.

    Attributes:
        items: [nnz] int64, the distinct items of each training user, one after another.
        offsets: [n_users + 1] int64, where the items of each user begin.
        weights: [nnz] float32, the entries of R~.
    """

    reads_weights = True
    reads_repeats = False
    sized_by_state = ("items", "offsets", "weights")
    items: Tensor
    offsets: Tensor
    weights: Tensor

    def _build(self, space: Space) -> None:
        self.register_buffer("items", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("offsets", torch.zeros(space.n_users + 1, dtype=torch.int64))
        self.register_buffer("weights", torch.zeros(0))

    def keep(self, matrix: Csr) -> None:
        """Set the matrix that the buffers hold."""
        device = self.offsets.device
        self.items, self.offsets = matrix.indices.to(device), matrix.indptr.to(device)
        self.weights = matrix.values(torch.float32).to(device)
        self.changed()

    @property
    def matrix(self) -> Csr:
        """What the buffers hold."""
        assert self.space is not None
        return Csr(
            self.offsets, self.items, self.weights, (len(self.offsets) - 1, self.space.n_items)
        )

    def operator(self) -> Operator:
        """P [scored items, items of a history]."""
        matrix = self.matrix
        return Chain((matrix.t(), matrix))

    def propagate(self, signal: Tensor) -> Tensor:
        """P of a signal [n_items, B]."""
        return spmm(self.once("operator", self.operator), signal)

    def filtered(self, history: Ragged, signal: Tensor) -> Tensor:
        """[n_items, B]: what becomes of B histories of distinct items, of which ``signal`` has a 1
        in each.
        """
        raise TypeError(f"{type(self).__name__} must define filtered(history, signal)")

    def score(self, query: Query) -> Tensor:
        assert self.space is not None
        n_items = self.space.n_items
        history = distinct(query.history, n_items)
        scores = self.weights.new_zeros(len(query), n_items)
        for first in range(0, len(query), _SIGNALS):
            block = history.part(first, min(first + _SIGNALS, len(query)))
            signal = scores.new_zeros(n_items, block.n_rows)
            signal[block.values, block.rows] = 1
            scores[first : first + block.n_rows] = self.filtered(block, signal).T
        return scores


def _normalised(matrix: Csr, alpha: float) -> tuple[Csr, Tensor]:
    """R~ in float64, and D_I."""
    matrix = matrix.with_weights(matrix.values(torch.float64))
    users = matrix.degrees.to(torch.float64)
    items = matrix.t().row_sums()
    roots = matrix.with_weights(matrix.values().sqrt())
    return roots.scale(power(users, -alpha), power(items, alpha - 1)), items


Factors = Annotated[
    int,
    Field(ge=0, description="rank of the ideal low-pass filter; 0: the linear filter alone"),
    Search(choices=(64, 128, 256, 448, 512)),
]
IdealWeight = Annotated[
    float, Field(ge=0, description="of the ideal filter beside the linear one"), Search(0.0, 1.0)
]


class GFCFConfig(ModelConfig):
    n_factors: Factors = 256
    ideal_weight: IdealWeight = 0.3


class GFCF(GraphFilter):
    """A linear and an ideal low-pass filter of the signal that a history is on the graph of items.

    ``s = x (P + alpha D_I^-1/2 V V' D_I^1/2)`` with ``P = R~' R~``, ``R~ = D_U^-1/2 R D_I^-1/2``, V
    the ``n_factors`` first right singular vectors of R~ (those of singular values above 0) and x a
    binary history. Memory is 12 bytes an interaction and 4 ``n_factors`` an item.

    Source: Shen et al., How Powerful is Graph Convolution for Recommendation? (CIKM 2021),
    equations 10 to 12, and the published code for where D_I stands around V. Departures: none; V is
    computed in float64 on the host by ARPACK (implicitly restarted Lanczos, a seeded start), or
    from a dense copy where a side is at most 512 and the copy small, or ``n_factors`` is all of a
    side.

    Attributes:
        degrees: [n_items] float32, D_I.
        factors: [n_items, K] float32, V; K is ``n_factors`` or the shorter side. Columns beyond the
            rank are 0.
    """

    Config = GFCFConfig
    degrees: Tensor
    factors: Tensor

    def _build(self, space: Space) -> None:
        super()._build(space)
        width = min(self.config.n_factors, space.n_users, space.n_items)
        self.register_buffer("degrees", torch.zeros(space.n_items))
        self.register_buffer("factors", torch.zeros(space.n_items, width))

    def fit(self, train: Part) -> Self:
        # scipy runs where the log is
        matrix, degrees = _normalised(fit_matrix(self, train, train.items.device), 0.5)
        self.keep(matrix)
        self.degrees.copy_(degrees)
        if self.factors.shape[1] and matrix.nnz:
            self.factors.copy_(self._singular(matrix))
        return self

    def _singular(self, normalised: Csr) -> Tensor:
        """[n_items, K]: the right singular vectors of the normalised matrix, the greatest first."""
        from scipy.sparse.linalg import svds

        matrix = normalised.to_scipy()
        width = self.factors.shape[1]
        shorter = min(matrix.shape)
        is_small = shorter <= _DENSE and math.prod(matrix.shape) <= _DENSE_CELLS
        if is_small or shorter <= width:  # ARPACK finds fewer than the shorter side has
            _, values, vectors = np.linalg.svd(matrix.toarray(), full_matrices=False)
        else:
            start = numpy_generator(self.seed, "gf-cf").standard_normal(shorter)
            _, values, vectors = svds(matrix, k=width, v0=start)
        order = np.argsort(-values, kind="stable")[:width]
        # a vector of singular value 0 is any one that is orthogonal to the histories
        vectors = vectors[order] * (values[order] > _ZERO)[:, None]
        return torch.from_numpy(np.ascontiguousarray(vectors.T))

    def filtered(self, history: Ragged, signal: Tensor) -> Tensor:
        blurred = self.propagate(signal)
        if self.config.ideal_weight and self.factors.shape[1]:
            table = self.factors * power(self.degrees, -0.5)[:, None]
            vectors = F.embedding_bag(
                history.values, table, history.offsets, mode="sum", include_last_offset=True
            )
            back = self.factors * power(self.degrees, 0.5)[:, None]
            blurred.addmm_(back, vectors.T, alpha=self.config.ideal_weight)
        return blurred


class BSPMConfig(GFCFConfig):
    n_factors: Factors = 448
    ideal_weight: IdealWeight = 0.2
    sharpening: Annotated[
        float,
        Field(ge=0, description="T, the time for which the blurred signal is sharpened"),
        Search(0.0, 3.0),
    ] = 2.5


class BSPM(GFCF):
    """A blurring and a sharpening process: GF-CF's filters, then the way back along the heat
    equation.

    The signal s of :class:`GFCF` is sharpened by ``dr/dt = -r P`` from ``r(0) = s`` to ``r(T)``, in
    one step of Runge-Kutta: ``r(T) = s (I - T P + T^2 P^2 / 2 - T^3 P^3 / 6 + T^4 P^4 / 24)``, four
    products more.

    Source: Choi et al., Blurring-Sharpening Process Models for Collaborative Filtering (SIGIR
    2023), sections 3.2 and 3.3, and the published code: BSPM-EM, where the ideal filter is merged
    before the sharpening, with its factors, weight and time for Gowalla. Departures: as of
    :class:`GFCF`, and no other solver nor several steps.
    """

    Config = BSPMConfig

    def filtered(self, history: Ragged, signal: Tensor) -> Tensor:
        sharp = term = super().filtered(history, signal)
        for order in range(1, 5):
            term = self.propagate(term) * (-self.config.sharpening / order)
            sharp = sharp + term
        return sharp


class TurboCFConfig(ModelConfig):
    user_power: Annotated[
        float,
        Field(ge=0, le=1, description="alpha: of users' degrees; items' have 1 - alpha"),
        Search(choices=(0.4, 0.5, 0.6, 0.7)),
    ] = 0.6
    filter: Annotated[
        Literal["linear", "second", "third"],
        Field(description="low-pass filter: P, 2 P - P^2, or P + 0.01 (-P^3 + 10 P^2 - 29 P)"),
        Search(choices=("linear", "second", "third")),
    ] = "second"
    power: Annotated[
        float,
        Field(gt=0, description="s, the exponent of each entry of the graph of items"),
        Search(0.5, 1.5),
    ] = 1.0
    k: Annotated[
        int | None,
        Field(ge=1, description="entries of the graph that are kept of each item; none: all"),
    ] = None


#: filter -> its coefficients of P, P^2 and P^3
_POLYNOMIALS = {"linear": (1.0,), "second": (2.0, -1.0), "third": (0.71, 0.1, -0.01)}


class TurboCF(GraphFilter):
    """A polynomial low-pass filter of a history on the graph of items, without singular vectors.

    ``P = (R~' R~) ** s`` entry by entry, with ``R~ = D_U^-alpha R D_I^(alpha - 1)``; scores are ``x
    P``, ``x (2 P - P^2)`` or ``x (P + 0.01 (-P^3 + 10 P^2 - 29 P))`` for a binary history x. Powers
    of P are applied one after another to a history and never made. P itself is made where s is not
    1 alone: 12 bytes for each pair of items that a user has both of.

    Source: Park, Shin and Shin, Turbo-CF: Matrix Decomposition-Free Graph Filtering for Fast
    Recommendation (SIGIR 2024), equations 5 to 9, with the settings for Yelp2018. Departure: P by
    two sparse products, exactly, where the paper holds items by items; with ``k`` the greatest
    entries of each scored item alone are kept, itself among them.
    """

    Config = TurboCFConfig

    @property
    def is_made(self) -> bool:
        """Whether P is made: then the buffers hold it, and no R~."""
        return self.config.power != 1 or self.config.k is not None

    def fit(self, train: Part) -> Self:
        config = self.config
        matrix, _ = _normalised(fit_matrix(self, train, self.offsets.device), config.user_power)
        if config.k is not None:
            matrix = _nearest(matrix, min(config.k, train.n_items))
        elif self.is_made:
            matrix = compose(matrix.t(), matrix)
        self.keep(matrix.with_weights(matrix.values() ** config.power))
        return self

    def operator(self) -> Operator:
        if self.is_made:
            return self.matrix
        return super().operator()

    def filtered(self, history: Ragged, signal: Tensor) -> Tensor:
        total = torch.zeros_like(signal)
        for coefficient in _POLYNOMIALS[self.config.filter]:
            signal = self.propagate(signal)
            total.add_(signal, alpha=coefficient)
        return total


def _nearest(matrix: Csr, k: int) -> Csr:
    """The ``k`` greatest entries of each row of ``R~' R~``."""
    n_items = matrix.shape[1]
    squares = matrix.with_weights(matrix.values() ** 2)  # neighbours() reads the roots of weights
    norms = squares.values().new_ones(n_items)
    index, entries = neighbours(squares, k, norms=norms, with_itself=True)
    mask = entries > 0
    return Csr.from_coo(mask.nonzero()[:, 0], index[mask], entries[mask], shape=(n_items, n_items))
