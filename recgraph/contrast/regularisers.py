"""Regularisers: scalars of two views that say how embeddings lie, as loss terms or as
diagnostics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from recgraph.config import Config, Search
from recgraph.contrast.blockwise import log_sums
from recgraph.contrast.parts import Component
from recgraph.sparse.blocks import (
    refuse_second_derivative,
    row_blocks,
    total_of,
    unit_length,
    work_type,
)
from recgraph.sparse.device import full_precision, is_accelerated


class RegulariserConfig(Config):
    """Settings of a regulariser."""

    coefficient: Annotated[
        float,
        Field(description="what a contrast that it is added to multiplies it by"),
        Search(0.01, 1.0, log=True),
    ] = 1.0


class Regulariser(Component):
    """Base of all regularisers. A subclass sets ``Config`` and fills :meth:`_value`.

    The value is without the coefficient, 1 by default but for :class:`Margin`'s, which is that of
    MCLRec.
    """

    Config: ClassVar[type[RegulariserConfig]] = RegulariserConfig

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """A scalar of two views [B, D], row i of the one the partner of row i of the other."""
        # sums over the batch in half precision would lose digits
        work = work_type(a, b)
        with full_precision(a):
            return self._value(a.to(work), b.to(work))

    def _value(self, a: Tensor, b: Tensor) -> Tensor:
        raise NotImplementedError


class Alignment(Regulariser):
    """``mean_i ||a_i - b_i||^2`` of the directions of the embeddings; 0 is best.

    Source: Wang and Isola, ICML 2020, section 4.1.
    """

    def _value(self, a: Tensor, b: Tensor) -> Tensor:
        return (unit_length(a) - unit_length(b)).square().sum(1).mean()


class UniformityConfig(RegulariserConfig):
    t: Annotated[float, Field(gt=0, le=16, description="sharpness of the Gaussian potential")] = 2.0


class Uniformity(Regulariser):
    """``log mean_{i != j} exp(-t ||x_i - x_j||^2)`` of the directions, the mean of both views;
    lower is better.

    A single row has no pair: the value is 0.

    Source: Wang and Isola, ICML 2020, section 4.1. Evaluated over blocks of rows: no B x B tensor
    is resident.
    """

    Config = UniformityConfig

    def _value(self, a: Tensor, b: Tensor) -> Tensor:
        if len(a) == 1:
            return (a * 0).sum() + (b * 0).sum()
        of_a = _Potential.apply(unit_length(a), self.config.t)  # type: ignore[no-untyped-call]
        of_b = _Potential.apply(unit_length(b), self.config.t)  # type: ignore[no-untyped-call]
        mean: Tensor = (of_a + of_b) / 2
        return mean


class _Potential(torch.autograd.Function):
    """The logarithm of the mean potential of unit rows, its gradient computed in the same pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, t: float) -> Tensor:
        n, sums = len(x), []
        pull = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        for rows in row_blocks(n, n, x):
            # ||x - y||^2 = 2 - 2 x.y
            k = (x[rows] @ x.T).sub_(1).mul_(2 * t).exp_()
            k.diagonal(rows.start).zero_()
            sums.append(k.sum())
            if pull is not None:
                torch.mm(k, x, out=pull[rows])
        total = total_of(sums, x).to(x.dtype)
        if pull is not None:
            # each pair is in the sum twice
            ctx.save_for_backward(pull.mul_(4 * t / total))
        return total.log() - math.log(n * (n - 1))

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        refuse_second_derivative("uniformity")
        (gradient,) = ctx.saved_tensors
        return gradient * grad_output, None


class CrossUniformity(Regulariser):
    """``log mean_{i != j} exp(-t ||a_i - b_j||^2)`` of directions: each row keeps away from other
    rows' partners.

    Lower is better; a single row has no pair: the value is 0.

    Source: Fahim et al., 2024 (the uniformity across sides, t = 2), after Wang and Isola (ICML
    2020). Evaluated over blocks of rows: no B x B tensor is resident.
    """

    Config = UniformityConfig

    def _value(self, a: Tensor, b: Tensor) -> Tensor:
        n, t = len(a), self.config.t
        if n == 1:
            return (a * 0).sum() + (b * 0).sum()
        x, y = unit_length(a), unit_length(b)
        own = torch.arange(n, device=a.device)[:, None]
        # ||x - y||^2 = 2 - 2 x.y
        value: Tensor = log_sums(2 * t * x, y, own).logsumexp(0) - 2 * t - math.log(n * (n - 1))
        return value


