"""The weights of hard negatives and of clusters against loops over pairs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recgraph.contrast.hardness import Hardness
from recgraph.contrast.same_cluster import SameCluster
from recgraph.contrast.term import ContrastiveTerm
from recgraph.contrast.weights import Pairs

N, M, D = 6, 11, 4


def pairs() -> Pairs:
    draw = torch.Generator().manual_seed(5)
    a, b = (
        torch.randn(N, D, generator=draw, dtype=torch.float64),
        torch.randn(M, D, generator=draw, dtype=torch.float64),
    )
    ids = torch.arange(M)
    ids[7] = 2  # a second row of an anchor's id
    return Pairs(ids[:N], ids, a, b)


def slow(of: Pairs, beta: float, hardest: float, most_similar: float) -> Tensor:
    """The weights, a pair at a time."""
    w = torch.zeros(len(of.anchors), len(of.candidates), dtype=torch.float64)
    for i, x in enumerate(of.anchors):
        cosines = [float(x @ y / (x.norm() * y.norm())) for y in of.candidates]
        among = [j for j, c in enumerate(cosines) if of.candidate_ids[j] != of.anchor_ids[i] and c <= most_similar]
        kept = sorted(among, key=lambda j: -cosines[j])[: math.ceil(hardest * len(among))]
        mean = sum(math.exp(beta * cosines[j]) for j in kept) / max(len(kept), 1)
        for j, c in enumerate(cosines):
            if of.candidate_ids[j] == of.anchor_ids[i]:
                w[i, j] = 1
            elif j in kept:
                w[i, j] = math.exp(beta * c) / mean
    return w


@pytest.mark.parametrize(
    ("beta", "hardest", "most_similar"), [(1.5, 1.0, 1.0), (0.0, 0.3, 1.0), (2.0, 0.5, 0.6), (1.0, 1.0, -0.99)]
)
def test_hardness(beta: float, hardest: float, most_similar: float) -> None:
    of = pairs()
    weight = Hardness(beta=beta, hardest=hardest, most_similar=most_similar)
    torch.testing.assert_close(weight.log_w(of).exp(), slow(of, beta, hardest, most_similar), rtol=1e-10, atol=1e-12)


def test_a_row_of_the_same_direction_counts_whatever_its_cosine_is_rounded_to() -> None:
    draw = torch.Generator().manual_seed(0)
    a, ids = torch.randn(200, 64, generator=draw), torch.arange(200)
    of = Pairs(ids, ids, a, torch.randn(200, 64, generator=draw))
    unit = torch.nn.functional.normalize(a, dim=1)
    assert bool((torch.linalg.vecdot(unit, unit) > 1).any())
    _, beside = Hardness().log_w_beside(of, ids + 200, a)
    assert bool(beside.isfinite().all())


def test_one_more_candidate_of_an_anchor_that_has_none_counts_fully() -> None:
    of = pairs()
    a, b = of.anchors.requires_grad_(), of.candidates
    ids = torch.zeros(M, dtype=torch.int64)
    of = Pairs(ids[:N], ids, a, b)
    whole, beside = Hardness(beta=2.0).log_w_beside(of, ids[:N] + 1, b[:N])
    assert bool((whole == 0).all())
    assert bool((beside == 0).all())
    (by_a,) = torch.autograd.grad((whole + beside[:, None]).sum(), a)
    assert bool((by_a == 0).all())


def test_importance_of_hard_negatives_as_published() -> None:
    """The loss of the authors' code: ``Ng = sum_j imp_j neg_j / mean_j imp_j``, of stacked views."""
    draw, n, tau, beta = torch.Generator().manual_seed(0), 5, 0.5, 0.8
    a, b = (torch.randn(n, D, generator=draw, dtype=torch.float64).requires_grad_() for _ in range(2))
    z = torch.nn.functional.normalize(torch.cat([a, b]), dim=1)
    losses = []
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        positive = (z[i] @ z[partner] / tau).exp()
        negative = torch.stack([(z[i] @ z[j] / tau).exp() for j in range(2 * n) if j not in (i, partner)])
        importance = (beta * negative.log()).exp()
        reweighted = (importance * negative).sum() / importance.mean()
        losses.append(-(positive / (positive + reweighted)).log())
    expected = torch.stack(losses).mean()
    term = ContrastiveTerm(similarity="cosine", temperature=tau, weight=Hardness(beta=beta / tau))
    found = term(a, b)
    torch.testing.assert_close(found, expected)
    of_found, of_expected = (torch.autograd.grad(loss, (a, b)) for loss in (found, expected))
    for ours, theirs in zip(of_found, of_expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_same_cluster() -> None:
    of, weight = pairs(), SameCluster()
    clusters = torch.stack([torch.arange(M) % 2, torch.arange(M) % 3])
    weight.keep(clusters)
    weight.prepare(lambda: torch.zeros_like(clusters))  # what is kept stays
    expected = [[float(all(row[i] == row[j] for row in clusters)) for j in of.candidate_ids] for i in of.anchor_ids]
    torch.testing.assert_close(weight.log_w(of).exp(), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(weight.factor(of), torch.tensor(expected, dtype=torch.float64))
    weight.keep(None)
    weight.prepare(lambda: torch.zeros_like(clusters))
    assert bool((weight.log_w(of) == 0).all())
