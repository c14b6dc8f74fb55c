"""Sums over candidates against loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recgraph.contrast.blockwise import log_sums

N, M, D = 7, 11, 4


def sides(n: int = N, m: int = M) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    return tuple(torch.randn(rows, D, generator=g, dtype=torch.float64).requires_grad_() for rows in (n, m))  # type: ignore


def barred_of() -> Tensor:
    """Two of each anchor, the second of the third anchor being none."""
    barred = torch.stack([torch.arange(N) % M, (torch.arange(N) * 3 + 1) % M], 1)
    barred[2, 1] = -1
    return barred


@pytest.mark.parametrize("block_rows", [1, 3, None])
@pytest.mark.parametrize("with_barred", [False, True])
def test_it_is_the_sum(block_rows: int | None, with_barred: bool) -> None:
    x, y = sides()
    barred = barred_of() if with_barred else None
    slow = []
    for i in range(N):
        kept = [j for j in range(M) if barred is None or j not in barred[i].tolist()]
        slow.append(sum((x[i] @ y[j]).exp() for j in kept).log())
    ours, upstream = log_sums(x, y, barred, block_rows=block_rows), torch.arange(1.0, N + 1, dtype=torch.float64)
    torch.testing.assert_close(ours, torch.stack(slow))
    pairs = (torch.autograd.grad(sums, (x, y), upstream) for sums in (ours, torch.stack(slow)))
    for got, wanted in zip(*pairs, strict=True):
        torch.testing.assert_close(got, wanted)


def test_an_anchor_without_candidates_passes_no_gradient() -> None:
    x, y = sides(2, 2)
    sums = log_sums(x, y, torch.tensor([[0, 1], [0, 0]]))
    assert sums[0] == -math.inf
    of_x, of_y = torch.autograd.grad(sums[1], (x, y))
    assert of_x[0].eq(0).all()
    assert of_x.isfinite().all()
    assert of_y.isfinite().all()
