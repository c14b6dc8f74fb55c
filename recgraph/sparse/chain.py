"""``Chain``: a product of sparse matrices that is applied factor by factor and never made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from recgraph.sparse.compose import compose
from recgraph.sparse.csr import Csr
from recgraph.sparse.normalise import Normalisation, scales

__all__ = ["Chain"]


@dataclass(frozen=True, eq=False)
class Chain:
    """``diag(left) A_1 A_2 ... A_n diag(right)``; apply it with :func:`recgraph.sparse.spmm.spmm`.

    Costs the entries of the factors at every product, where the composed matrix costs its own, often many more: a
    path over 60 subjects has 4 million entries composed and 8 thousand in its factors.

    Attributes:
        factors: A_1 ... A_n, at least one; the inner sizes fit.
        left, right: [R] and [C], or None for ones.
    """

    factors: tuple[Csr, ...]
    left: Tensor | None = None
    right: Tensor | None = None

    @classmethod
    def of(cls, factors: Sequence[Csr]) -> Chain:
        """The plain product.

        Raises:
            ValueError: there are no factors, or two that follow each other do not fit.
        """
        if not factors:
            raise ValueError("factors = () must hold at least one matrix")
        for a, b in pairwise(factors):
            if a.shape[1] != b.shape[0]:
                raise ValueError(f"factors of shapes {a.shape} and {b.shape} follow each other and do not fit")
        return cls(tuple(factors))

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

    @property
    def nbytes(self) -> int:
        """Bytes of distinct factors (a factor's transpose shares nothing with it)."""
        return sum(factor.nbytes for factor in {id(factor): factor for factor in self.factors}.values())

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Chain:
        """On a device, with weights and scales of a type."""
        scales = [None if s is None else s.to(device=device, dtype=dtype) for s in (self.left, self.right)]
        return Chain(tuple(factor.to(device, dtype) for factor in self.factors), *scales)

    def t(self) -> Chain:
        """The transpose."""
        return Chain(tuple(factor.t() for factor in reversed(self.factors)), self.right, self.left)

    def row_sums(self) -> Tensor:
        """[R] float64: the chain applied to ones."""
        sums = torch.ones(self.shape[1], dtype=torch.float64, device=self.device)
        sums = sums if self.right is None else sums * self.right
        for factor in reversed(self.factors):
            reached = sums[factor.indices] if factor.weights is None else sums[factor.indices] * factor.weights
            sums = factor.with_weights(reached).row_sums()
        return sums if self.left is None else sums * self.left

    def scale(self, left: Tensor | None = None, right: Tensor | None = None) -> Chain:
        """``diag(left) (this) diag(right)``."""
        return Chain(self.factors, _times(left, self.left), _times(self.right, right))

    def normalise(self, kind: Normalisation) -> Chain:
        """As :func:`recgraph.sparse.normalise.normalise` does it with the composed matrix (full counts)."""
        left, right, transposed = scales(self.shape, kind, self.row_sums, lambda: self.t().row_sums())
        return (self.t() if transposed else self).scale(left, right)

    def to_csr(self) -> Csr:
        """The product, made."""
        product = self.factors[0]
        for factor in self.factors[1:]:
            product = compose(product, factor)
        return product.scale(self.left, self.right)

    def to_dense(self) -> Tensor:
        """[R, C]."""
        return self.to_csr().to_dense()


def _times(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a * b
