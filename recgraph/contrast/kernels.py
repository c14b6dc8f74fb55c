"""Sums of Gaussian kernels between the rows of one matrix.

``k(x_i, x_j) = e^{-||x_i - x_j||^2 / (2 tau)}`` is the same of both orders, so that the blocks from the diagonal on are
enough.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from recgraph.accelerated import full_precision, is_accelerated
from recgraph.blocks import exponent_limit, refuse_second_derivative, row_blocks, work_type
from recgraph.contrast.log_sums import log_sums

__all__ = ["joint_entropy", "log_kernel_sums", "potential"]

# taken off the exponent of a row that is not summed over
_FAR = 1e30


def potential(x: Tensor, tau: float, among: Tensor | None = None, block_rows: int | None = None) -> Tensor:
    """``log mean_{i != j} k(x_i, x_j)`` of rows [n, D]; 0 of a single one.

    Args:
        among: [n] bool, the rows that count; None: all.
    """
    if among is None or not is_accelerated(x):
        rows = x if among is None else x[among]
        n = len(rows)
        if n < 2:
            return (rows * 0).sum()
        value: Tensor = log_kernel_sums(rows, tau, False, block_rows).logsumexp(0) - math.log(n * (n - 1))
        return value
    # an accelerator would make the host wait for the number of the rows
    counted = among.sum().to(x.dtype)
    sums = _by_products(x, tau, False, block_rows, among)
    value = torch.where(among, sums, -_FAR).logsumexp(0) - (counted * (counted - 1)).clamp(min=1).log()
    return torch.where(counted > 1, value, 0)


def joint_entropy(x: Tensor, tau: float, block_rows: int | None = None) -> Tensor:
    """``mean_i log mean_j k(x_i, x_j)`` of rows [n, D], the parts of which stand side by side."""
    value: Tensor = (log_kernel_sums(x, tau, True, block_rows) - math.log(len(x))).mean()
    return value


def log_kernel_sums(x: Tensor, tau: float, with_own: bool, block_rows: int | None = None) -> Tensor:
    """``log sum_j k(x_i, x_j)`` of each row of x [n, D], at least float32; it can be differentiated once.

    Args:
        with_own: whether j = i is one of them.
        block_rows: rows in memory at once; None picks by the size of the cache.
    """
    with full_precision(x):
        # distances stay, and small lengths bound them
        x = x.to(work_type(x))
        x = x - x.detach().mean(0)
        # no kernel is below what exp can give, so that no maximum need be taken out first
        if not is_accelerated(x) and bool(2 * x.square().sum(1).amax() / tau <= exponent_limit(x.dtype)):
            return _KernelSums.apply(x, tau, with_own, block_rows)  # type: ignore[no-untyped-call, no-any-return]
        return _by_products(x, tau, with_own, block_rows)


def _by_products(x: Tensor, tau: float, with_own: bool, block_rows: int | None, among: Tensor | None = None) -> Tensor:
    """Of any rows, those ``among`` them, as sums over candidates: the exponent is an inner product."""
    squares = x.square().sum(1, keepdim=True) / (2 * tau)
    one = torch.ones_like(squares)
    theirs = -squares if among is None else -squares - _FAR * ~among[:, None]
    own = None if with_own else torch.arange(len(x), device=x.device)[:, None]
    ours, all_rows = torch.cat([x / tau, one, -squares], 1), torch.cat([x, theirs, one], 1)
    return log_sums(ours, all_rows, own, block_rows=block_rows)


class _KernelSums(torch.autograd.Function):
    """Backward makes each block anew: what it multiplies the kernels by is known when all sums are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tau: float, with_own: bool, block_rows: int | None) -> Tensor:
        sums = x.new_zeros(len(x))
        for rows, k in _upper(x, tau, with_own, block_rows):
            sums[rows] += k.sum(1)
            sums[rows.stop :] += k[:, len(k) :].sum(0)
        ctx.save_for_backward(x, sums)
        ctx.settings = tau, with_own, block_rows
        return sums.log()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("a sum of kernels")
        x, sums = ctx.saved_tensors
        tau, with_own, block_rows = ctx.settings
        # w_ij = k_ij (c_i + c_j), and the gradient is sum_j w_ij (x_j - x_i) / tau
        c = grad_output / sums
        sides = torch.cat([x, torch.ones_like(c)[:, None]], 1)
        pull = torch.zeros_like(sides)
        with full_precision(x):
            factors: Tensor | None = None
            for rows, k in _upper(x, tau, with_own, block_rows):
                if factors is None:
                    factors = torch.empty_like(k).view(-1)
                both = factors[: k.numel()].view(k.shape)
                k.mul_(torch.add(c[rows, None], c[rows.start :], out=both))
                pull[rows].addmm_(k, sides[rows.start :])
                pull[rows.stop :].addmm_(k[:, len(k) :].t(), sides[rows])
        return (pull[:, :-1] - pull[:, -1:] * x) / tau, None, None, None


def _upper(x: Tensor, tau: float, with_own: bool, block_rows: int | None) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of rows of the kernel matrix, from the diagonal on: the columns from the first of the rows to the last."""
    n = len(x)
    squares = x.square().sum(1, keepdim=True) / (2 * tau)
    one = torch.ones_like(squares)
    ours, theirs = torch.cat([x / tau, one, -squares], 1), torch.cat([x, -squares, one], 1)
    buffer: Tensor | None = None
    for rows in row_blocks(n, n, x, block_rows):
        n_rows, n_columns = rows.stop - rows.start, n - rows.start
        if buffer is None:
            buffer = x.new_empty(n_rows * n_columns)
        k = buffer[: n_rows * n_columns].view(n_rows, n_columns)
        torch.mm(ours[rows], theirs[rows.start :].t(), out=k).exp_()
        if not with_own:
            k.diagonal().zero_()
        yield rows, k
