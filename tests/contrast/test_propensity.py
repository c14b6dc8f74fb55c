"""The weights against popularity bias and false negatives, a pair at a time; the debiased loss as published."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph.contrast.hardness import Hardness
from recgraph.contrast.propensity import FalseNegative, Propensity
from recgraph.contrast.term import ContrastiveTerm
from recgraph.contrast.views import About, Pairs

N, M, D = 5, 8, 4
COUNTS = torch.tensor([30.0, 3, 0, 1, 12, 7, 1, 25, 2, 9])
CATEGORIES = torch.tensor([0, 1, 0, -1, -1, 2, 1, 0, 2, 0])


def pairs() -> Pairs:
    draw = torch.Generator().manual_seed(2)
    a, b = (torch.randn(n, D, generator=draw, dtype=torch.float64) for n in (N, M))
    return Pairs(torch.tensor([0, 3, 4, 6, 7]), torch.tensor([9, 3, 0, 2, 4, 4, 8, 5]), a, b)


@pytest.mark.parametrize(("power", "clip"), [(0.5, 100.0), (1.0, 4.0), (0.0, 10.0)])
def test_propensity(power: float, clip: float) -> None:
    of, weight = pairs(), Propensity(power=power, clip=clip)
    weight.setup(About(COUNTS))
    inverse = [min(1 / (max(float(COUNTS[j]), 1) / 30) ** power, clip) for j in of.candidate_ids]
    expected = torch.tensor([[v / (sum(inverse) / M) for v in inverse]] * N, dtype=torch.float64)
    torch.testing.assert_close(weight.log_w(of).exp(), expected)
    ids = of.anchor_ids
    whole, beside = weight.log_w_beside(of, ids, of.anchors)
    torch.testing.assert_close(whole.exp(), expected)
    own = [min(1 / (max(float(COUNTS[j]), 1) / 30) ** power, clip) / (sum(inverse) / M) for j in ids]
    torch.testing.assert_close(beside.exp(), torch.tensor(own, dtype=torch.float64))


def test_propensity_is_unbiased_over_draws() -> None:
    """Drawn by popularity, weighed by its inverse without clip: every id counts alike on average."""
    weight = Propensity(power=1.0, clip=1e6)
    weight.setup(About(COUNTS))
    ids = torch.arange(len(COUNTS))
    rows = torch.zeros(len(COUNTS), D, dtype=torch.float64)
    w = weight.log_w(Pairs(ids[:1], ids, rows[:1], rows)).exp()[0]
    product = w * COUNTS.clamp(min=1)
    torch.testing.assert_close(product, product[:1].expand(len(product)))


def test_false_negatives() -> None:
    of = pairs()
    weight = FalseNegative(threshold=0.1, same_category=0.3, popularity=0.2)
    weight.setup(About(COUNTS, CATEGORIES))
    expected = torch.empty(N, M, dtype=torch.float64)
    for i in range(N):
        for j in range(M):
            ours, theirs = int(of.anchor_ids[i]), int(of.candidate_ids[j])
            cosine = float(F.cosine_similarity(of.anchors[i], of.candidates[j], dim=0))
            w = 1 - min(max((cosine - 0.1) / 0.9, 0), 1)
            if int(CATEGORIES[ours]) == int(CATEGORIES[theirs]) >= 0:
                w *= 0.7
            w *= 1 - 0.2 * max(float(COUNTS[theirs]), 1) / 30
            expected[i, j] = 0 if ours == theirs else w
    torch.testing.assert_close(weight.factor(of), expected)
    torch.testing.assert_close(weight.log_w(of).exp(), expected)
    _, beside = weight.log_w_beside(of, of.candidate_ids[:N], of.candidates[:N])
    torch.testing.assert_close(beside.exp(), expected[:, :N].diagonal())


def test_what_a_weight_was_not_told() -> None:
    of = pairs()
    assert bool((Propensity().log_w(of) == 0).all())
    with pytest.warns(UserWarning, match=r"same_category = 0\.5 changes nothing.*none of 10 ids"):
        FalseNegative(same_category=0.5).setup(About(COUNTS))
    assert bool(FalseNegative().log_w(of).lt(torch.inf).all())  # reads embeddings and ids alone


def slow_debiased(a: Tensor, b: Tensor, tau: float, tau_plus: float, beta: float | None) -> Tensor:
    """The loss of the authors' code, of stacked views, an anchor at a time."""
    z, n, losses = F.normalize(torch.cat([a, b]), dim=1), len(a), []
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        positive = (z[i] @ z[partner] / tau).exp()
        negative = torch.stack([(z[i] @ z[j] / tau).exp() for j in range(2 * n) if j not in (i, partner)])
        total, count = negative.sum(), 2 * n - 2
        if beta is not None:
            importance = (beta * negative.log()).exp()
            total = (importance * negative).sum() / importance.mean()
        ng = (-tau_plus * count * positive + total) / (1 - tau_plus)
        ng = torch.clamp(ng, min=count * math.exp(-1 / tau))
        losses.append(-(positive / (positive + ng)).log())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("beta", [None, 0.7])
@pytest.mark.parametrize("tau_plus", [0.0, 0.1, 0.6])  # the last one leaves less than the least for some anchors
def test_debiased_nt_xent_as_published(tau_plus: float, beta: float | None) -> None:
    draw, tau = torch.Generator().manual_seed(1), 0.5
    a = torch.randn(6, D, generator=draw, dtype=torch.float64)
    b = (a + torch.randn(6, D, generator=draw, dtype=torch.float64)).requires_grad_()
    a.requires_grad_()
    expected = slow_debiased(a, b, tau, tau_plus, beta)
    term = ContrastiveTerm(
        similarity="cosine",
        temperature=tau,
        objective="debiased_nt_xent",
        objective_settings={"tau_plus": tau_plus},
        weight=None if beta is None else Hardness(beta=beta / tau),
    )
    found = term(a, b)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(*(torch.autograd.grad(loss, (a, b)) for loss in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_debiased_info_nce_is_info_nce_without_bias() -> None:
    draw = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 6, D, generator=draw, dtype=torch.float64)
    for count in (True, False):
        plain = ContrastiveTerm(objective="info_nce", objective_settings={"count_positive": count})
        other = ContrastiveTerm(
            objective="debiased_info_nce", objective_settings={"count_positive": count, "tau_plus": 0.0}
        )
        torch.testing.assert_close(other(a, b), plain(a, b))
    with pytest.raises(ValueError, match="takes all candidates as they are"):
        ContrastiveTerm(objective="debiased_info_nce", objective_settings={"n_candidates": 3})
