"""What losses over blocks of rows share."""

from __future__ import annotations

import math

import pytest
import torch

from recgraph.sparse.blocks import exponent_limit, row_blocks, work_type


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
