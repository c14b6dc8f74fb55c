"""Objectives outside the library against loops over rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph.contrast.term import ContrastiveTerm
from recgraph.rng import seeded_init

B, D = 7, 4
Idea = Callable[[str], ModuleType]


def views(n: int = B) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    a = torch.randn(n, D, generator=g, dtype=torch.float64)
    b = a + 0.5 * torch.randn(n, D, generator=g, dtype=torch.float64)
    return a.requires_grad_(), b.requires_grad_()


def term(objective: str, temperature: float = 0.5, similarity: str = "cosine", **settings: Any) -> ContrastiveTerm:
    given = {"objective": {"name": objective, **settings}, "temperature": temperature}
    with seeded_init(0):
        return ContrastiveTerm(**given, similarity=similarity, dim=D).double()


def draw(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def agree(ours: Tensor, theirs: Tensor, *inputs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    for mine, other in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-10)


def test_swav(idea: Idea) -> None:
    """Codes by the rounds of the authors' code, an entry at a time."""
    idea("swav")
    (a, b), own = views(), term("swav", 0.1, n_prototypes=3, epsilon=0.3, frozen_steps=0)
    c = F.normalize(own.objective.directions, dim=1)  # type: ignore[arg-type]
    x, y = F.normalize(a, dim=1), F.normalize(b, dim=1)
    expected = []
    for side, other in ((x, y), (y, x)):
        q = (other.detach() @ c.detach().T / 0.3).exp()
        for _ in range(3):
            q = q / q.sum(0)
            q = q / q.sum(1, keepdim=True)
        s = side @ c.T / 0.1
        expected.append(torch.stack([s[i].logsumexp(0) - (q[i] * s[i]).sum() for i in range(B)]).mean())
    agree(own(a, b), (expected[0] + expected[1]) / 2, a, b, own.objective.directions)  # type: ignore[arg-type]
    frozen = term("swav", n_prototypes=3, frozen_steps=1)
    for moves in (False, True):
        (grad,) = torch.autograd.grad(frozen(a, b), frozen.objective.directions)  # type: ignore[arg-type]
        assert bool(grad.any()) == moves


def test_simsiam(idea: Idea) -> None:
    idea("simsiam")
    (a, b), own = views(), term("simsiam")
    h = own.objective.predictor
    losses = [
        F.cosine_similarity(h(p)[i], q[i].detach(), dim=0)
        for p, q in ((a, b), (b, a))
        for i in range(B)  # type: ignore[operator]
    ]
    agree(own(a, b), -torch.stack(losses).mean(), a, b)


@pytest.mark.parametrize("deviation", [1.0, None])
def test_vicreg(deviation: float | None, idea: Idea) -> None:
    idea("vicreg")
    (a, b), gamma = views(), 1 / math.sqrt(D) if deviation is None else deviation
    s = sum((a[i, d] - b[i, d]) ** 2 for i in range(B) for d in range(D)) / (B * D)
    v = c = torch.zeros((), dtype=torch.float64)
    for x in (a, b):
        for d in range(D):
            for e in range(D):
                cov = sum((x[i, d] - x[:, d].mean()) * (x[i, e] - x[:, e].mean()) for i in range(B)) / (B - 1)
                v = v + (F.relu(gamma - (cov + 1e-4).sqrt()) / D if d == e else 0)
                c = c + (cov**2 / D if d != e else 0)
    agree(term("vicreg", deviation=deviation)(a, b), 25 * s + 25 * v / 2 + c, a, b)


@pytest.mark.parametrize("n_views", [2, 3])
def test_symile(n_views: int, idea: Idea) -> None:
    symile, (a, b) = idea("symile").symile, views()
    sides = [a, b, (a * b).detach() + 1][:n_views]
    found, order = symile(sides, 0.2, draw()), draw()
    z, losses = [F.normalize(x, dim=1) for x in sides], []
    for m in range(n_views):
        others = [z[k] for k in range(n_views) if k != m]
        if n_views > 2:
            others = [x[torch.randperm(B, generator=order)] for x in others]
        for i in range(B):
            own = math.prod(x[i] for x in z).sum() / 0.2  # type: ignore[union-attr]
            rest = [(z[m][i] * math.prod(x[j] for x in others)).sum() / 0.2 for j in range(B) if j != i]
            losses.append(torch.stack([own, *rest]).logsumexp(0) - own)
    agree(found, torch.stack(losses).mean(), a, b)


