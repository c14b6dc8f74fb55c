"""The weights of hard negatives and of clusters against loops over pairs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recgraph.contrast import hardness
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("hardest", [1e-3, 0.05, 0.5, 0.999])
@pytest.mark.parametrize("waits", [True, False])  # an accelerator is not asked whether it is done
def test_the_hardest_are_those_of_a_sorted_row(
    waits: bool, hardest: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ties and a row of zeros, too: where the last counts, all that are equal to it do."""
    monkeypatch.setattr(hardness, "is_accelerated", lambda x: not waits)
    draw = torch.Generator().manual_seed(3)
    a, b = (torch.randn(n, 8, generator=draw, dtype=torch.float64).to(dtype) for n in (40, 500))
    a[3], b[100:200], b[300:] = 0, b[7], b[300:].round()
    ids = torch.arange(500)
    of = Pairs(ids[:40] % 7, ids % 11, a, b)
    weight = Hardness(beta=0.0, hardest=hardest)
    log_w, beside = weight.log_w_beside(of, ids[:40] + 20, b[100:140])
    c, same_mask = of.cosines(), of.same() > 0
    for i, row in enumerate(c):
        among = row[~same_mask[i]].sort(descending=True).values
        least = among[math.ceil(hardest * len(among)) - 1]
        slack = 16 * torch.finfo(dtype).eps
        weighed_mask = log_w[i][~same_mask[i]] > -math.inf
        assert bool(weighed_mask[row[~same_mask[i]] >= least].all())
        assert not bool(weighed_mask[row[~same_mask[i]] < least - slack].any())
        own = torch.nn.functional.cosine_similarity(a[i], b[100 + i], dim=0)
        assert bool(beside[i] > -math.inf) == bool(own >= least - slack)


def test_of_no_candidates_none_is_the_hardest() -> None:
    of = pairs()
    of = Pairs(torch.zeros(N, dtype=torch.int64), torch.zeros(M, dtype=torch.int64), of.anchors, of.candidates)
    log_w, beside = Hardness(hardest=0.3).log_w_beside(of, torch.ones(N, dtype=torch.int64), -of.anchors)
    assert bool((log_w == 0).all())
    assert bool((beside == 0).all())


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
