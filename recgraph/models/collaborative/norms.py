"""The squared norms of the vectors that a batch reads, before propagation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recgraph.accelerated import full_precision
from recgraph.blocks import row_blocks
from recgraph.rows import is_sparse, read_once

__all__ = ["half_squared_norms"]


def half_squared_norms(table: Tensor, places: Sequence[Tensor]) -> Tensor:
    """Half the mean squared norm of the rows at each of the places, summed.

    Args:
        table: [N, D]; of one with sparse gradients the touched rows alone are read.
        places: int64, any shapes; empty ones count nothing.
    """
    # half precision would lose digits, and takes no part in a product with float32
    with full_precision(table):
        if is_sparse(table):
            table, places = read_once(table, *places)
        # how often each row is read: a pass over the table costs less than lookups with gradients
        counts = table.new_zeros(table.shape[0])
        for index in places:
            if index.numel():
                share = counts.new_full((), 1 / index.numel())
                counts.index_add_(0, index.flatten(), share.expand(index.numel()))
        total: Tensor = _HalfWeightedNorms.apply(table, table, counts)  # type: ignore[no-untyped-call]
        return total


class _HalfWeightedNorms(torch.autograd.Function):
    """``1/2 sum_i w_i |x_i|^2``; the gradient takes one pass over x, where that of ``vecdot(x, x)`` takes three.

    x is passed twice, and each argument gets half of the gradient: autograd then adds to the other gradients of x in
    the order of ``vecdot``, so that no last digit changes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, same: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, weights)
        squares = [torch.linalg.vecdot(x[rows], x[rows]) for rows in row_blocks(len(x), x.shape[1], x)]
        return weights.dot(torch.cat(squares)) / 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weights = ctx.saved_tensors
        half = (grad / 2 * weights)[:, None] * x
        return half, half, None
