"""``Sum``: a weighted sum of sparse matrices and chains that is applied term by term and never made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from recgraph.sparse.chain import Chain
from recgraph.sparse.csr import Csr
from recgraph.sparse.normalise import Normalisation, scales, sums_of

__all__ = ["Sum", "as_mean"]


@dataclass(frozen=True, eq=False)
class Sum:
    """``c_1 T_1 + ... + c_n T_n``; apply it with :func:`recgraph.sparse.spmm.spmm`.

    Two uses: the mean over paths where one of them is a chain (:func:`as_mean`), and a matrix with many equal rows of
    which some entries differ: the equal rows once (:func:`recgraph.sparse.compress.compress_rows`) minus what differs.

    Attributes:
        terms: of one shape, at least one.
        coefficients: a number for each.
    """

    terms: tuple[Csr | Chain, ...]
    coefficients: tuple[float, ...]

    @classmethod
    def of(cls, terms: Sequence[Csr | Chain], coefficients: Sequence[float]) -> Sum:
        """The sum.

        Raises:
            ValueError: there are no terms, their shapes differ, or there are not as many coefficients.
        """
        shapes = {term.shape for term in terms}
        if len(shapes) != 1 or len(terms) != len(coefficients):
            raise ValueError(
                f"{len(terms)} terms of the shapes {sorted(shapes)} with {len(coefficients)} coefficients: give at "
                "least one term, all of one shape, and a coefficient for each"
            )
        return cls(tuple(terms), tuple(coefficients))

    @property
    def shape(self) -> tuple[int, int]:
        return self.terms[0].shape

    @property
    def device(self) -> torch.device:
        return self.terms[0].device

    @property
    def nnz(self) -> int:
        """The entries of all terms: the cost of one product."""
        return sum(term.nnz for term in self.terms)

    @property
    def nbytes(self) -> int:
        return sum(term.nbytes for term in self.terms)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Sum:
        """On a device, with weights of a type."""
        return Sum(tuple(term.to(device, dtype) for term in self.terms), self.coefficients)

    def t(self) -> Sum:
        """The transpose."""
        return Sum(tuple(term.t() for term in self.terms), self.coefficients)

    def row_sums(self) -> Tensor:
        """[R] float64."""
        parts = [c * sums_of(term) for c, term in zip(self.coefficients, self.terms, strict=True)]
        return torch.stack(parts).sum(0)

    def scale(self, left: Tensor | None = None, right: Tensor | None = None) -> Sum:
        """``diag(left) (this) diag(right)``."""
        return Sum(tuple(term.scale(left, right) for term in self.terms), self.coefficients)

    def normalise(self, kind: Normalisation) -> Sum:
        """As :func:`recgraph.sparse.normalise.normalise` does it with the made sum."""
        left, right, transposed = scales(self.shape, kind, self.row_sums, partial(_column_sums, self))
        return (self.t() if transposed else self).scale(left, right)

    def to_dense(self) -> Tensor:
        """[R, C]."""
        return torch.stack([c * term.to_dense() for c, term in zip(self.coefficients, self.terms, strict=True)]).sum(0)


def _column_sums(of: Sum) -> Tensor:
    return of.t().row_sums()


def as_mean(terms: Sequence[Csr | Chain]) -> Sum:
    """The mean of matrices and chains."""
    return Sum.of(terms, [1 / len(terms)] * len(terms))
