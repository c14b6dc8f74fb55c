"""What losses over blocks of rows share."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from recgraph.contrast.blockwise import Candidates, contrast, contrast_drawn
from recgraph.sparse.blocks import group_sizes, group_sums, row_blocks, unit_length
from recgraph.sparse.csr import Csr


@pytest.mark.parametrize("block_rows", [None, 1, 4, 10, 99])
def test_blocks_cover_the_rows(block_rows: int | None) -> None:
    blocks = list(row_blocks(10, 7, torch.empty(0), block_rows))
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(10))
    assert blocks[0].stop == min(block_rows or 10, 10)


@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 4), (6,)])
def test_unit_length_is_normalize(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = torch.arange(x.numel()).view(shape).sin()
    made, expected = unit_length(x), F.normalize(x, dim=-1)
    assert torch.equal(made, expected)
    assert torch.equal(
        *(torch.autograd.grad((one * weights).sum(), x)[0] for one in (made, expected))
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_what_is_0_has_no_direction_and_gets_no_gradient(dtype: torch.dtype) -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=dtype, requires_grad=True)
    made = unit_length(x)
    assert made[0].tolist() == [0, 0]
    torch.testing.assert_close(made[1], torch.tensor([0.6, 0.8], dtype=dtype))
    (gradient,) = torch.autograd.grad(made[:, 0].sum(), x)
    assert gradient[0].tolist() == [0, 0]
    assert bool(gradient[1].abs().sum() > 0)


# -- counts and sums of more values than a floating type can add one by one, as of 1e8 interactions

#: the first loss of a sum, and one that float32 would no longer add to it
GREAT, SMALL, N = 3e7, math.log(2), 512
EXPECTED = (GREAT + (N - 1) * SMALL) / N


def test_sizes_are_counted_beyond_the_integers_of_float32() -> None:
    n = 2**24 + 4
    assert group_sizes(torch.zeros(1, dtype=torch.int64).expand(n), 2).tolist() == [n, 0]


def test_sums_by_group_do_not_stand_still() -> None:
    n = 2**24 + 2**20
    found = group_sums(torch.ones(1).expand(n), torch.zeros(1, dtype=torch.int64).expand(n), 2)
    assert found.dtype == torch.float32
    assert found.tolist() == [n, 0]


def test_a_contrast_over_many_blocks_loses_no_anchor() -> None:
    """Of the first anchor the loss is great, of all others small."""
    x, y, positives = (
        torch.zeros(N, 1),
        torch.tensor([[0.0], [1.0]]),
        torch.zeros(N, dtype=torch.int64),
    )
    x[0] = GREAT
    x.requires_grad_()
    drawn, _ = contrast_drawn(x, y, torch.arange(2), Candidates(positives), block_rows=1)
    assert drawn.item() == pytest.approx(EXPECTED, rel=1e-6)
    loss, counted = contrast(x, y, Candidates(positives), block_rows=1)
    assert (loss.dtype, int(counted)) == (torch.float32, 0)
    assert loss.item() == pytest.approx(EXPECTED, rel=1e-6)
    loss.backward()
    assert x.grad is not None
    assert x.grad[1:].unique().item() == pytest.approx(0.5 / N)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sparse_sums_of_half_precision(dtype: torch.dtype) -> None:
    n = 4096
    rows, columns = torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.int64)
    one_place = Csr.from_coo(rows, columns, torch.ones(n, dtype=dtype), shape=(1, 1))
    for found in (one_place.row_sums(), one_place.coalesce().values(), one_place.diagonal()):
        assert found.dtype == dtype
        assert found.item() == n
