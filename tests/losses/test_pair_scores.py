"""Scores of pairs: values and gradients against lookups."""

from __future__ import annotations

import pytest
import torch

from recgraph.losses.pairwise import pair_scores


def _case(k: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(k)
    table = torch.randn(9, 5, generator=g, dtype=torch.float64).to(device).requires_grad_()
    rows, columns = torch.randint(9, (30,), generator=g), torch.randint(9, (30, k), generator=g)
    return table, rows.to(device), columns.to(device)


@pytest.mark.parametrize("k", [1, 2, 4, 5, 11])
def test_equals_lookups(k: int, device: torch.device) -> None:
    table, rows, columns = _case(k, device)
    expected = (table[rows][:, None] * table[columns]).sum(2)
    scores = pair_scores(table, rows, columns)
    torch.testing.assert_close(scores, expected, rtol=1e-12, atol=1e-12)
    pull = torch.linspace(-1, 1, scores.numel(), dtype=torch.float64, device=device).view_as(scores)
    for a, b in zip(torch.autograd.grad(scores, table, pull), torch.autograd.grad(expected, table, pull), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_stays_in_full_precision_under_autocast(device: torch.device) -> None:
    table, rows, columns = _case(2, device)
    table = table.detach().float().requires_grad_()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        scores = pair_scores(table, rows, columns)
    assert scores.dtype == torch.float32
    scores.sum().backward()
    assert table.grad is not None


def test_can_be_differentiated_once() -> None:
    table, rows, columns = _case(2, torch.device("cpu"))
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(pair_scores(table, rows, columns).sum(), table, create_graph=True)