class MarginConfig(RegulariserConfig):
    coefficient: Annotated[
        float,
        Field(
            description="what a contrast that it is added to multiplies it by; MCLRec's is a setting of its own"
        ),
        Search(0.01, 1.0, log=True),
    ] = 0.1
    temperature: Annotated[
        float,
        Field(gt=0, description="what similarities are divided by"),
        Search(low=0.05, high=5, log=True),
    ] = 1.0
    scope: Annotated[
        Literal["row", "batch"],
        Field(
            description="least positive and greatest negative of each row (code) or of the batch (paper)"
        ),
    ] = "row"


class Margin(Regulariser):
    """``R = mean_i max(p_i - lo_i, 0) + mean_ij max(hi_i - n_ij, 0)`` over the 2B stacked rows.

    ``p_i`` is the inner product of row i with its partner, ``n_ij`` those with the 2B - 2 other
    rows, over the temperature. ``scope="row"``, as in the published code: ``lo_i = min(p_i, max_j
    n_ij)``, ``hi_i = max(p_i, max_j n_ij)``. ``scope="batch"``, as in the paper: one ``lo`` and
    ``hi`` from ``min_i p_i`` and ``max_ij n_ij``. A single pair has no negatives: R is 0.

    Source: Qin et al., SIGIR 2023 (MCLRec). Computed without the negatives' matrix: no term of the
    two ``max(., 0)`` is ever below 0, so of the negatives only their means, which are products with
    a sum of rows, and the greatest count.
    """

    Config = MarginConfig

    def over(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """The sum over pairs of views, all of one shape; of rows' margins on an accelerator in the
        same kernels.
        """
        total: Tensor
        if self.config.scope == "batch" or not is_accelerated(pairs[0][0]):
            total = self(*pairs[0])
            for a, b in pairs[1:]:
                total = total + self(a, b)
            return total
        first, second = map(torch.stack, zip(*pairs, strict=True))
        total = self(first, second) * len(pairs)
        return total

    def _value(self, a: Tensor, b: Tensor) -> Tensor:
        """Of views [B, D], or the mean over pairs of views [P, B, D]."""
        z, partner = torch.cat([a, b], -2), torch.cat([b, a], -2)
        others = z.shape[-2] - 2
        if others == 0:
            return (z * 0).sum()
        scaled = z / self.config.temperature
        positive = (scaled * partner).sum(-1)
        # of each row the other one, not its partner, with the greatest inner product
        *pairs, n, _ = z.shape
        places, fixed, nearest = torch.arange(n, device=z.device), z.detach(), []
        barred = torch.stack([places, places.roll(n // 2)], 1).expand(*pairs, n, 2)
        for rows in row_blocks(n, n * math.prod(pairs), z):
            products = fixed[..., rows, :] @ fixed.mT
            nearest.append(products.scatter_(-1, barred[..., rows, :], -math.inf).argmax(-1))
        index = torch.cat(nearest, -1)
        if z.ndim == 2:
            negatives = z.index_select(0, index)
        else:
            negatives = z.gather(-2, index[..., None].expand(z.shape))
        greatest = (scaled * negatives).sum(-1)
        own = (scaled * z).sum(-1)
        mean = ((scaled * z.sum(-2, keepdim=True)).sum(-1) - own - positive) / others
        if self.config.scope == "row":
            gap = torch.relu(positive - greatest)
            value: Tensor = (2 * gap + greatest - mean).mean()
            return value
        least, top = positive.min(), greatest.max()
        low, high = torch.minimum(least, top), torch.maximum(least, top)
        value = positive.mean() - low + high - mean.mean()
        return value
