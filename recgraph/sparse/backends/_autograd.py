"""Gradients of a sparse product, given the product alone: what the torch and the PyG backend share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recgraph.sparse.csr import Csr, csr_tensor
from recgraph.sparse.device import full_precision

#: ``(adj, x) -> A X``, without gradients; the weights have the type of ``x``
Multiply = Callable[[Csr, Tensor], Tensor]

# Entries at a time where each is a dot product of two gathered rows.
_BLOCK = 1 << 15


def differentiable(multiply: Multiply, adj: Csr, x: Tensor) -> Tensor:
    """``multiply(adj, x)`` with gradients to ``x`` and to the weights of ``adj``, any number of times.

    The gradient to ``x`` is a product with the transpose, which is kept with the matrix: torch's own backward of a CSR
    product transposes again every time, which costs six times the product. The one to the weights is made at the
    entries alone: torch's own makes the whole R x C matrix.
    """
    result: Tensor = _Product.apply(multiply, x, adj.weights, adj)  # type: ignore[no-untyped-call]
    return result


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, multiply: Multiply, x: Tensor, weights: Tensor | None, adj: Csr) -> Tensor:
        ctx.adj, ctx.multiply = adj, multiply
        ctx.save_for_backward(weights, x if ctx.needs_input_grad[2] else None)
        if not adj.nnz or not x.shape[1]:
            return x.new_zeros(adj.shape[0], x.shape[1])
        if weights is not None:
            adj = adj.with_weights(weights.detach().to(x.dtype))
        with full_precision(x):  # autocast would round the matrix and x
            return multiply(adj, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, Tensor | None, None]:
        weights, x = ctx.saved_tensors
        # the saved weights carry their history where a second derivative is wanted
        adj = ctx.adj.with_weights(weights) if ctx.needs_input_grad[2] else ctx.adj
        grad_x = differentiable(ctx.multiply, adj.t(), grad) if ctx.needs_input_grad[1] else None
        grad_weights = at_entries(adj, grad, x).to(weights.dtype) if ctx.needs_input_grad[2] else None
        return None, grad_x, grad_weights, None


def at_entries(adj: Csr, left: Tensor, right: Tensor) -> Tensor:
    """[E]: ``left[row] . right[column]`` of each entry."""
    if torch.is_grad_enabled():  # a second derivative is wanted
        return (left[adj.rows] * right[adj.indices]).sum(1)
    # torch's sampled product knows these types, and refuses more entries than the matrix has places
    if left.dtype in (torch.float32, torch.float64) and adj.nnz <= adj.shape[0] * adj.shape[1]:
        places = csr_tensor(adj.with_weights(left.new_zeros(adj.nnz)), left.dtype)
        sampled: Tensor = torch.sparse.sampled_addmm(places, left, right.t(), beta=0.0)
        return sampled.values()
    blocks = [slice(start, start + _BLOCK) for start in range(0, adj.nnz, _BLOCK)]
    return torch.cat([torch.linalg.vecdot(left[adj.rows[block]], right[adj.indices[block]]) for block in blocks])