def test_mochi(idea: Idea) -> None:
    """The mixtures lie where they should, and the loss has them beside the candidates, without a gradient of theirs."""
    idea("mochi")
    (a, b), own = views(), term("mochi", hardest=3, of_candidates=4, with_anchor=2)
    x, y = F.normalize(a, dim=1) / 0.5, F.normalize(b, dim=1)
    mixed = own.objective.mixtures(x.detach(), y.detach(), 3, torch.arange(B)[:, None], draw())  # type: ignore[operator]
    torch.testing.assert_close(mixed.norm(dim=2), torch.ones(B, 6, dtype=torch.float64))
    for i in range(B):
        hard = sorted((j for j in range(B) if j != i), key=lambda j, i=i: -float((x[i] @ y[j]).detach()))[:3]  # type: ignore[misc]
        for each in mixed[i, :4]:  # in the plane, and between, two of the three
            pairs = [(j, k) for j in hard for k in hard if j < k]
            parts = [torch.linalg.lstsq(y[[j, k]].detach().T, each[:, None]) for j, k in pairs]
            exact = [p.solution for p, (j, k) in zip(parts, pairs, strict=True)
                     if torch.allclose(y[[j, k]].detach().T @ p.solution, each[:, None])]  # fmt: skip
            assert any(bool((one > -1e-9).all()) for one in exact)
    s = x @ y.T
    total = torch.cat([s, torch.einsum("nd,nsd->ns", x, mixed)], 1)
    agree(own(a, b, generator=draw()), (total.logsumexp(1) - s.diagonal()).mean(), a, b)
    cold = term("mochi", warm_up=1)
    plain = term("info_nce")(a, b)
    torch.testing.assert_close(cold(a, b, generator=draw()), plain)
    assert cold(a, b, generator=draw()) > plain


def test_feature_transformation(idea: Idea) -> None:
    module = idea("feature_transformation")
    (a, b), own, order = views(), term("feature_transformation"), draw()
    x, y = F.normalize(a, dim=1) / 0.5, F.normalize(b, dim=1)
    along, share = 1 + module._beta(2.0, B, order, x), module._beta(1.6, B, order, y)
    permuted = torch.randperm(B, generator=order)
    q, losses = F.normalize(a, dim=1), []
    for i in range(B):
        lam = along[i]
        own_s = ((lam * q[i] + (1 - lam) * y[i]) @ (lam * y[i] + (1 - lam) * q[i])) / 0.5
        others = [j for j in range(B) if i not in (j, int(permuted[j]))]
        rows = [x[i] @ (share[j] * y[j] + (1 - share[j]) * y[permuted[j]]) for j in others]
        losses.append(torch.stack([own_s, *rows]).logsumexp(0) - own_s)
    agree(own(a, b, generator=draw()), torch.stack(losses).mean(), a, b)
    same = term("feature_transformation", positive_alpha=None, negative_alpha=None)
    torch.testing.assert_close(same(a, b, generator=draw()), term("info_nce")(a, b))


def test_near_and_far_labels(idea: Idea) -> None:
    idea("near_far_labels")
    (a, b), own = views(), term("near_far_labels", window=0.5, near=-0.1, push=0.3, rarity=0.5)
    own.objective.labels = torch.tensor([1.0, 1, 2, 3, 4, 4, 5])
    z = F.normalize(torch.cat([a, b]), dim=1)
    y = torch.cat([own.objective.labels] * 2).double()
    y = y / y.std(correction=0)
    n, weights, losses = 2 * B, [], []
    for i in range(n):
        positive = [j for j in range(n) if j != i and abs(y[i] - y[j]) <= 0.5]
        negative = [j for j in range(n) if abs(y[i] - y[j]) > 0.5 and float((z[i] @ z[j]).detach()) >= -0.1]
        weights.append((len(positive) + 1) ** -0.5)
        losses.append((i, positive, negative))
    mean, found = sum(weights) / n, []
    for (i, positive, negative), weight in zip(losses, weights, strict=True):
        eta = weight / mean
        if positive and negative:
            near = [(z[i] @ z[j] / 0.5).exp() for j in positive]
            far = [eta * math.exp(0.3 * abs(y[i] - y[j])) * (z[i] @ z[j] / 0.5).exp() for j in negative]
            found.append(eta * -sum((one / (sum(near) + sum(far))).log() for one in near) / len(near))
    agree(own(a, b), torch.stack(found).sum() / n, a, b)


