"""Counts and sums of more values than a floating type can add one by one, as of 1e8 interactions.

Half precision stops counting ones at 256 (bfloat16) and 2048 (float16), float32 at 2^24; so what would go wrong with
1e8 values in float32 is seen with hundreds in half precision, or where one great value is followed by many small ones.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from recgraph.contrast.blockwise import Candidates, contrast, contrast_drawn
from recgraph.sparse.blocks import group_sizes, group_sums
from recgraph.sparse.csr import Csr
from recgraph.sparse.device import accelerator_path

#: the first loss of a sum, and one that float32 would no longer add to it
GREAT, SMALL, N = 3e7, math.log(2), 512
EXPECTED = (GREAT + (N - 1) * SMALL) / N


@pytest.mark.parametrize("path", [nullcontext, accelerator_path], ids=["host", "accelerator"])
def test_sizes_are_counted_beyond_the_integers_of_float32(path: Any) -> None:
    n = 2**24 + 4
    with path():
        assert group_sizes(torch.zeros(1, dtype=torch.int64).expand(n), 2).tolist() == [n, 0]


def test_sums_by_group_do_not_stand_still() -> None:
    n = 2**24 + 2**20
    found = group_sums(torch.ones(1).expand(n), torch.zeros(1, dtype=torch.int64).expand(n), 2)
    assert found.dtype == torch.float32
    assert found.tolist() == [n, 0]


def contrasted() -> tuple[Tensor, Tensor, Tensor]:
    """Anchors, candidates and positives: of the first anchor the loss is great, of all others small."""
    x = torch.zeros(N, 1)
    x[0] = GREAT
    return x.requires_grad_(), torch.tensor([[0.0], [1.0]]), torch.zeros(N, dtype=torch.int64)


def test_a_contrast_over_many_blocks_loses_no_anchor() -> None:
    x, y, positives = contrasted()
    loss, counted = contrast(x, y, Candidates(positives), block_rows=1)
    assert (loss.dtype, int(counted)) == (torch.float32, 0)
    assert loss.item() == pytest.approx(EXPECTED, rel=1e-6)
    loss.backward()
    assert x.grad is not None
    assert x.grad[1:].unique().item() == pytest.approx(0.5 / N)


def test_a_contrast_with_drawn_candidates_over_many_blocks_loses_no_anchor() -> None:
    x, y, positives = contrasted()
    loss, _ = contrast_drawn(x, y, torch.arange(2), Candidates(positives), block_rows=1)
    assert loss.item() == pytest.approx(EXPECTED, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sparse_sums_of_half_precision(dtype: torch.dtype) -> None:
    n = 4096
    rows, columns = torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.int64)
    one_place = Csr.from_coo(rows, columns, torch.ones(n, dtype=dtype), shape=(1, 1))
    for found in (one_place.row_sums(), one_place.coalesce().values(), one_place.diagonal()):
        assert found.dtype == dtype
        assert found.item() == n
