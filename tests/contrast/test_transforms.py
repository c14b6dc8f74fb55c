"""Centring against a slow oracle."""

from __future__ import annotations

import torch

from recgraph.contrast.objectives import Views
from recgraph.contrast.parts import Centre

N, D = 24, 8


def views() -> Views:
    draw = torch.Generator().manual_seed(4)
    a = torch.randn(N, D, generator=draw, dtype=torch.float64) @ torch.randn(
        D, D, generator=draw, dtype=torch.float64
    )
    b = a + torch.randn(N, D, generator=draw, dtype=torch.float64)
    return Views(a, b, torch.arange(N), torch.arange(N), generator=torch.Generator().manual_seed(1))


def test_centring() -> None:
    given = views()
    ((a, b),) = Centre()(given)
    torch.testing.assert_close(a, given.a - sum(given.a) / N)
    torch.testing.assert_close(b, given.b - sum(given.b) / N)
