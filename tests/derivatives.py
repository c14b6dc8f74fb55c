"""Gradients of scalars, compared with differences along directions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: of float64: a difference has about 1e-10 of rounding, and 1e-12 of the third derivative
_STEP = 1e-6


def check_derivatives(function: Callable[..., Tensor], *inputs: Tensor, n_directions: int = 2) -> None:
    """Its gradients give the slopes along random directions through all inputs at once.

    ``torch.autograd.gradcheck`` asks for two values of the function an element, this for two a direction, and holds
    them to a thousandth of its tolerances. A direction has a part in every element, so that an element whose gradient
    is wrong changes the slope, and that two of them cancel in both directions has probability 0. Which element is
    wrong it does not say.

    Args:
        function: of the inputs -> a scalar. It gives the same value each time.
        inputs: float64, with gradients.

    Raises:
        AssertionError: a slope differs.
    """
    draw = torch.Generator().manual_seed(0)
    gradients = torch.autograd.grad(function(*inputs), inputs)
    for _ in range(n_directions):
        directions = [torch.randn(x.shape, generator=draw, dtype=torch.float64) for x in inputs]
        with torch.no_grad():
            above, below = (
                function(*(x + sign * _STEP * direction for x, direction in zip(inputs, directions, strict=True)))
                for sign in (1, -1)
            )
        slope = torch.stack([(x * direction).sum() for x, direction in zip(gradients, directions, strict=True)]).sum()
        torch.testing.assert_close(slope, (above - below) / (2 * _STEP), rtol=1e-6, atol=1e-8)
