"""``Csr``: a sparse matrix by rows, as a value: edges, counts, normalised adjacencies."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

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
        wrong = indptr.dtype != torch.int64 or indices.dtype != torch.int64 or indices.dim() != 1
        wrong = (
            wrong
            or int(indptr[0]) != 0
            or int(indptr[-1]) != indices.numel()
            or bool((indptr.diff() < 0).any())
        )
        if wrong or (
            indices.numel() and not (int(indices.min()) >= 0 and int(indices.max()) < self.shape[1])
        ):
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
        for index, size in ((rows, shape[0]), (cols, shape[1])) if rows.numel() else ():
            low, high = torch.aminmax(index)
            if bool((low < 0) | (high >= size)):  # one read of a device
                raise ValueError(
                    f"entries {int(low)} ... {int(high)} lie outside of a matrix of shape {shape}"
                )
        order = sort_entries(rows, cols, shape[1])
        indptr = offsets_of(torch.bincount(rows.to(torch.int64), minlength=shape[0]))
        sorted_weights = None if weights is None else as_floating(weights)[order]
        made = cls(indptr, cols[order].to(torch.int64), sorted_weights, shape)
        return made if duplicates == "keep" else made.coalesce()

    @classmethod
    def from_scipy(cls, matrix: Any, device: torch.device | str | None = None) -> Csr:
        """From any scipy sparse matrix or array; entries at one place are summed, as scipy means
        them.
        """
        coo = matrix.tocoo()
        data = torch.as_tensor(coo.data, device=device)
        rows, cols = (
            torch.as_tensor(index, dtype=torch.int64, device=device) for index in (coo.row, coo.col)
        )
        return cls.from_coo(rows, cols, data, shape=tuple(coo.shape), duplicates="sum")

    @classmethod
    def from_dense(cls, matrix: Tensor) -> Csr:
        """The entries of an [R, C] matrix that are not 0."""
        rows, cols = torch.nonzero(matrix, as_tuple=True)
        return cls.from_coo(
            rows, cols, matrix[rows, cols], shape=(matrix.shape[0], matrix.shape[1])
        )

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
        return (
            self._places["rows"]
            if "rows" in self._places
            else Ragged(self.indices, self.indptr).rows
        )

    def values(self, dtype: torch.dtype | None = None) -> Tensor:
        """[E]: the weights, ones where there are none."""
        if self.weights is None:
            return torch.ones(self.nnz, dtype=dtype, device=self.device)
        return self.weights if dtype is None else self.weights.to(dtype)

    def shared(self, key: str, make: Callable[[], T]) -> T:
        """What depends on the places of the entries alone: made once for all matrices with the same
        places.
        """
        if key not in self._places:
            self._places[key] = make()
        found: T = self._places[key]
        return found

    def with_weights(self, weights: Tensor | None) -> Csr:
        """The same places with other weights ([E], aligned with :attr:`indices`)."""
        return Csr(self.indptr, self.indices, weights, self.shape, self._places)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Csr:
        """On a device, with weights of a type; itself where nothing changes."""
        moved = self.indices.to(device)
        weights = (
            self.weights if self.weights is None else self.weights.to(device=device, dtype=dtype)
        )
        if moved is self.indices:
            return self if weights is self.weights else self.with_weights(weights)
        return Csr(self.indptr.to(device), moved, weights, self.shape)

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
            order = torch.empty_like(order).scatter_(
                0, order, torch.arange(len(order), device=order.device)
            )
        else:  # narrow keys sort faster
            order = torch.argsort(
                self.indices.to(torch.int32 if self.shape[1] < 2**31 else None), stable=True
            )
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
        found = torch.segment_reduce(_wide(self.weights), "sum", offsets=self.indptr, initial=0)
        return found.to(self.weights.dtype)

    def scale(self, left: Tensor | None = None, right: Tensor | None = None) -> Csr:
        """``diag(left) A diag(right)``; [R] and [C], or None for ones."""
        weights = self.weights
        for factor, index in ((left, self._entry_rows), (right, lambda: self.indices)):
            if factor is not None:
                weights = factor[index()] if weights is None else weights * factor[index()]
        return self.with_weights(weights)

    def entries_at(self, rows: Tensor, columns: Tensor) -> Tensor:
        """For each place ([K] rows, [K] columns) its entry, -1 where there is none; one entry a
        place.
        """
        if not self.nnz:
            return torch.full_like(rows, -1)
        keys, wanted = self.rows * self.shape[1] + self.indices, rows * self.shape[1] + columns
        at = torch.searchsorted(keys, wanted).clamp_(max=self.nnz - 1)
        return at.masked_fill_(keys[at] != wanted, -1)

    def select(self, keep_mask: Tensor) -> Csr:
        """Only the entries where ``keep_mask`` [E] is True."""
        indptr = offsets_of(torch.bincount(self.rows[keep_mask], minlength=self.shape[0]))
        weights = None if self.weights is None else self.weights[keep_mask]
        return Csr(indptr, self.indices[keep_mask], weights, self.shape)

    def take_rows(self, rows: Tensor) -> Csr:
        """The given rows ([K] int64, repeats allowed), as a [K, C] matrix, at the cost of these
        rows alone.
        """
        starts = self.indptr[rows]
        entries = consecutive(starts, self.indptr[rows + 1] - starts)
        weights = None if self.weights is None else self.weights[entries.values]
        return Csr(
            entries.offsets, self.indices[entries.values], weights, (rows.numel(), self.shape[1])
        )

    def row_block(self, block: slice) -> Csr:
        """Consecutive rows, without a copy of their entries."""
        start, stop, _ = block.indices(self.shape[0])
        indptr = self.indptr[start : stop + 1]
        entries = slice(int(indptr[0]), int(indptr[-1]))
        weights = None if self.weights is None else self.weights[entries]
        return Csr(
            indptr - indptr[0], self.indices[entries], weights, (stop - start, self.shape[1])
        )

    def coalesce(self) -> Csr:
        """Entries at one place become one with their sum."""
        first = torch.ones_like(self.indices, dtype=torch.bool)
        first[1:] = (self.indices[1:] != self.indices[:-1]) | (self.rows[1:] != self.rows[:-1])
        if bool(first.all()):
            return self
        group = torch.cumsum(first, 0) - 1
        kept = self.with_weights(None).select(first)
        if self.weights is None:  # integers: of float32 ones a sum would stand still at 2^24
            counts = group.new_zeros(kept.nnz).index_add(0, group, torch.ones_like(group))
            return kept.with_weights(counts.to(torch.get_default_dtype()))
        wide = _wide(self.weights)
        return kept.with_weights(
            wide.new_zeros(kept.nnz).index_add(0, group, wide).to(self.weights.dtype)
        )

    def pattern(self) -> Csr:
        """Where the matrix is not 0, without weights: one entry a place."""
        merged = self.coalesce()
        if merged.weights is None:
            return merged
        present = merged.weights != 0
        return (merged if bool(present.all()) else merged.select(present)).with_weights(None)

    def diagonal(self) -> Tensor:
        """[min(R, C)]: the values on the diagonal, 0 where there is no entry."""
        on = self.rows == self.indices
        found = self.values()[on]
        wide = _wide(found)
        return wide.new_zeros(min(self.shape)).index_add(0, self.indices[on], wide).to(found.dtype)

    def with_diagonal(self, value: float | None) -> Csr:
        """With ``value`` in every place of the diagonal, or without a diagonal (None)."""
        rest, weights = self.select(self.rows != self.indices), None
        if value is None:
            return rest
        every = torch.arange(min(self.shape), device=self.device)
        if rest.weights is not None or value != 1:
            known = rest.values()
            weights = torch.cat([known, known.new_full((len(every),), value)])
        rows, columns = torch.cat([rest.rows, every]), torch.cat([rest.indices, every])
        return Csr.from_coo(rows, columns, weights, shape=self.shape)

    def to_dense(self) -> Tensor:
        """[R, C]; entries at one place are summed."""
        values = self.values()
        return values.new_zeros(self.shape).index_put(
            (self.rows, self.indices), values, accumulate=True
        )

    def to_scipy(self) -> Any:
        """A ``scipy.sparse.csr_array`` of a matrix on the host; several entries at one place
        stay.
        """
        import numpy as np
        from scipy.sparse import csr_array

        parts = (self.values().detach(), self.indices, self.indptr)
        return csr_array(tuple(np.asarray(part) for part in parts), shape=self.shape)


def sort_entries(rows: Tensor, cols: Tensor, n_cols: int) -> Tensor:
    """[E] int64: the order by row and column in which :class:`Csr` holds entries; equal places keep
    theirs.
    """
    return torch.argsort(rows.to(torch.int64) * max(n_cols, 1) + cols, stable=True)


def _wide(weights: Tensor) -> Tensor:
    """Half precision as float32: it would stop counting ones at 2^11, or 2^8."""
    return weights.float() if weights.dtype in (torch.float16, torch.bfloat16) else weights


def as_floating(weights: Tensor) -> Tensor:
    """The weights, or numbers of the default floating type where they are integers or truth
    values.
    """
    return weights if weights.is_floating_point() else weights.to(torch.get_default_dtype())


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
