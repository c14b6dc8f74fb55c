"""Vectors brought to length 1, against ``F.normalize``."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from recgraph.losses.pairwise import CCL
from recgraph.sparse.blocks import unit_length


@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 4), (6,)])
def test_it_is_normalize(shape: tuple[int, ...]) -> None:
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


@pytest.mark.parametrize("shared", [False, True])
def test_a_state_whose_dimensions_were_all_dropped_passes_no_gradient(shared: bool) -> None:
    hidden = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).index_fill_(0, torch.tensor([2]), 0)
    hidden.requires_grad_()
    loss = CCL(n_negatives=5, margin=0.0, shared=shared)
    value = loss(hidden, torch.arange(1, 5), torch.eye(9)[:, :3] + 0.1, torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad(value, hidden)
    assert gradient[2].tolist() == [0, 0, 0]
    assert bool(gradient.isfinite().all())
    assert bool((gradient[[0, 1, 3]].abs().sum(1) > 0).all())
