"""Normalised adjacencies, sparse throughout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from recgraph.sparse.csr import Csr

__all__ = ["Normalisation", "mean_of", "normalise", "power", "row_shares", "scales", "sums_of"]

Normalisation = Literal["row", "column", "symmetric", "meow"]


class _HasRowSums(Protocol):
    def row_sums(self) -> Tensor: ...


def power(sums: Tensor, exponent: float) -> Tensor:
    """``sums ** exponent``, 0 where a sum is not above 0 (a row or column without entries, or of negative weight)."""
    return torch.where(sums > 0, sums, 1).pow(exponent).masked_fill(sums <= 0, 0)


def normalise(adj: Csr, kind: Normalisation, dtype: torch.dtype | None = None) -> Csr:
    """Scale a matrix by its sums; rows and columns without weight stay empty or 0. No self-loop is added.

    - ``"row"``: ``D^-1 A``, D the row sums; every row is a mean.
    - ``"column"``: ``A D^-1``, D the column sums.
    - ``"symmetric"``: ``D_r^-1/2 A D_c^-1/2`` with the row and the column sums (Kipf and Welling 2017; LightGCN, He et
      al. 2020, where A is the user-item matrix).
    - ``"meow"``: ``D^-1/2 A^T D^-1/2`` with D the *row* sums of a square A. What MEOW and HeCo publish: it differs
      from "symmetric" where A is not symmetric, as after a top-k per row.

    Args:
        adj: [R, C], weights not negative.
        dtype: of the result's weights; default: that of ``adj``'s, or the default type. Computed in float64.

    Raises:
        ValueError: the kind is not known, or ``"meow"`` is asked of a matrix that is not square.
    """
    dtype = dtype or (torch.get_default_dtype() if adj.weights is None else adj.weights.dtype)
    exact = adj if adj.weights is None else adj.with_weights(adj.weights.to(torch.float64))
    left, right, transposed = scales(adj.shape, kind, lambda: sums_of(exact), lambda: sums_of(exact.t()))
    return (exact.t() if transposed else exact).scale(left, right).to(dtype=dtype)


def row_shares(features: Tensor | Csr, what: str, fix: str) -> Tensor | Csr:
    """[N, F]: features divided by their row sums; rows without features stay 0.

    Args:
        features: none of them negative: embeddings of texts sum to about 0, so that rows would be blown up, and lost
            where the sum is negative.
        what, fix: what an error calls them, and what it says to do.

    Raises:
        ValueError: a feature is negative.
    """
    values = features.values() if isinstance(features, Csr) else features
    if bool((values < 0).any()):
        raise ValueError(
            f"{what} hold negative values, down to {float(values.min()):.3g}, and cannot be divided by their row sums; "
            f"{fix}"
        )
    if isinstance(features, Csr):
        return normalise(features, "row")
    return features * power(features.sum(1), -1)[:, None]


def scales(
    shape: tuple[int, int], kind: Normalisation, row_sums: Callable[[], Tensor], column_sums: Callable[[], Tensor]
) -> tuple[Tensor | None, Tensor | None, bool]:
    """What a normalisation multiplies rows and columns with, and whether it does so with the transpose.

    Raises:
        ValueError: see :func:`normalise`.
    """
    if kind == "row":
        return power(row_sums(), -1), None, False
    if kind == "column":
        return None, power(column_sums(), -1), False
    if kind == "symmetric":
        return power(row_sums(), -0.5), power(column_sums(), -0.5), False
    if kind == "meow":
        if shape[0] != shape[1]:
            raise ValueError(f"kind = 'meow' needs a square matrix, not {shape}; use 'symmetric'")
        root = power(row_sums(), -0.5)
        return root, root, True
    raise ValueError(f"kind = {kind!r} must be one of {', '.join(get_args(Normalisation))}")


def sums_of(matrix: _HasRowSums) -> Tensor:
    """[R] float64: row sums, exact where weights are whole numbers."""
    if isinstance(matrix, Csr):
        if matrix.weights is None:
            return matrix.degrees.to(torch.float64)
        matrix = matrix.with_weights(matrix.weights.to(torch.float64))
    return matrix.row_sums()


def mean_of(matrices: list[Csr] | tuple[Csr, ...]) -> Csr:
    """The mean of matrices of one shape (MEOW's coarse view: the mean over the paths' adjacencies).

    Raises:
        ValueError: there are none, or their shapes differ.
    """
    shapes = {matrix.shape for matrix in matrices}
    if len(shapes) != 1:
        raise ValueError(f"matrices have the shapes {sorted(shapes)}; give at least one, all of one shape")
    rows = torch.cat([matrix.rows for matrix in matrices])
    cols = torch.cat([matrix.indices for matrix in matrices])
    weights = torch.cat([matrix.values() for matrix in matrices]) / len(matrices)
    return Csr.from_coo(rows, cols, weights, shape=shapes.pop(), duplicates="sum")
