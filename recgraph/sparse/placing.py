"""Matrices that share tensors, moved to a device: they share them there, too."""

from __future__ import annotations

import copy
from typing import TypeVar, cast

import torch
from torch import Tensor

from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import Chain, Sum

_Matrix = Csr | Chain | Sum
T = TypeVar("T", bound=Tensor | Csr | Chain | Sum | None)


class Placing:
    """Moves tensors, matrices, chains and sums, each of their tensors once.

    What is the same object here is the same object there, and matrices with the same places (one is the other with
    other weights) share those places, with all that is computed from them. Moving them one by one would hold the
    indices of a matrix once for each matrix that is made from it.

    Args:
        device: where to.
        dtype: of weights, scales and features; None leaves each its own.
    """

    def __init__(self, device: torch.device | str, dtype: torch.dtype | None = None) -> None:
        self.device, self.dtype = torch.empty(0, device=device).device, dtype
        # the originals are kept with the results: the id of what is freed may come again
        self._tensors: dict[tuple[int, torch.dtype | None], tuple[Tensor, Tensor]] = {}
        self._places: dict[tuple[int, int], tuple[Csr, Csr]] = {}
        self._operators: dict[tuple[int, torch.dtype | None], tuple[_Matrix, _Matrix]] = {}

    def keeping_types(self) -> Placing:
        """The same, with the same memory of what is there, where weights keep their types."""
        other = copy.copy(self)
        other.dtype = None
        return other

    def __call__(self, x: T) -> T:
        """``x`` there; itself where it is there already."""
        if x is None:
            return x
        if isinstance(x, Tensor):
            return cast(T, self._tensor(x, self.dtype if x.is_floating_point() else None))
        key = id(x), self.dtype
        if key not in self._operators:
            self._operators[key] = x, self._operator(x)
        return cast(T, self._operators[key][1])

    def _tensor(self, x: Tensor, dtype: torch.dtype | None) -> Tensor:
        key = id(x), dtype
        if key not in self._tensors:
            self._tensors[key] = x, x.to(device=self.device, dtype=dtype)
        return self._tensors[key][1]

    def _operator(self, x: _Matrix) -> _Matrix:
        if isinstance(x, Csr):
            return self._csr(x)
        if isinstance(x, Sum):
            return Sum(tuple(self(term) for term in x.terms), x.coefficients)
        return Chain(tuple(self(factor) for factor in x.factors), self(x.left), self(x.right))

    def _csr(self, x: Csr) -> Csr:
        weights = self(x.weights)
        if self._tensor(x.indices, None) is x.indices:
            return x if weights is x.weights else x.with_weights(weights)
        key = id(x.indptr), id(x.indices)
        if key not in self._places:
            moved = Csr(self._tensor(x.indptr, None), self._tensor(x.indices, None), None, x.shape)
            self._places[key] = x, moved
        places = self._places[key][1]
        return places if weights is None else places.with_weights(weights)
