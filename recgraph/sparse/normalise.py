"""Normalised adjacencies, sparse throughout."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from recgraph.sparse.csr import Csr

__all__ = ["Normalisation", "mean_of", "normalise", "power"]

Normalisation = Literal["row", "column", "symmetric", "meow"]


def power(sums: Tensor, exponent: float) -> Tensor:
    """``sums ** exponent``, 0 where a sum is 0 (a row or column without entries)."""
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
    return _scaled(exact, kind).to(dtype=dtype)


def _scaled(adj: Csr, kind: Normalisation) -> Csr:
    if kind == "row":
        return adj.scale(left=power(_sums(adj), -1))
    if kind == "column":
        return adj.scale(right=power(_sums(adj.t()), -1))
    if kind == "symmetric":
        return adj.scale(power(_sums(adj), -0.5), power(_sums(adj.t()), -0.5))
    if kind == "meow":
        if adj.shape[0] != adj.shape[1]:
            raise ValueError(f"kind = 'meow' needs a square matrix, not {adj.shape}; use 'symmetric'")
        root = power(_sums(adj), -0.5)
        return adj.t().scale(root, root)
    raise ValueError(f"kind = {kind!r} must be one of {', '.join(get_args(Normalisation))}")


def _sums(adj: Csr) -> Tensor:
    return adj.degrees.to(torch.float64) if adj.weights is None else adj.row_sums()


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
