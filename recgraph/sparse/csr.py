"""``Csr``: a sparse matrix by rows, as a value: edges, counts, normalised adjacencies."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, overload

import torch
from torch import Tensor

from recgraph.sparse.ragged import Ragged, consecutive, offsets_of

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Csr:
    """Row ``r`` has entries in the columns ``indices[indptr[r]:indptr[r + 1]]``, ascending.

    A column may stand in a row several times (edges of a multigraph); such entries keep their order
    and their values add up in every product. Matrices are immutable; what depends on the places of
    the entries alone (the transpose, the row of each entry, backends' own forms) is computed once
    for all matrices with the same places.
    """

    #: [R + 1] int64, from 0 to the number of entries E
    indptr: Tensor
    #: [E] int64, ascending within a row
    indices: Tensor
    #: [E] floating point, which may require a gradient, or None where every entry is 1
    weights: Tensor | None
    #: (R, C)
    shape: tuple[int, int]
    _places: dict[str, Any] = field(default_factory=dict, repr=False)
    _own: dict[str, Csr] = field(default_factory=dict, init=False, repr=False)

    def checked(self) -> Csr:
        """This matrix, where its entries lie in its rows and columns (ValueError); kernels read by
        them unchecked.
        """
        indptr, indices = self.indptr, self.indices
        is_valid = (
            indptr.dtype == indices.dtype == torch.int64
            and indices.dim() == 1
            and indptr[[0, -1]].tolist() == [0, indices.numel()]
            and bool((indptr.diff() >= 0).all())
            and bool(((indices >= 0) & (indices < self.shape[1])).all())
        )
        if not is_valid:
            raise ValueError(f"the entries are none of a matrix of shape {self.shape}")
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # what was computed of it is computed again where it arrives
        return type(self), (self.indptr, self.indices, self.weights, self.shape)

    @classmethod
    def from_coo(
        cls,
        rows: Tensor,
        cols: Tensor,
        weights: Tensor | None = None,
        *,
        shape: tuple[int, int],
        duplicates: Literal["keep", "sum"] = "keep",
    ) -> Csr:
        """From entries [E] in any order; integer weights become the default floating type. Several
        at one place stay, in the given order, or become one with their sum. A ValueError where an
        index is out of range."""
        outside = (rows < 0) | (rows >= shape[0]) | (cols < 0) | (cols >= shape[1])
        if bool(outside.any()):
            row, col = int(rows[outside][0]), int(cols[outside][0])
            raise ValueError(f"entry ({row}, {col}) lies outside of a matrix of shape {shape}")
        order = sort_entries(rows, cols, shape[1])
        indptr = offsets_of(torch.bincount(rows.to(torch.int64), minlength=shape[0]))
        if weights is not None:
            weights = as_floating(weights)[order]
        matrix = cls(indptr, cols[order].to(torch.int64), weights, shape)
        if duplicates == "sum":
            return matrix.coalesce()
        return matrix

    @classmethod
    def from_scipy(cls, matrix: Any, device: torch.device | str | None = None) -> Csr:
        """From any scipy sparse matrix or array; entries at one place are summed, as scipy means
        them.
        """
        coo = matrix.tocoo()
        data = torch.as_tensor(coo.data, device=device)
        rows = torch.as_tensor(coo.row, dtype=torch.int64, device=device)
        cols = torch.as_tensor(coo.col, dtype=torch.int64, device=device)
        return cls.from_coo(rows, cols, data, shape=tuple(coo.shape), duplicates="sum")

    @classmethod
    def from_dense(cls, matrix: Tensor) -> Csr:
        """The entries of an [R, C] matrix that are not 0."""
        rows, cols = torch.nonzero(matrix, as_tuple=True)
        n_rows, n_cols = matrix.shape
        return cls.from_coo(rows, cols, matrix[rows, cols], shape=(n_rows, n_cols))

    @property
    def nnz(self) -> int:
        """The number of entries, each of several at one place counted."""
        return self.indices.numel()

    @property
    def device(self) -> torch.device:
        return self.indices.device

    @property
    def degrees(self) -> Tensor:
        """[R] int64: the entries of each row."""
        return self.indptr.diff()

    @property
    def rows(self) -> Tensor:
        """[E] int64: the row of each entry."""
        return self.shared("rows", self._entry_rows)

    def _entry_rows(self) -> Tensor:
        """:attr:`rows` where they are not worth keeping."""
        if "rows" in self._places:
            rows: Tensor = self._places["rows"]
            return rows
        return Ragged(self.indices, self.indptr).rows

    def values(self, dtype: torch.dtype | None = None) -> Tensor:
        """[E]: the weights, ones where there are none."""
        if self.weights is None:
            return torch.ones(self.nnz, dtype=dtype, device=self.device)
        return self.weights.to(device=None, dtype=dtype)

    def _weights_at(self, entries: Tensor | slice) -> Tensor | None:
        if self.weights is None:
            return None
        return self.weights[entries]

    def shared(self, key: str, make: Callable[[], T]) -> T:
        """What depends on the places of the entries alone: made once for all matrices with the same
        places.
        """
        if key not in self._places:
            self._places[key] = make()
        value: T = self._places[key]
        return value

    def with_weights(self, weights: Tensor | None) -> Csr:
        """The same places with other weights ([E], aligned with :attr:`indices`)."""
        return Csr(self.indptr, self.indices, weights, self.shape, self._places)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Csr:
        """On a device, with weights of a type; itself where nothing changes."""
        indices = self.indices.to(device)
        weights = self.weights
        if weights is not None:
            weights = weights.to(device=device, dtype=dtype)
        if indices is not self.indices:
            return Csr(self.indptr.to(device), indices, weights, self.shape)
        if weights is self.weights:
            return self
        return self.with_weights(weights)

    def t(self) -> Csr:
        """The transpose; weights that carry a gradient pass it on."""
        places, order = self.shared("transposed", self._transpose)
        if self.weights is None:
            return places
        if self.weights.requires_grad:
            return places.with_weights(self.weights[order])
        if "transposed" not in self._own:
            self._own["transposed"] = places.with_weights(self.weights[order])
        return self._own["transposed"]

    def _transpose(self) -> tuple[Csr, Tensor]:
        """The transpose without weights, and the order in which it has the entries."""
        if "origin" in self._places:  # this is itself a transpose
            indptr, indices, order = self._places["origin"]
            places = torch.arange(len(order), device=order.device)
            order = torch.empty_like(order).scatter_(0, order, places)
        else:
            # narrow keys sort faster, and no matrix has 2^31 columns
            order = torch.argsort(self.indices.to(torch.int32), stable=True)
            indptr = offsets_of(torch.bincount(self.indices, minlength=self.shape[1]))
            indices = self._entry_rows()[order]
        flipped = Csr(indptr, indices, None, (self.shape[1], self.shape[0]))
        # the tensors, not this matrix: two that hold each other are not freed before Python looks
        # for such rings
        flipped._places["origin"] = (self.indptr, self.indices, order)
        return flipped, order

    def row_sums(self) -> Tensor:
        """[R]: sums of the weights; the numbers of entries, in the default type, where there are
        none.
        """
        if self.weights is None:
            return self.degrees.to(torch.get_default_dtype())
        sums = torch.segment_reduce(_wide(self.weights), "sum", offsets=self.indptr, initial=0)
        return sums.to(self.weights.dtype)

    def scale(self, left: Tensor | None = None, right: Tensor | None = None) -> Csr:
        """``diag(left) A diag(right)``; [R] and [C], or None for ones."""
        weights = self.weights
        if left is not None:
            weights = times(weights, left[self._entry_rows()])
        if right is not None:
            weights = times(weights, right[self.indices])
        return self.with_weights(weights)

    def entries_at(self, rows: Tensor, columns: Tensor) -> Tensor:
        """For each place ([K] rows, [K] columns) its entry, -1 where there is none; one entry a
        place.
        """
        if not self.nnz:
            return torch.full_like(rows, -1)
        keys = self.rows * self.shape[1] + self.indices
        places = rows * self.shape[1] + columns
        entries = torch.searchsorted(keys, places).clamp_(max=self.nnz - 1)
        return entries.masked_fill_(keys[entries] != places, -1)

    def select(self, keep_mask: Tensor) -> Csr:
        """Only the entries where ``keep_mask`` [E] is True."""
        indptr = offsets_of(torch.bincount(self.rows[keep_mask], minlength=self.shape[0]))
        return Csr(indptr, self.indices[keep_mask], self._weights_at(keep_mask), self.shape)

    def take_rows(self, rows: Tensor) -> Csr:
        """The given rows ([K] int64, repeats allowed), as a [K, C] matrix, at the cost of these
        rows alone.
        """
        starts = self.indptr[rows]
        taken = consecutive(starts, self.indptr[rows + 1] - starts)
        entries = taken.values
        shape = (rows.numel(), self.shape[1])
        return Csr(taken.offsets, self.indices[entries], self._weights_at(entries), shape)

    def row_block(self, block: slice) -> Csr:
        """Consecutive rows, without a copy of their entries."""
        start, stop, _ = block.indices(self.shape[0])
        indptr = self.indptr[start : stop + 1]
        entries = slice(int(indptr[0]), int(indptr[-1]))
        shape = (stop - start, self.shape[1])
        return Csr(indptr - indptr[0], self.indices[entries], self._weights_at(entries), shape)

    def coalesce(self) -> Csr:
        """Entries at one place become one with their sum."""
        first = torch.ones_like(self.indices, dtype=torch.bool)
        first[1:] = (self.indices[1:] != self.indices[:-1]) | (self.rows[1:] != self.rows[:-1])
        if bool(first.all()):
            return self
        group = torch.cumsum(first, 0) - 1
        merged = self.with_weights(None).select(first)
        if self.weights is None:  # integers: of float32 ones a sum would stand still at 2^24
            values, dtype = torch.ones_like(group), torch.get_default_dtype()
        else:
            values, dtype = _wide(self.weights), self.weights.dtype
        sums = values.new_zeros(merged.nnz).index_add(0, group, values)
        return merged.with_weights(sums.to(dtype))

    def pattern(self) -> Csr:
        """Where the matrix is not 0, without weights: one entry a place."""
        merged = self.coalesce()
        if merged.weights is None:
            return merged
        present = merged.weights != 0
        if not bool(present.all()):
            merged = merged.select(present)
        return merged.with_weights(None)

    def diagonal(self) -> Tensor:
        """[min(R, C)]: the values on the diagonal, 0 where there is no entry."""
        on = self.rows == self.indices
        values = self.values()[on]
        wide = _wide(values)
        sums = wide.new_zeros(min(self.shape)).index_add(0, self.indices[on], wide)
        return sums.to(values.dtype)

    def with_diagonal(self, value: float | None) -> Csr:
        """With ``value`` in every place of the diagonal, or without a diagonal (None)."""
        rest = self.select(self.rows != self.indices)
        if value is None:
            return rest
        diagonal = torch.arange(min(self.shape), device=self.device)
        weights = None
        if rest.weights is not None or value != 1:
            known = rest.values()
            weights = torch.cat([known, known.new_full((len(diagonal),), value)])
        rows = torch.cat([rest.rows, diagonal])
        columns = torch.cat([rest.indices, diagonal])
        return Csr.from_coo(rows, columns, weights, shape=self.shape)

    def to_dense(self) -> Tensor:
        """[R, C]; entries at one place are summed."""
        values = self.values()
        zeros = values.new_zeros(self.shape)
        return zeros.index_put((self.rows, self.indices), values, accumulate=True)

    def to_scipy(self) -> Any:
        """A ``scipy.sparse.csr_array`` of a matrix on the host; several entries at one place
        stay.
        """
        import numpy as np
        from scipy.sparse import csr_array

        parts = (self.values().detach(), self.indices, self.indptr)
        return csr_array(tuple(map(np.asarray, parts)), shape=self.shape)


@overload
def times(a: Tensor, b: Tensor | None) -> Tensor: ...
@overload
def times(a: Tensor | None, b: Tensor) -> Tensor: ...
@overload
def times(a: Tensor | None, b: Tensor | None) -> Tensor | None: ...
def times(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """``a b`` of weights or scales of one shape; None stands for ones."""
    if a is None:
        return b
    if b is None:
        return a
    return a * b


def sort_entries(rows: Tensor, cols: Tensor, n_cols: int) -> Tensor:
    """[E] int64: the order by row and column in which :class:`Csr` holds entries; equal places keep
    theirs.
    """
    return torch.argsort(rows.to(torch.int64) * max(n_cols, 1) + cols, stable=True)


def _wide(weights: Tensor) -> Tensor:
    """Half precision as float32: it would stop counting ones at 2^11, or 2^8."""
    if weights.dtype in (torch.float16, torch.bfloat16):
        return weights.float()
    return weights


def as_floating(weights: Tensor) -> Tensor:
    """The weights, or numbers of the default floating type where they are integers or truth
    values.
    """
    if weights.is_floating_point():
        return weights
    return weights.to(torch.get_default_dtype())


def csr_tensor(adj: Csr, dtype: torch.dtype | None = None) -> Tensor:
    """A ``torch.sparse_csr`` tensor that shares the matrix's own; weights of a type (default: their
    own).
    """
    with warnings.catch_warnings():  # torch says at first use that its CSR tensors are in beta
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        # the entries were checked when they were made; checking again would wait for the device
        return torch.sparse_csr_tensor(
            adj.indptr, adj.indices, adj.values(dtype), adj.shape, check_invariants=False
        )
