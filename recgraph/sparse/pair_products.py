"""Inner products of chosen pairs of rows, at the pairs alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recgraph.accelerated import full_precision, is_accelerated
from recgraph.blocks import work_type
from recgraph.sparse.backends._autograd import at_entries
from recgraph.sparse.csr import Csr
from recgraph.sparse.ragged import Ragged
from recgraph.sparse.spmm import spmm

__all__ = ["pair_products"]


def pair_products(x: Tensor, y: Tensor, pairs: Ragged) -> Tensor:
    """[P]: ``x_i . y_j`` for each row i and each j of its list, in the order of the lists.

    On the host no tensor of pairs and widths is made: the products are sampled from ``x y^T``, and their gradients are
    sparse products. An accelerator, which would have to tell how many pairs a column has, looks the rows up.
    Differentiable any number of times.

    Args:
        x: [N, D] floating point.
        y: [M, D].
        pairs: N lists, P rows of y in all, in any order.

    Returns:
        In the wider type of the two, at least float32.
    """
    x, y = (one.to(work_type(x, y)) for one in (x, y))
    if is_accelerated(x):
        gathered: Tensor = torch.linalg.vecdot(x[pairs.rows], y[pairs.values])
        return gathered
    adj = Csr(pairs.offsets, pairs.values, None, (len(x), len(y)))
    products: Tensor = _PairProducts.apply(adj, x, y)  # type: ignore[no-untyped-call]
    return products


class _PairProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, adj: Csr, x: Tensor, y: Tensor) -> Tensor:
        ctx.adj = adj
        ctx.save_for_backward(x, y)
        with full_precision(x):  # autocast would round the vectors
            return at_entries(adj, x, y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        x, y = ctx.saved_tensors
        adj = ctx.adj.with_weights(grad)
        by_x = spmm(adj, y) if ctx.needs_input_grad[1] else None
        by_y = spmm(adj.t(), x) if ctx.needs_input_grad[2] else None
        return None, by_x, by_y
