"""Normalised adjacencies, and operators on them that are applied without being made.

A :class:`Chain` is a product of matrices, applied factor by factor; a :class:`Sum` a weighted sum,
applied term by term; :func:`compress_rows` holds a matrix with many equal rows as a chain with each
of them once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor

from recgraph.sparse.blocks import work_type
from recgraph.sparse.csr import Csr, times
from recgraph.sparse.products import count_dtype

Normalisation = Literal["row", "column", "symmetric", "meow"]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Chain:
    """``diag(left) A_1 A_2 ... A_n diag(right)`` with n at least 1; None stands for ones.

    A product costs the entries of the factors: of a path over 60 subjects 8 thousand, where the
    composed matrix has 4 million.
    """

    factors: tuple[Csr, ...]
    left: Tensor | None = None
    right: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.factors[0].shape[0], self.factors[-1].shape[1]

    @property
    def device(self) -> torch.device:
        return self.factors[0].device

    @property
    def nnz(self) -> int:
        """The entries of all factors: the cost of one product."""
        return sum(factor.nnz for factor in self.factors)

    def t(self) -> Chain:
        """The transpose."""
        return Chain(tuple(factor.t() for factor in reversed(self.factors)), self.right, self.left)

    def row_sums(self) -> Tensor:
        """[R] float64: the chain applied to ones."""
        sums = torch.ones(self.shape[1], dtype=torch.float64, device=self.device)
        sums = times(sums, self.right)
        for factor in reversed(self.factors):
            entries = times(sums[factor.indices], factor.weights)
            sums = factor.with_weights(entries).row_sums()
        return times(sums, self.left)

    def scale(self, left: Tensor | None = None, right: Tensor | None = None) -> Chain:
        """``diag(left) (this) diag(right)``."""
        return Chain(self.factors, times(left, self.left), times(self.right, right))

    def placed(self, place: Placing) -> Chain:
        """On another device; see :class:`Placing`."""
        return Chain(tuple(map(place, self.factors)), place(self.left), place(self.right))


@dataclass(frozen=True, eq=False)
class Sum:
    """``c_1 T_1 + ... + c_n T_n`` of at least one matrix or chain of one shape: so a matrix is held
    whose many equal rows differ in some entries."""

    terms: tuple[Csr | Chain, ...]
    coefficients: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int]:
        return self.terms[0].shape

    def t(self) -> Sum:
        """The transpose."""
        return Sum(tuple(term.t() for term in self.terms), self.coefficients)

    def row_sums(self) -> Tensor:
        """[R] float64."""
        sums = torch.stack([_exact(term).row_sums() for term in self.terms])
        coefficients = sums.new_tensor(self.coefficients)
        return (coefficients[:, None] * sums).sum(0)

    def scale(self, left: Tensor | None = None, right: Tensor | None = None) -> Sum:
        """``diag(left) (this) diag(right)``."""
        return Sum(tuple(term.scale(left, right) for term in self.terms), self.coefficients)

    def placed(self, place: Placing) -> Sum:
        """On another device; see :class:`Placing`."""
        return Sum(tuple(map(place, self.terms)), self.coefficients)


M = TypeVar("M", bound=Csr | Chain | Sum)


def power(sums: Tensor, exponent: float) -> Tensor:
    """``sums ** exponent``, 0 where a sum is not above 0 (a row or column without entries, or of
    negative weight).
    """
    return torch.where(sums > 0, sums, 1).pow(exponent).masked_fill(sums <= 0, 0)


def normalise(adj: M, kind: Normalisation, dtype: torch.dtype | None = None) -> M:
    """Scale a matrix by its sums; rows and columns without weight stay empty or 0. No self-loop is
    added.

    - ``"row"``: ``D^-1 A``, D the row sums; every row is a mean.
    - ``"column"``: ``A D^-1``, D the column sums.
    - ``"symmetric"``: ``D_r^-1/2 A D_c^-1/2`` with the row and the column sums (Kipf and Welling
      2017; LightGCN, He et al. 2020, where A is the user-item matrix).
    - ``"meow"``: ``D^-1/2 A^T D^-1/2`` with D the *row* sums of a square A. What MEOW and HeCo
      publish: it differs from "symmetric" where A is not symmetric, as after a top-k per row.

    Args:
        adj: [R, C], weights not negative. Chains and sums are normalised as the made matrix, by
            scales in float64.
        dtype: of a matrix's weights; default: that of ``adj``'s, or the default type. Computed in
            float64.
    """
    exact: Csr | Chain | Sum = _exact(adj)
    scaled: Csr | Chain | Sum
    if kind == "row":
        scaled = exact.scale(power(exact.row_sums(), -1))
    elif kind == "column":
        scaled = exact.scale(None, power(exact.t().row_sums(), -1))
    elif kind == "symmetric":
        scaled = exact.scale(power(exact.row_sums(), -0.5), power(exact.t().row_sums(), -0.5))
    elif adj.shape[0] != adj.shape[1]:
        raise ValueError(f"kind = 'meow' needs a square matrix, not {adj.shape}; use 'symmetric'")
    else:
        root = power(exact.row_sums(), -0.5)
        scaled = exact.t().scale(root, root)
    if isinstance(adj, Csr):
        scaled = cast(Csr, scaled).to(dtype=dtype or count_dtype(adj))
    return cast(M, scaled)


def _exact(matrix: Csr | Chain | Sum) -> Csr | Chain | Sum:
    """A matrix with its weights, be they ones, in float64."""
    if isinstance(matrix, Csr):
        return matrix.with_weights(matrix.values(torch.float64))
    return matrix


def row_shares(features: Tensor | Csr, what: str, fix: str) -> Tensor | Csr:
    """[N, F]: features divided by their row sums; rows without features stay 0. Negative ones are
    refused, in the words ``what`` and ``fix``: rows of embeddings sum to about 0."""
    message = f"{what} hold negative values and cannot be divided by their row sums; {fix}"
    if isinstance(features, Csr):
        _refuse_negative(features.values(), message)
        return normalise(features, "row")
    _refuse_negative(features, message)
    wide = features.to(work_type(features))  # a sum may leave the range of half precision
    return (wide * power(wide.sum(1), -1)[:, None]).to(features.dtype)


def _refuse_negative(values: Tensor, message: str) -> None:
    if bool((values < 0).any()):
        raise ValueError(message)


def mean_of(matrices: list[Csr] | tuple[Csr, ...]) -> Csr:
    """The mean of matrices of one shape (MEOW's coarse view: the mean over the paths'
    adjacencies).
    """
    entries = [(matrix.rows, matrix.indices, matrix.values()) for matrix in matrices]
    rows, cols, weights = map(torch.cat, zip(*entries, strict=True))
    shape = matrices[0].shape
    return Csr.from_coo(rows, cols, weights / len(matrices), shape=shape, duplicates="sum")


# a chain pays where it has fewer entries than this share of the matrix
_WORTH = 0.5
# Odd 64-bit numbers that spread their factor over all bits.
_MIX = (-7046029254386353131, -4417276706812531889)


def compress_rows(adj: Csr) -> Chain | Csr:
    """``P U``, U the distinct rows and P the one that each row is; the matrix itself where that
    saves less than half.

    After PathSim's top-k the 4,019 rows of ACM's paper-subject-paper are 60 different ones.
    """
    distinct, group = group_rows(adj)
    if adj.shape[0] + distinct.nnz > _WORTH * adj.nnz:
        return adj
    n_rows = adj.shape[0]
    indptr = torch.arange(n_rows + 1, device=adj.device)
    return Chain((Csr(indptr, group, None, (n_rows, distinct.shape[0])), distinct))


def group_rows(adj: Csr) -> tuple[Csr, Tensor]:
    """The distinct rows [G, C], and [R] int64, which of them each row is."""
    row_index = torch.arange(adj.shape[0], device=adj.device)
    if not adj.nnz:
        return adj, row_index
    bits = adj.indices * _MIX[0]
    if adj.weights is not None:
        bits = bits + adj.weights.detach().to(torch.float64).view(torch.int64) * _MIX[1]
    bits = (bits ^ (bits >> 29)) * _MIX[1]
    fingerprints = torch.zeros_like(row_index).index_add_(0, adj.rows, bits)
    _, group = torch.unique(torch.stack([fingerprints, adj.degrees]), dim=1, return_inverse=True)
    # the first row of each group stands for it
    zeros = row_index.new_zeros(int(group.max()) + 1)
    first = zeros.scatter_reduce(0, group, row_index, "amin", include_self=False)
    distinct = adj.take_rows(first)
    # two rows may have one fingerprint
    again = distinct.take_rows(group)
    is_same = torch.equal(again.indptr, adj.indptr) and torch.equal(again.indices, adj.indices)
    if is_same and torch.equal(again.values(), adj.values()):
        return distinct, group
    return adj, row_index


class Placing:
    """Moves tensors, matrices, chains, sums and what says how in ``placed(place)``, each of their
    tensors once.

    What is the same object here is the same object there, and matrices with the same places share
    them there, with all that is computed from them. Weights, scales and features become of a type;
    None leaves each its own.
    """

    def __init__(self, device: torch.device | str, dtype: torch.dtype | None = None) -> None:
        self.device, self.dtype = device, dtype
        # with the originals, or the id of what is freed could come again
        self._moved: dict[tuple[int, torch.dtype | None], tuple[Any, Any]] = {}
        self._places: dict[tuple[int, int], Csr] = {}

    def __call__(self, x: T) -> T:
        """``x``, a tensor, a matrix, an operator or None, there; itself where it is there
        already.
        """
        dtype = self.dtype
        if isinstance(x, Tensor) and not x.is_floating_point():
            dtype = None
        key = id(x), dtype
        if key not in self._moved:
            self._moved[key] = x, self._move(x, dtype)
        return cast(T, self._moved[key][1])

    def _move(self, x: Any, dtype: torch.dtype | None) -> Any:
        if x is None:
            return None
        if isinstance(x, Tensor):
            return x.to(self.device, dtype)
        if isinstance(x, Csr):
            return self._move_matrix(x)
        return x.placed(self)

    def _move_matrix(self, matrix: Csr) -> Csr:
        indices, weights = self(matrix.indices), self(matrix.weights)
        if indices is matrix.indices:
            if weights is matrix.weights:
                return matrix
            return matrix.with_weights(weights)
        key = id(matrix.indptr), id(matrix.indices)
        if key not in self._places:
            self._places[key] = Csr(self(matrix.indptr), indices, None, matrix.shape)
        return self._places[key].with_weights(weights)
