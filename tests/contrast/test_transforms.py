"""Whitening and centring against slow oracles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from refusing import refused
from torch import Tensor

from recgraph.contrast.objectives import Views
from recgraph.contrast.parts import Centre, ShuffledGroupWhitening, _InverseRoot, _whiten

N, D = 24, 8


def views() -> Views:
    draw = torch.Generator().manual_seed(4)
    a = torch.randn(N, D, generator=draw, dtype=torch.float64) @ torch.randn(
        D, D, generator=draw, dtype=torch.float64
    )
    b = a + torch.randn(N, D, generator=draw, dtype=torch.float64)
    return Views(a, b, torch.arange(N), torch.arange(N), generator=torch.Generator().manual_seed(1))


def slow_whitening(x: np.ndarray, order: list[int], size: int, eps: float) -> np.ndarray:
    out = np.zeros_like(x)
    for start in range(0, len(order), size):
        columns = order[start : start + size]
        group = x[:, columns] - x[:, columns].mean(0)
        covariance = np.zeros((size, size))
        for row in group:
            covariance += np.outer(row, row) / len(group)
        covariance += eps * np.trace(covariance) / size * np.eye(size)
        values, vectors = np.linalg.eigh(covariance)
        out[:, columns] = group @ vectors @ np.diag(values**-0.5) @ vectors.T
    return out


@pytest.mark.parametrize("size", [1, 2, 8])
def test_whitening_equals_a_loop_over_groups(size: int) -> None:
    x, order = views().a, [3, 0, 7, 2, 6, 1, 5, 4]
    found = _whiten(x, torch.tensor(order), size, 1e-3)
    np.testing.assert_allclose(
        found.numpy(), slow_whitening(x.numpy(), order, size, 1e-3), rtol=1e-8, atol=1e-10
    )


def test_as_many_positives_as_shuffles() -> None:
    given = views()
    pairs = ShuffledGroupWhitening(n_positives=3, group_size=2)(given)
    drawn = torch.Generator().manual_seed(1)
    orders = [torch.randperm(D, generator=drawn) for _ in range(4)]
    for (a, b), order in zip(pairs, orders[1:], strict=True):
        torch.testing.assert_close(a, _whiten(given.a, orders[0], 2, 1e-4))
        torch.testing.assert_close(b, _whiten(given.b, order, 2, 1e-4))
    with refused("group_size"):
        ShuffledGroupWhitening(group_size=3)(given)


def test_the_inverse_root_has_gradients_where_eigenvalues_meet() -> None:
    equal = (2 * torch.eye(3, dtype=torch.float64)).expand(2, 3, 3).clone().requires_grad_()

    def root(matrices: Tensor) -> Tensor:
        return _InverseRoot.apply((matrices + matrices.transpose(1, 2)) / 2)

    assert torch.autograd.gradcheck(root, equal)
    torch.testing.assert_close(
        root(equal) @ root(equal), torch.eye(3, dtype=torch.float64).expand(2, 3, 3) / 2
    )


@pytest.mark.parametrize("n", [5, 2, 1])
def test_rows_that_are_alike_or_few_whiten_to_finite_numbers(n: int) -> None:
    x = torch.ones(n, D, requires_grad=True)
    out = _whiten(x, torch.arange(D), 4, 1e-4)
    (out * torch.arange(D)).sum().backward()
    assert bool(out.isfinite().all())
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


def test_centring() -> None:
    given = views()
    ((a, b),) = Centre()(given)
    torch.testing.assert_close(a, given.a - sum(given.a) / N)
    torch.testing.assert_close(b, given.b - sum(given.b) / N)
