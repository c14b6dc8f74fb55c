"""Scores of pairs: values and gradients against lookups."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from largest import Largest

from recgraph.losses.scores import own_scores, pair_scores
from recgraph.sparse.rows import set_sparse


def _case(k: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(k)
    table = torch.randn(9, 5, generator=g, dtype=torch.float64).to(device).requires_grad_()
    rows, columns = torch.randint(9, (30,), generator=g), torch.randint(9, (30, k), generator=g)
    return table, rows.to(device), columns.to(device)


@pytest.mark.parametrize("k", [1, 5])
def test_equals_lookups(k: int, device: torch.device) -> None:
    table, rows, columns = _case(k, device)
    expected = (table[rows][:, None] * table[columns]).sum(2)
    scores = pair_scores(table, rows, columns)
    torch.testing.assert_close(scores, expected, rtol=1e-12, atol=1e-12)
    pull = torch.linspace(-1, 1, scores.numel(), dtype=torch.float64, device=device).view_as(scores)
    for a, b in zip(torch.autograd.grad(scores, table, pull), torch.autograd.grad(expected, table, pull), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("block_rows", "row_sparse"), [(None, False), (7, True)])
@pytest.mark.parametrize("types", [("float32", "float32"), ("float64", "float32"), ("bfloat16", "float32")])
def test_own_scores_are_those_of_all_vectors_at_once(
    types: tuple[str, str], block_rows: int | None, row_sparse: bool, device: torch.device
) -> None:
    """In float32 and blocks bit for bit: what the losses over all vectors gave, they give in blocks."""
    g = torch.Generator().manual_seed(1)
    hidden = torch.randn(30, 16, generator=g).to(device, getattr(torch, types[0])).requires_grad_()
    table = torch.nn.Parameter(torch.randn(9, 16, generator=g).to(device, getattr(torch, types[1])))
    columns = torch.randint(9, (30, 5), generator=g).to(device)
    work = torch.promote_types(hidden.dtype, table.dtype)
    expected = (F.embedding(columns, table).to(work) * hidden.to(work)[:, None]).sum(2)
    set_sparse(table, row_sparse)
    scores = own_scores(hidden, table, columns, block_rows)
    pull = torch.linspace(-1, 1, scores.numel(), device=device).view_as(scores).to(scores.dtype)
    found = torch.autograd.grad(scores, (hidden, table), pull)
    assert found[1].is_sparse == row_sparse
    wanted = torch.autograd.grad(expected, (hidden, table), pull)
    # a table of a narrower type had its gradient summed in that type, and has it now in the wider one
    in_blocks = block_rows is not None and device.type == "cpu"
    exact = {"rtol": 0, "atol": 0} if in_blocks and types[0] != "float64" else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(scores, expected, **exact)
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got.to_dense() if got.is_sparse else got, want, **exact)


def test_own_scores_hold_no_vectors_of_all_negatives() -> None:
    """The largest tensor that is made, in forward and backward, with 40 times as many negatives."""
    hidden, table = torch.randn(64, 32, requires_grad=True), torch.nn.Parameter(torch.randn(50, 32))

    for n_negatives in (50, 2000):
        columns = torch.randint(50, (64, n_negatives))
        with Largest(without=table) as largest:
            own_scores(hidden, table, columns, block_rows=2).sum().backward()
        assert largest.numel <= max(columns.numel(), 2 * n_negatives * 32)
