"""What losses over blocks of rows share."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from recgraph.sparse.blocks import exponent_limit, row_blocks, unit_length, work_type


@pytest.mark.parametrize("block_rows", [None, 1, 4, 10, 99])
def test_blocks_cover_the_rows(block_rows: int | None) -> None:
    blocks = list(row_blocks(10, 7, torch.empty(0), block_rows))
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(10))
    assert blocks[0].stop == min(block_rows or 10, 10)


def test_a_block_fits_the_cache() -> None:
    for dtype in (torch.float32, torch.float64):
        like = torch.empty(0, dtype=dtype)
        assert next(row_blocks(10**6, 10_000, like)).stop * 10_000 * like.element_size() <= 4 * 2**20
    # however many columns there are, products of a few rows are worth making
    assert next(row_blocks(10**6, 10**8, torch.empty(0))).stop == 32


def test_work_type() -> None:
    half, single, double = (torch.empty(0, dtype=t) for t in (torch.bfloat16, torch.float32, torch.float64))
    assert work_type(half) == work_type(half, single) == torch.float32
    assert work_type(half, double) == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exponents_within_the_limit_are_normal_numbers(dtype: torch.dtype) -> None:
    limit = torch.tensor(exponent_limit(dtype), dtype=dtype)
    assert (1e9 * limit.exp()).isfinite()
    assert (-limit).exp() * 1e-6 > torch.finfo(dtype).tiny
    assert math.isfinite(1 / float((-limit).exp()))


@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 4), (6,)])
def test_unit_length_is_normalize(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = torch.arange(x.numel()).view(shape).sin()
    made, expected = unit_length(x), F.normalize(x, dim=-1)
    assert torch.equal(made, expected)
    assert torch.equal(*(torch.autograd.grad((one * weights).sum(), x)[0] for one in (made, expected)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_what_is_0_has_no_direction_and_gets_no_gradient(dtype: torch.dtype) -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=dtype, requires_grad=True)
    made = unit_length(x)
    assert made[0].tolist() == [0, 0]
    torch.testing.assert_close(made[1], torch.tensor([0.6, 0.8], dtype=dtype))
    (gradient,) = torch.autograd.grad(made[:, 0].sum(), x)
    assert gradient[0].tolist() == [0, 0]
    assert bool(gradient[1].abs().sum() > 0)
