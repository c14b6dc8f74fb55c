"""The multi-head objective against a loop over heads and pairs."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from contrast_oracles import Dense, objective
from test_non_contrastive import B, D, two
from torch import Tensor

from recgraph.contrast.heads import MultiHead
from recgraph.contrast.objectives import NTXent, Similarity, Views
from recgraph.rng import seeded_init


def made(**settings: object) -> MultiHead:
    with seeded_init(2):
        multi = MultiHead(dim=D, n_heads=2, **settings).double()
        # temperatures that differ, as after some steps
        for layer in multi.temperatures:
            torch.nn.init.normal_(layer.weight)
    return multi


def views(a: Tensor, b: Tensor) -> Views:
    ids = torch.arange(len(a))
    return Views(a, b, ids, ids)


@pytest.mark.parametrize("of", ["nt_xent", "info_nce"])
def test_value_and_gradients_are_those_of_a_loop(of: str) -> None:
    multi, similarity = made(head_objective=of, likelihood=0.3, spread=3.0), Similarity(temperature=0.4)
    a, b = (x.requires_grad_() for x in two())
    log_w = torch.rand(B, B, generator=torch.Generator().manual_seed(0), dtype=torch.float64).log()
    losses = []
    for head, layer in zip(multi.heads, multi.temperatures, strict=True):
        sides = [a, b] if of == "info_nce" else [torch.cat([a, b])] * 2
        # rows are standardised within each view
        z_a, z_b = (F.normalize(head(x), dim=1) for x in (a, b))
        z = [z_a, z_b] if of == "info_nce" else [torch.cat([z_a, z_b])] * 2
        tau = [0.4 * 3.0 ** torch.tanh(x @ layer.weight[0] + layer.bias) for x in z]
        n = len(sides[0])
        rows = [torch.stack([z[0][i] @ z[1][j] / (tau[0][i] * tau[1][j]).sqrt() for j in range(n)]) for i in range(n)]
        own = torch.arange(n)
        partners, excluded = (own, None) if of == "info_nce" else ((own + B) % n, own)
        w = log_w if of == "info_nce" else log_w.repeat(2, 2)
        softmax, _ = objective(torch.stack(rows), partners, w, excluded)
        pairs = [(z[0][i], z[1][partners[i]], (tau[0][i] * tau[1][partners[i]]).sqrt()) for i in range(n)]
        likelihood = [(1 - x @ y) / t + t.log() for x, y, t in pairs]
        losses.append(softmax + 0.3 * torch.stack(likelihood).mean())
    expected = torch.stack(losses).mean()
    loss = multi(views(a, b), similarity, Dense(log_w)).loss
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    inputs = (a, b, *multi.parameters())
    ours, theirs = (torch.autograd.grad(x, inputs, retain_graph=True) for x in (loss, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_it_begins_at_the_common_temperature() -> None:
    with seeded_init(2):
        multi = MultiHead(dim=D, n_heads=1, likelihood=0).double()
    a, b = two()
    z_a, z_b = (multi.heads[0](x) for x in (a, b))
    similarity = Similarity(temperature=0.3, similarity="cosine")
    plain = NTXent()(views(z_a, z_b), similarity, None).loss
    torch.testing.assert_close(multi(views(a, b), Similarity(temperature=0.3), None).loss, plain)


def test_the_likelihood_alone_finds_the_temperature_of_the_distance() -> None:
    """Least where tau is half the squared distance: the mean of (1 - c) / tau + log tau has its root there."""
    c = 0.7
    taus = torch.linspace(0.05, 2, 4000, dtype=torch.float64)
    best = taus[((1 - c) / taus + taus.log()).argmin()]
    assert float(best) == pytest.approx(1 - c, abs=1e-3)
    assert math.isclose(float((1 - c) / best + best.log()), 1 + math.log(1 - c), abs_tol=1e-5)
