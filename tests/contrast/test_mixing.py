"""Mixed candidates against loops over anchors, with the same draws."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph.contrast.blockwise import Candidates
from recgraph.contrast.mixing import FeatureTransformation, Mochi
from recgraph.contrast.mixtures import Mixture, of_positives
from recgraph.contrast.term import ContrastiveTerm
from recgraph.contrast.views import Pairs, Views
from recgraph.contrast.weights import Weight

N, D, TAU = 9, 5, 0.5


def views() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    a, b = torch.randn(2, N, D, generator=draw, dtype=torch.float64)
    return a.requires_grad_(), (a.detach() + b).requires_grad_()


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(8)


def term_of(mixture: Mixture, **settings: Any) -> ContrastiveTerm:
    term = ContrastiveTerm(similarity="cosine", temperature=TAU, objective="info_nce", **settings)
    term.mixture = mixture
    return term


def test_mochi() -> None:
    """Each mixture written out: partners among the k hardest, shares, length; the loss with them as candidates."""
    a, b = views()
    k, s, with_anchor = 4, 3, 2
    found = term_of(Mochi(hardest=k, of_candidates=s, with_anchor=with_anchor))(a, b, generator=seeded())
    draw = seeded()
    first, alpha = torch.randint(k, (N, s), generator=draw), torch.rand(N, s, 1, generator=draw)
    step = torch.randint(k - 1, (N, s), generator=draw)
    third, beta = torch.randint(k, (N, with_anchor), generator=draw), torch.rand(N, with_anchor, 1, generator=draw)
    q, z = F.normalize(a, dim=1), F.normalize(b, dim=1)
    losses = []
    for i in range(N):
        order = sorted((j for j in range(N) if j != i), key=lambda j, i=i: -float((q[i] @ z[j]).detach()))[:k]
        candidates = [z[j] for j in range(N)]
        for m in range(s):
            one = order[int(first[i, m])]
            other = order[(int(first[i, m]) + 1 + int(step[i, m])) % k]
            assert one != other
            share = float(alpha[i, m])
            candidates.append(F.normalize(share * z[one] + (1 - share) * z[other], dim=0).detach())
        for m in range(with_anchor):
            share = float(beta[i, m]) / 2
            mixed = share * q[i] + (1 - share) * z[order[int(third[i, m])]]
            candidates.append(F.normalize(mixed, dim=0).detach())
        logits = torch.stack([q[i] @ y / TAU for y in candidates])
        losses.append(logits.logsumexp(0) - logits[i])
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(*(torch.autograd.grad(loss, (a, b)) for loss in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_each_pair_of_hard_candidates_is_mixed_as_often() -> None:
    """Candidates along axes: what a mixture is made of are its coordinates that are not 0."""
    n, k = 5, 4
    x, y = torch.ones(n, n), torch.eye(n)
    ids = torch.arange(n)
    mixture = Mochi(hardest=k, of_candidates=6000, with_anchor=0)
    mixed = mixture(x, y, Candidates(ids), Views(x, y, ids, ids, generator=seeded()))
    assert mixed.further is not None
    first = mixed.further[0, :, 1:] > 0
    assert bool((first.sum(1) == 2).all())
    shares = [float((first[:, a] & first[:, b]).double().mean()) for a, b in combinations(range(k), 2)]
    assert shares == pytest.approx([1 / 6] * 6, abs=0.02)


def test_mochi_warms_up() -> None:
    a, b = views()
    term = term_of(Mochi(warm_up=2))
    plain = ContrastiveTerm(similarity="cosine", temperature=TAU, objective="info_nce")(a, b)
    torch.testing.assert_close(term(a, b, generator=seeded(), epoch=1), plain)
    assert float(term(a, b, generator=seeded(), epoch=2).detach()) > float(plain.detach())
    assert float(term(a, b, generator=seeded()).detach()) > float(plain.detach())


def test_mochi_of_few_candidates() -> None:
    """A pair has no negative to mix, two pairs have one."""
    a, b = views()
    term = term_of(Mochi())
    plain = ContrastiveTerm(similarity="cosine", temperature=TAU, objective="info_nce")(a[:1], b[:1])
    torch.testing.assert_close(term(a[:1], b[:1], generator=seeded()), plain)
    assert bool(term(a[:2], b[:2], generator=seeded()).isfinite())


def beta_of(alpha: float, n: int, draw: torch.Generator) -> Tensor:
    first, second = torch._standard_gamma(torch.full((2, n), alpha, dtype=torch.float64), generator=draw)
    return first / (first + second)


@pytest.mark.parametrize(("positive", "negative"), [(2.0, 1.6), (2.0, None), (None, 1.6)])
def test_feature_transformation(positive: float | None, negative: float | None) -> None:
    a, b = views()
    mixture = FeatureTransformation(positive_alpha=positive, negative_alpha=negative)
    found = term_of(mixture)(a, b, generator=seeded())
    draw = seeded()
    along = torch.ones(N, dtype=torch.float64) if positive is None else 1 + beta_of(positive, N, draw)
    share = torch.ones(N, dtype=torch.float64) if negative is None else beta_of(negative, N, draw)
    order = torch.arange(N) if negative is None else torch.randperm(N, generator=draw)
    q, z = F.normalize(a, dim=1), F.normalize(b, dim=1)
    losses = []
    for i in range(N):
        mine = along[i] * q[i] + (1 - along[i]) * z[i]
        other = along[i] * z[i] + (1 - along[i]) * q[i]
        torch.testing.assert_close(mine + other, q[i] + z[i])  # the sum stays
        s_pos = mine @ other / TAU
        assert float(s_pos.detach()) <= float((q[i] @ z[i] / TAU).detach()) + 1e-12
        # neither the positive nor what it is mixed into is a candidate
        there = [j for j in range(N) if i not in (j, int(order[j]))]
        logits = [s_pos] + [q[i] @ (share[j] * z[j] + (1 - share[j]) * z[order[j]]) / TAU for j in there]
        losses.append(torch.stack(logits).logsumexp(0) - s_pos)
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(*(torch.autograd.grad(loss, (a, b)) for loss in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_mixtures_keep_lengths_of_dot_products() -> None:
    a, b = (view.detach() for view in views())
    ids = torch.arange(N)
    mixed = Mochi(of_candidates=4, with_anchor=3)(a, b, Candidates(ids), Views(a, b, ids, ids, generator=seeded()))
    assert mixed.further is not None
    lengths, of_candidates = mixed.further.norm(dim=2), b.norm(dim=1)
    assert bool((lengths <= of_candidates.max() + 1e-12).all())
    assert bool((lengths >= of_candidates.min() - 1e-12).all())


def test_a_mixture_needs_a_generator() -> None:
    with pytest.raises(ValueError, match="a mixture draws, and the term was given no generator"):
        term_of(Mochi())(*views())
    assert math.isfinite(float(term_of(Mochi())(*views(), generator=seeded()).detach()))


@pytest.mark.parametrize(
    "settings",
    [
        {"mixture": "mochi", "mixture_settings": {"of_candidates": 3}, "objective": "nt_xent"},
        {"mixture": "feature_transformation", "objective": "info_nce"},
        {"objective": "debiased_nt_xent", "weight": "hardness"},
    ],
)
def test_autocast_rounds_no_product(settings: dict[str, Any], device: torch.device) -> None:
    a, b = (x.detach().float().to(device) for x in views())
    term = ContrastiveTerm(**settings, similarity="cosine", temperature=TAU, dim=D)

    def value() -> Tensor:
        generator = torch.Generator(device).manual_seed(0)
        loss: Tensor = term(a, b, generator=generator, epoch=0)
        return loss

    with torch.autocast(device.type, dtype=torch.bfloat16):
        inside = value()
    torch.testing.assert_close(inside, value(), rtol=1e-6, atol=1e-6)


class OfBlocks(Weight):
    """``w_ij = e^{z_i . z_j}``; keeps how many anchors it was asked for at once."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def log_w(self, pairs: Pairs) -> Tensor:
        return pairs.anchors @ pairs.candidates.t()

    def log_w_beside(self, pairs: Pairs, ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        self.asked.append(len(pairs.anchors))
        return self.log_w(pairs), torch.linalg.vecdot(pairs.anchors, rows)


def test_weights_of_positives_are_made_in_blocks() -> None:
    a, b = views()
    pairs, places = Pairs(torch.arange(N), torch.arange(N), a, b), torch.arange(N).roll(1)
    weight = OfBlocks()
    found = of_positives(weight, pairs, places, block_rows=4)
    assert weight.asked == [4, 4, 1]
    wanted = (a * b[places]).sum(1)
    torch.testing.assert_close(found, wanted)
    of_found = torch.autograd.grad(found.square().sum(), (a, b))
    of_wanted = torch.autograd.grad(wanted.square().sum(), (a, b))
    for ours, theirs in zip(of_found, of_wanted, strict=True):
        torch.testing.assert_close(ours, theirs)
