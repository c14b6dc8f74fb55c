"""Barlow Twins, VICReg and SimSiam against loops over components and rows, and in a model of each line."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recgraph import registry
from recgraph.contrast.non_contrastive import BarlowTwins, SimSiam, VICReg
from recgraph.contrast.objectives import Objective, Similarity, Views
from recgraph.contrast.term import ContrastiveTerm
from recgraph.rng import seeded_init

B, D = 7, 4


def two(n: int = B, seed: int = 3) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(n, D, generator=g, dtype=torch.float64)
    return a, a + 0.5 * torch.randn(n, D, generator=g, dtype=torch.float64)


def value(objective: Objective, a: Tensor, b: Tensor) -> Tensor:
    ids = torch.arange(len(a))
    return objective(Views(a, b, ids, ids), Similarity(), None).loss


def moments(column: Tensor) -> tuple[float, float]:
    """The mean and the variance, divided by n."""
    values = column.tolist()
    mean = sum(values) / len(values)
    return mean, sum((v - mean) ** 2 for v in values) / len(values)


def test_barlow_twins_is_a_loop_over_correlations() -> None:
    a, b = two()
    expected = 0.0
    for d in range(D):
        for e in range(D):
            (mean_a, var_a), (mean_b, var_b) = moments(a[:, d]), moments(b[:, e])
            scale = math.sqrt((var_a + 1e-5) * (var_b + 1e-5))
            c = sum(float((a[i, d] - mean_a) * (b[i, e] - mean_b)) for i in range(B)) / B / scale
            expected += (1 - c) ** 2 if d == e else 0.03 * c**2
    assert float(value(BarlowTwins(redundancy=0.03), a, b)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("deviation", [1.0, None])
def test_vicreg_is_a_loop_over_components(deviation: float | None) -> None:
    a, b = two()
    gamma = 1 / math.sqrt(D) if deviation is None else deviation
    s = sum(float((a[i, d] - b[i, d]) ** 2) for i in range(B) for d in range(D)) / (B * D)
    v = c = 0.0
    for x in (a, b):
        means = [moments(x[:, d])[0] for d in range(D)]
        for d in range(D):
            for e in range(D):
                cov = sum(float((x[i, d] - means[d]) * (x[i, e] - means[e])) for i in range(B)) / (B - 1)
                if d == e:
                    v += max(0.0, gamma - math.sqrt(cov + 1e-4)) / D / 2
                else:
                    c += cov**2 / D
    objective = VICReg(invariance=3.0, variance=5.0, covariance=0.7, deviation=deviation)
    assert float(value(objective, a, b)) == pytest.approx(3 * s + 5 * v + 0.7 * c, rel=1e-12)


def test_simsiam_is_a_loop_over_rows_and_stops_the_other_side() -> None:
    a, b = (x.requires_grad_() for x in two())
    with seeded_init(0):
        objective = SimSiam(dim=D).double()
    layers = objective.predictor.layers

    def predicted(x: Tensor) -> Tensor:
        hidden = x @ layers[0].weight.T
        columns = []
        for column in hidden.unbind(1):
            mean, variance = column.mean(), (column - column.mean()).square().mean()
            columns.append((column - mean) / (variance + 1e-5).sqrt())
        return torch.relu(torch.stack(columns, 1) + layers[0].bias) @ layers[1].weight.T + layers[1].bias

    def cosine(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([(x[i] @ y[i]) / (x[i].norm() * y[i].norm()) for i in range(B)]).mean()

    expected = -(cosine(predicted(a), b.detach()) + cosine(predicted(b), a.detach())) / 2
    loss = value(objective, a, b)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(torch.autograd.grad(loss, (a, b)), torch.autograd.grad(expected, (a, b)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_best_values() -> None:
    """Views that agree, spread and are not correlated have the least loss."""
    x = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    assert float(value(BarlowTwins(), x, x)) == pytest.approx(0, abs=1e-8)
    assert float(value(VICReg(), x, x)) == 0
    one_point = torch.ones(4, 2, dtype=torch.float64)
    assert float(value(VICReg(), one_point, one_point)) == pytest.approx(25 * (1 - 0.01))
    assert float(value(BarlowTwins(), one_point, one_point)) == pytest.approx(2)


@pytest.mark.parametrize("name", ["barlow_twins", "simsiam", "vicreg"])
def test_projector_and_a_single_row(name: str) -> None:
    with seeded_init(0):
        term = ContrastiveTerm(objective=name, objective_settings={"projector": (6, 5)}, dim=D)
    for n in (1, B):
        a, b = (x.float().requires_grad_() for x in two(n))
        loss = term(a, b)
        assert loss.isfinite()
        parameters = [*term.parameters()]
        grads = torch.autograd.grad(loss, (a, b, *parameters), allow_unused=True)
        assert all(grad is None or bool(grad.isfinite().all()) for grad in grads)
    assert all(grad is not None for grad in grads)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="no candidates to weigh or to mix; use weight = None"):
        ContrastiveTerm(objective="vicreg", weight="self_mask")
    with pytest.raises(ValueError, match="SimSiam needs the width of the views; give dim=64"):
        ContrastiveTerm(objective="simsiam")
    a, b = two()
    with pytest.raises(ValueError, match="must be of one shape"):
        ContrastiveTerm(objective="barlow_twins")(a, b[:3], positives=torch.zeros(B, dtype=torch.int64))
    assert not any(registry.load("objective", name).pairwise for name in ("barlow_twins", "simsiam", "vicreg"))
