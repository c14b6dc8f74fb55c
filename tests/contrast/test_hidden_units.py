"""Sums of hidden units against the tensor of pairs and units, in each of the ways that they are
computed.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recgraph.contrast.weights import tanh_sums

N, M, H = 70, 900, 5


def draw(*shape: int, size: float = 1.0, seed: int = 0) -> Tensor:
    """Within ``size`` of 0, the ends included."""
    values = (
        torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
        - 1
    )
    return values * (size / values.abs().max())


def found(x: Tensor, y: Tensor, v: Tensor, direction: Tensor) -> list[Tensor]:
    x, y, v = (one.detach().requires_grad_() for one in (x, y, v))
    sums = tanh_sums(x, y, v)
    return [sums.detach(), *torch.autograd.grad(sums, (x, y, v), direction.to(sums.dtype))]


def oracle(x: Tensor, y: Tensor, v: Tensor, direction: Tensor) -> list[Tensor]:
    x, y, v = (one.double().requires_grad_() for one in (x, y, v))
    sums = (torch.tanh(x[:, None] + y.t()) * v).sum(2)
    return [sums.detach(), *torch.autograd.grad(sums, (x, y, v), direction)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
# by series, by quotients, unit by unit
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-3, 0.3, 0.9, 3.0, 500.0])
def test_of_any_size(size: float, dtype: torch.dtype) -> None:
    x, y = draw(N, H, size=size).to(dtype), draw(H, M, size=size, seed=1).to(dtype)
    v, direction = draw(H, seed=2).to(dtype), draw(N, M, seed=3)
    ours, theirs = found(x, y, v, direction), oracle(x, y, v, direction)
    eps = 2e-15 if dtype == torch.float64 else 1e-6
    for mine, other in zip(ours, theirs, strict=True):
        assert float((mine - other).abs().max()) <= 3 * eps * float(other.abs().max())
