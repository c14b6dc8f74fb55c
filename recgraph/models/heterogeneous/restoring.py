"""Losses of masked autoencoders of graphs: rows that are restored, compared with what they were by their cosine.

What is restored has one number for each node and feature, or for each two nodes. Neither matrix is made: a row of
either is a linear function of a vector of D numbers, so that its length and its inner product with a sparse row follow
from D x D matrices and sparse products.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recgraph.accelerated import full_precision
from recgraph.blocks import work_type
from recgraph.models.heterogeneous.paths import Features
from recgraph.models.heterogeneous.type_layers import times
from recgraph.sparse.csr import Csr
from recgraph.sparse.spmm import Operator, spmm

__all__ = ["attribute_cosines", "edge_cosines", "lengths_of", "scaled_cosine_error"]

# lengths below this count as this, so that rows of zeros have cosine 0
_SHORTEST = 1e-12


def scaled_cosine_error(cosines: Tensor, power: float) -> Tensor:
    """[N]: ``(1 - cos)^power``.

    Source: Hou et al., GraphMAE (KDD 2022).
    """
    # a cosine of 1 + rounding would make roots of negative numbers
    return (1 - cosines).clamp(min=0).pow(power)


def lengths_of(x: Features, n: int, like: Tensor) -> Tensor:
    """[N]: the lengths of rows of features [N, F], dense or sparse; None: of the identity. Summed in float32 at least.

    Args:
        n: N.
        like: gives type and device.
    """
    if x is None:
        return like.new_ones(n)
    # squares of half precision are 0 below 2e-4 and infinite above 255
    values = x.values() if isinstance(x, Csr) else x
    squares = values.to(work_type(values)).square()
    sums = x.with_weights(squares).row_sums() if isinstance(x, Csr) else squares.sum(1)
    return sums.sqrt().to(like.dtype)


def attribute_cosines(z: Tensor, decoder: nn.Linear, x: Features, lengths: Tensor) -> Tensor:
    """[N]: the cosines of ``W z_i + b`` and the features ``x_i``, in float32 at least.

    Args:
        z: [N, D].
        decoder: W [F, D] and b.
        x: [N, F]; None: the identity.
        lengths: [N], those of x.
    """
    with full_precision(z):
        z, matrix = _with_ones(z), _with_bias(decoder)
        products = (z * times(x, matrix)).sum(1)
        return products / (_roots(z @ (matrix.T @ matrix), z) * lengths.clamp(min=_SHORTEST))


def edge_cosines(z: Tensor, decoder: nn.Linear, adjacency: Operator, lengths: Tensor) -> Tensor:
    """[N]: the cosines of the rows of ``Y Y^T`` and of an adjacency A, with ``y_i = W z_i + b``, in float32 at least.

    ``(Y Y^T)_i . A_i = y_i . (A Y)_i``, and ``|(Y Y^T)_i|^2 = y_i (Y^T Y) y_i``.

    Args:
        z: [N, D].
        decoder: W [F, D] and b.
        adjacency: A, [N, N].
        lengths: [N], those of the rows of A.
    """
    with full_precision(z):
        z, matrix = _with_ones(z), _with_bias(decoder)
        y = z @ (matrix.T @ matrix)
        products = (y * spmm(adjacency, z)).sum(1)
        return products / (_roots(y @ (z.T @ z), y) * lengths.clamp(min=_SHORTEST))


def _with_ones(z: Tensor) -> Tensor:
    z = z.to(work_type(z))
    return torch.cat([z, z.new_ones(len(z), 1)], 1)


def _with_bias(decoder: nn.Linear) -> Tensor:
    """[F, D + 1]: ``[W b]``."""
    weight = decoder.weight.to(work_type(decoder.weight))
    return torch.cat([weight, decoder.bias[:, None].to(weight.dtype)], 1)


def _roots(x: Tensor, y: Tensor) -> Tensor:
    """[N]: ``sqrt(x_i . y_i)``, of squares that rounding may have made negative."""
    return (x * y).sum(1).clamp(min=_SHORTEST**2).sqrt()
