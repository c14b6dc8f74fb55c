"""Uniformity: how evenly embeddings lie on the sphere."""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from recgraph.blocks import refuse_second_derivative, row_blocks
from recgraph.contrast.regularisers.base import Regulariser, RegulariserConfig


class UniformityConfig(RegulariserConfig):
    t: Annotated[float, Field(gt=0, le=16, description="sharpness of the Gaussian potential")] = 2.0


class Uniformity(Regulariser):
    """``log mean_{i != j} exp(-t ||x_i - x_j||^2)`` of the directions, the mean of both views; lower is better.

    A single row has no pair: the value is 0.

    Source: Wang and Isola, ICML 2020, section 4.1. Evaluated over blocks of rows: no B x B tensor is resident.
    """

    Config = UniformityConfig

    def _value(self, a: Tensor, b: Tensor) -> Tensor:
        if len(a) == 1:
            return (a * 0).sum() + (b * 0).sum()
        units = [F.normalize(x, dim=1) for x in (a, b)]
        both = [_Potential.apply(x, self.config.t) for x in units]  # type: ignore[no-untyped-call]
        mean: Tensor = (both[0] + both[1]) / 2
        return mean


class _Potential(torch.autograd.Function):
    """The logarithm of the mean potential of unit rows, its gradient computed in the same pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, t: float) -> Tensor:
        n, total = len(x), x.new_zeros(())
        pull = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        for rows in row_blocks(n, n, x):
            # ||x - y||^2 = 2 - 2 x.y
            k = (x[rows] @ x.T).sub_(1).mul_(2 * t).exp_()
            k.diagonal(rows.start).zero_()
            total += k.sum()
            if pull is not None:
                torch.mm(k, x, out=pull[rows])
        if pull is not None:
            # each pair is in the sum twice
            ctx.save_for_backward(pull.mul_(4 * t / total))
        return total.log() - math.log(n * (n - 1))

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        refuse_second_derivative("uniformity")
        (gradient,) = ctx.saved_tensors
        return gradient * grad_output, None