def test_supremix(idea: Idea) -> None:
    """Written out with the draws of the objective; a mixed positive has the anchor's label."""
    module = idea("supremix")
    (a, b), labels = views(), torch.tensor([1.0, 1, 2, 3, 3, 4, 5], dtype=torch.float64)
    own = term("supremix", n_negatives=2, positive_share=0.0, max_share=0.4)
    own.objective.labels = labels
    x, y = F.normalize(a, dim=1) / 0.5, F.normalize(b, dim=1)
    share = 0.4 * torch.rand(B, 2, generator=draw(), dtype=torch.float64)
    deviation, losses = labels.std(correction=0), []
    for i in range(B):
        rows = [x[i] @ y[i]]
        others = [j for j in range(B) if labels[j] != labels[i]]
        rows += [x[i] @ y[j] + ((labels[i] - labels[j]).abs() / deviation).log() for j in others]
        hard = sorted(others, key=lambda j, i=i: -float((x[i] @ y[j]).detach()))[:2]  # type: ignore[misc]
        for k, j in enumerate(hard):
            mixture = F.normalize(share[i, k] * F.normalize(a, dim=1)[i] + (1 - share[i, k]) * y[j], dim=0)
            rows.append(x[i] @ mixture + ((1 - share[i, k]) * (labels[i] - labels[j]).abs() / deviation).log())
        losses.append(torch.stack(rows).logsumexp(0) - rows[0])
    agree(own(a, b, generator=draw()), torch.stack(losses).mean(), a, b)
    mixing = term("supremix", n_negatives=2, positive_share=1.0)
    mixing.objective.labels = labels
    assert mixing(a, b, generator=draw()).isfinite()
    one, other = F.normalize(a[:1], dim=1), F.normalize(b[:1], dim=1)
    mixed = module._mixed(torch.tensor([0.3], dtype=torch.float64), one, other, torch.tensor([2.0]).double())
    torch.testing.assert_close(mixed, 2 * F.normalize(0.3 * one + 0.7 * other, dim=1))


def test_multi_head(idea: Idea) -> None:
    idea("multi_head")
    (a, b), own = views(), term("multi_head", n_heads=2, likelihood=0.3)
    for layer in own.objective.temperatures:  # type: ignore[union-attr]
        torch.nn.init.normal_(layer.weight, generator=draw())
    losses = []
    for head, layer in zip(own.objective.heads, own.objective.temperatures, strict=True):  # type: ignore[arg-type]
        z = torch.cat([F.normalize(head(x), dim=1) for x in (a, b)])
        tau = torch.exp(math.log(0.5) + math.log(4) * torch.tanh(layer(z))[:, 0])
        for i in range(2 * B):
            p = (i + B) % (2 * B)
            s = torch.stack([z[i] @ z[j] / (tau[i] * tau[j]).sqrt() for j in range(2 * B) if j != i])
            pair = (tau[i] * tau[p]).sqrt()
            losses.append(s.logsumexp(0) - z[i] @ z[p] / pair + 0.3 * ((1 - z[i] @ z[p]) / pair + pair.log()))
    agree(own(a, b), torch.stack(losses).mean(), a, b)


def test_common_and_salient(idea: Idea) -> None:
    idea("common_salient")
    (a, b), own = views(), term("common_salient", salient=2.0, background=3.0, independence=4.0, bandwidth=0.7)
    own.objective.targets = torch.arange(B) % 2 == 0
    rows = torch.cat([a, b])
    c, s, is_target = F.normalize(rows[:, :2], dim=1), rows[:, 2:], [i % B % 2 == 0 for i in range(2 * B)]

    def k(x: Tensor, y: Tensor) -> Tensor:
        return (-(x - y).square().sum() / 1.4).exp()

    def uniformity(points: list[Tensor]) -> Tensor:
        pairs = [k(points[i], points[j]) for i in range(len(points)) for j in range(len(points)) if i != j]
        return torch.stack(pairs).mean().log()

    def alignment(x: Tensor, of: list[int]) -> Tensor:
        return torch.stack([(x[i] - x[i + B]).square().sum() / 1.4 for i in of]).mean()

    targets = [i for i in range(B) if i % 2 == 0]
    salient = [s[i] for i in range(2 * B) if is_target[i]] + [torch.zeros(2, dtype=torch.float64)]
    background = torch.stack([s[i].square().sum() for i in range(2 * B) if not is_target[i]]).mean()
    every = range(2 * B)
    joint = [torch.stack([k(c[i], c[j]) * k(s[i], s[j]) for j in every]).mean().log() for i in every]
    expected = alignment(c, list(range(B))) + uniformity(list(c))
    expected = expected + 2 * (alignment(s, targets) + uniformity(salient)) + 3 * background
    agree(own(a, b), expected + 4 * torch.stack(joint).mean(), a, b)


@pytest.mark.parametrize(("schedule", "expected"), [("linear", (1.0, 0.775, 0.1)), ("cosine", (1.0, 0.55, 1.0))])
def test_temperature_schedule(schedule: str, expected: tuple[float, ...], idea: Idea) -> None:
    """At steps 0, a quarter of the period, and the period; the module counts its steps."""
    idea("temperature_schedule")
    (a, b), own = views(), term("scheduled_nt_xent", 1.0, schedule=schedule, temperature_end=0.1, n_steps=8)
    found = [own(a, b) for _ in range(9)]
    for step, tau in zip((0, 2, 8), expected, strict=True):
        torch.testing.assert_close(found[step], term("nt_xent", tau)(a, b))
