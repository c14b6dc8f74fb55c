"""Weights given without logarithm: the same loss and gradients as by their logarithm."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recgraph.contrast.term import ContrastiveTerm
from recgraph.contrast.weights import Cluster, Learned, Pairs, Weight


def by_logarithm(self: Weight, pairs: Pairs) -> None:
    """In the place of ``factor``: the weights are not at hand."""


@pytest.mark.parametrize("scale", [1.0, 60.0])  # within the range of exp, and beyond it
@pytest.mark.parametrize("positive", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("cls", [Cluster, Learned])
def test_factor(cls: type[Weight], positive: tuple[bool, bool], scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(30, 5, generator=draw, dtype=torch.float64).mul_(scale).requires_grad_() for _ in range(2))
    torch.manual_seed(0)
    weight = Cluster() if cls is Cluster else Learned(dim=5).double()
    clusters = torch.stack([torch.randint(k, (30,), generator=draw) for k in (3, 6)])
    clusters[:, :4] = 0  # rows without each other as candidates
    weight.prepare(lambda: clusters)
    settings = {"count_positive": positive[0], "weigh_positive": positive[1], "block_rows": 7}
    ids, leaves = torch.arange(30), (a, b, *weight.parameters())

    def run() -> list[Tensor]:
        term = ContrastiveTerm(temperature=0.7, objective={"name": "nt_xent", **settings}, weight=weight)
        loss = term(a, b, ids, ids)
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    found = run()
    monkeypatch.setattr(cls, "factor", by_logarithm)
    for ours, theirs in zip(found, run(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


class Gate(Weight):
    """Weights of which some are 0 and the others learn."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def factor(self, pairs: Pairs) -> Tensor:
        open_mask = (pairs.anchor_ids[:, None] + pairs.candidate_ids) % 3 > 0
        return torch.sigmoid(self.slope * pairs.cosines()) * open_mask


def test_a_weight_of_0_passes_no_gradient() -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(9, 5, generator=draw, dtype=torch.float64).requires_grad_() for _ in range(2))
    weight, ids = Gate(), torch.arange(9)
    settings = {"weigh_positive": True, "block_rows": 4}
    term = ContrastiveTerm(
        similarity="cosine", temperature=0.5, objective={"name": "info_nce", **settings}, weight=weight
    )
    x, y = (torch.nn.functional.normalize(side, dim=1) for side in (a, b))
    s = x @ y.t() / 0.5
    total = (weight.factor(Pairs(ids, ids, a, b)) * s.exp()).sum(1)
    leaves = (a, b, weight.slope)
    ours, theirs = (
        torch.autograd.grad(loss, leaves) for loss in (term(a, b, ids, ids), (total.log() - s.diagonal()).mean())
    )
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)
