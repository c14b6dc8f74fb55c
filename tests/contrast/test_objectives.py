"""Objectives of which several ranks compute the anchors: the mean of their losses is the loss, and so are gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recgraph import registry
from recgraph.contrast.term import ContrastiveTerm
from recgraph.ranks import Ranks, Share

N, D = 9, 4
POSITIVES = torch.arange(N).flip(0)


def rows(seed: int) -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def outcome(
    term: ContrastiveTerm, share: Share | None, positives: Tensor | None = None, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, int]:
    a, b, ids = rows(0), rows(1), torch.arange(N) % 4
    draws = torch.Generator().manual_seed(seed)
    loss = term(a, b, ids, ids, positives, share=share, generator=draws, labels_a=ids % 3.0, labels_b=ids % 3.0)
    loss.backward()
    assert a.grad is not None
    assert b.grad is not None
    assert term.outcome is not None
    return loss.detach(), a.grad, b.grad, term.outcome.n_anchors


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("dealt", [False, True])
@pytest.mark.parametrize("weight", [None, *registry.names("weight")])
@pytest.mark.parametrize(
    ("objective", "settings", "positives"),
    [
        ("nt_xent", {}, None),
        ("info_nce", {}, None),
        ("info_nce", {"both_directions": True}, None),
        ("info_nce", {}, POSITIVES),
        ("info_nce", {"count_positive": False}, None),
        ("info_nce", {"weigh_positive": True}, None),
    ],
)
def test_ranks_divide_the_anchors(
    objective: str, settings: dict[str, bool], positives: Tensor | None, weight: str | None, dealt: bool, count: int
) -> None:
    torch.manual_seed(0)
    options = {"n_clusters": (2, 3)} if weight == "cluster" else {}
    term = ContrastiveTerm(
        objective=objective, objective_settings=settings, weight=weight, weight_settings=options, dim=D, temperature=0.7
    ).double()
    *whole, n_anchors = outcome(term, None, positives)
    found = [outcome(term, Ranks(rank, count).share_of_batch(N, dealt), positives) for rank in range(count)]
    for number, wanted in enumerate(whole):
        torch.testing.assert_close(torch.stack([of_rank[number] for of_rank in found]).mean(0), wanted)
    # where an anchor may have no candidate, the mean is over an unknown number of them: each rank computes all
    divides = weight is None or (not settings.get("weigh_positive", False) and settings.get("count_positive", True))
    assert sum(of_rank[-1] for of_rank in found) == (n_anchors if divides else n_anchors * count)


@pytest.mark.parametrize("objective", ["nt_xent", "info_nce"])
@pytest.mark.parametrize("count_positive", [False, True])
@pytest.mark.parametrize("n_candidates", [1, 2])
def test_of_drawn_candidates_an_anchor_may_have_none(objective: str, count_positive: bool, n_candidates: int) -> None:
    """A rank whose only anchor is left out is no error, and the mean over ranks is that over the anchors that count."""
    settings = {"count_positive": count_positive, "n_candidates": n_candidates}
    term = ContrastiveTerm(objective=objective, objective_settings=settings, temperature=0.7)
    for seed in range(4):
        *whole, n_anchors = outcome(term, None, seed=seed)
        found = [outcome(term, Ranks(rank, N).share_of_batch(N), seed=seed) for rank in range(N)]
        for number, wanted in enumerate(whole):
            torch.testing.assert_close(torch.stack([of_rank[number] for of_rank in found]).mean(0), wanted)
        assert sum(of_rank[-1] for of_rank in found) == (n_anchors if count_positive else n_anchors * N)


def test_of_mixed_candidates_an_anchor_may_have_none() -> None:
    """Of two pairs a mixture bars all but the positive of some anchor: each rank computes all, by the same draws."""
    settings = {"count_positive": False, "if_none": "zero"}
    term = ContrastiveTerm(objective_settings=settings, mixture="feature_transformation", temperature=0.7)

    def loss(share: Share | None, seed: int) -> Tensor:
        value: Tensor = term(rows(0)[:2], rows(1)[:2], share=share, generator=torch.Generator().manual_seed(seed))
        return value.detach()

    for seed in range(8):
        of_ranks = torch.stack([loss(Ranks(rank, 2).share_of_batch(2), seed) for rank in range(2)])
        torch.testing.assert_close(of_ranks.mean(), loss(None, seed))
