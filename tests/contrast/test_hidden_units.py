"""Sums of hidden units against the tensor of pairs and units, in each of the ways that they are computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from recgraph.contrast import hidden_units
from recgraph.contrast.hidden_units import tanh_sums

N, M, H = 70, 900, 5


def draw(*shape: int, size: float = 1.0, seed: int = 0) -> Tensor:
    """Within ``size`` of 0, the ends included."""
    values = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1
    return values * (size / values.abs().max())


def found(x: Tensor, y: Tensor, v: Tensor, direction: Tensor) -> list[Tensor]:
    x, y, v = (one.detach().requires_grad_() for one in (x, y, v))
    sums = tanh_sums(x, y, v)
    return [sums.detach(), *torch.autograd.grad(sums, (x, y, v), direction.to(sums.dtype))]


def oracle(x: Tensor, y: Tensor, v: Tensor, direction: Tensor) -> list[Tensor]:
    x, y, v = (one.double().requires_grad_() for one in (x, y, v))
    sums = (torch.tanh(x[:, None] + y.t()) * v).sum(2)
    return [sums.detach(), *torch.autograd.grad(sums, (x, y, v), direction)]


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    taken: list[str] = []
    choose = hidden_units._way

    def told(*sides: Tensor) -> Any:
        way, parts = choose(*sides)
        taken.append(type(way(*parts)).__name__)
        return way, parts

    monkeypatch.setattr(hidden_units, "_way", told)
    return taken


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("size", "way"),
    [
        (0.0, {"_Series"}),
        (1e-30, {"_Series"}),
        (1e-3, {"_Series"}),
        (0.3, {"_Series"}),
        (0.9, {"_Series", "_Quotients"}),  # of float64 more terms than pay
        (3.0, {"_Quotients"}),
        (500.0, {"_Units"}),
    ],
)
def test_of_any_size(size: float, way: set[str], dtype: torch.dtype, ways: list[str]) -> None:
    x, y = draw(N, H, size=size).to(dtype), draw(H, M, size=size, seed=1).to(dtype)
    v, direction = draw(H, seed=2).to(dtype), draw(N, M, seed=3)
    ours, theirs = found(x, y, v, direction), oracle(x, y, v, direction)
    assert len(ways) == 1
    assert ways[0] in way
    eps = 2e-15 if dtype == torch.float64 else 1e-6
    for mine, other in zip(ours, theirs, strict=True):
        assert float((mine - other).abs().max()) <= 3 * eps * float(other.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sides", [(0.3, 0.3), (0.02, 2.0), (2.0, 0.02), (0.9, 0.5)])
def test_every_pair_of_a_series_is_exact(
    sides: tuple[float, float], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the ends of both intervals, too, in value and in slope by either side."""
    monkeypatch.setattr(hidden_units, "_MOST_TERMS", 40)
    x, y = (torch.linspace(-size, size, 101, dtype=torch.float64)[:, None].to(dtype) for size in sides)
    y, v, direction = y.t(), torch.ones(1, dtype=dtype), torch.eye(101, dtype=torch.float64)
    way, parts = hidden_units._way(x, y, v)
    assert isinstance(way(*parts), hidden_units._Series)
    for shift in (0, 50, 100):
        # each row of the one with one of the other
        places = torch.arange(101).roll(shift)
        ours = found(x, y[:, places], v, direction)
        theirs = oracle(x, y[:, places], v, direction)
        for mine, other in zip(ours[:3], theirs[:3], strict=True):
            assert float((mine - other).abs().max()) <= 8 * torch.finfo(dtype).eps


def test_tiles_of_columns(ways: list[str]) -> None:
    """Powers of so many units are made of a part of the columns at a time."""
    x, y = draw(50, 64, size=0.3), draw(64, 2000, size=0.3, seed=1)
    v, direction = draw(64, seed=2), draw(50, 2000, seed=3)
    way, parts = hidden_units._way(x, y, v)
    whole = way(*parts)
    assert isinstance(whole, hidden_units._Series)
    assert len(list(whole._tiles())) > 1
    for mine, other in zip(found(x, y, v, direction), oracle(x, y, v, direction), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


def test_a_graph_that_is_kept_gives_the_same_again() -> None:
    x, y, v = (one.requires_grad_() for one in (draw(N, H, size=0.3), draw(H, M, size=0.3, seed=1), draw(H, seed=2)))
    total = tanh_sums(x, y, v).sum()
    first = torch.autograd.grad(total, (x, y, v), retain_graph=True)
    for ours, theirs in zip(first, torch.autograd.grad(total, (x, y, v)), strict=True):
        assert torch.equal(ours, theirs)


def test_few_rows_take_quotients_and_no_number_takes_tanh(ways: list[str]) -> None:
    x, y, v = draw(8, H, size=0.3), draw(H, M, size=0.3, seed=1), draw(H, seed=2)
    tanh_sums(x, y, v)
    assert bool(tanh_sums(torch.full_like(x, torch.nan), y, v).isnan().all())
    assert ways == ["_Quotients", "_Units"]


@pytest.mark.parametrize("size", [0.3, 500.0])
@pytest.mark.parametrize("n_rows", [1, 60])
def test_sums_of_one_pair_may_be_changed_in_place(n_rows: int, size: float) -> None:
    x, y, v = draw(n_rows, H, size=size), draw(H, 1, size=size, seed=1), draw(H, seed=2)
    sums = tanh_sums(x.requires_grad_(), y.requires_grad_(), v.requires_grad_())
    expected = sums.detach() + 1
    torch.testing.assert_close(sums.add_(1), expected)
    sums.sum().backward()
    assert x.grad is not None
