"""Ridge regressions of rows against dense solves, whole and in small blocks."""

from __future__ import annotations

import pytest
import torch

from recgraph.sparse import ridge as module
from recgraph.sparse.ragged import Ragged
from recgraph.sparse.ridge import ridge_rows, ridge_rows_cg


def _case(device: torch.device) -> tuple[Ragged, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    lists = [torch.randperm(11, generator=draw)[: n % 12].tolist() for n in range(25)]
    table = torch.randn(11, 4, generator=draw, dtype=torch.float64)
    ridge = torch.rand(25, generator=draw, dtype=torch.float64) + 0.1
    return Ragged.from_lists(lists, device), table.to(device), ridge.to(device)


@pytest.mark.parametrize("cells", [1 << 22, 100, 1])
def test_rows_are_solved(cells: int, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_CELLS", cells)
    rows, table, ridge = _case(device)
    start = torch.randn(25, 4, dtype=torch.float64, device=device)
    expected = torch.zeros(25, 4, dtype=torch.float64, device=device)
    for row, items in enumerate(rows.to_lists()):
        named = torch.zeros(11, dtype=torch.float64, device=device)
        named[items] = 1
        normal = table.T @ ((1 + 2.5 * named)[:, None] * table) + ridge[row] * torch.eye(4).to(table)
        expected[row] = torch.linalg.solve(normal, table.T @ (3.5 * named))
    torch.testing.assert_close(ridge_rows(rows, table, 2.5, ridge), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ridge_rows_cg(rows, table, 2.5, ridge, start, 8), expected, rtol=1e-7, atol=1e-9)


def test_a_type_that_is_too_narrow_is_left(device: torch.device) -> None:
    """More columns than vectors, and a ridge that float32 loses beside them."""
    draw = torch.Generator().manual_seed(3)
    table = 30 * torch.randn(6, 40, generator=draw).to(device)
    rows = Ragged.from_lists([[0, 1, 2, 3], [], [4], [5, 0]], device)
    ridge = torch.full((4,), 1e-4, device=device)
    narrow = ridge_rows(rows, table, 1000.0, ridge)
    assert narrow.dtype == torch.float32
    wide = ridge_rows(rows, table.double(), 1000.0, ridge.double())
    torch.testing.assert_close(narrow, wide.float(), rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError):
        ridge_rows(rows, table, 1000.0, torch.full((4,), 1e-30, device=device))


def test_steps_from_the_solution_stay_there(device: torch.device) -> None:
    rows, table, ridge = _case(device)
    solved = ridge_rows(rows, table, 2.5, ridge)
    torch.testing.assert_close(ridge_rows_cg(rows, table, 2.5, ridge, solved, 3), solved, rtol=1e-9, atol=1e-12)
