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


def outcome(term: ContrastiveTerm, share: Share | None, positives: Tensor | None) -> tuple[Tensor, Tensor, Tensor, int]:
    a, b, ids = rows(0), rows(1), torch.arange(N) % 4
    loss = term(a, b, ids, ids, positives, share=share, labels_a=ids % 3.0, labels_b=ids % 3.0)
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
