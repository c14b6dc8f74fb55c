"""Weights given without logarithm: the same loss and gradients as by their logarithm."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recgraph.contrast.term import ContrastiveTerm
from recgraph.contrast.weights import Cluster


@pytest.mark.parametrize("scale", [1.0, 60.0])  # within the range of exp, and beyond it
@pytest.mark.parametrize("positive", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("objective", ["info_nce", "nt_xent"])
def test_factor(objective: str, positive: tuple[bool, bool], scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(30, 5, generator=draw, dtype=torch.float64).mul_(scale).requires_grad_() for _ in range(2))
    weight = Cluster()
    clusters = torch.stack([torch.randint(k, (30,), generator=draw) for k in (3, 6)])
    clusters[:, :4] = 0  # rows without each other as candidates
    weight.set_assignments(clusters)
    count, weigh = positive
    settings = {"count_positive": count, "weigh_positive": weigh, "block_rows": 7}
    ids = torch.arange(30)

    def run() -> list[Tensor]:
        term = ContrastiveTerm(temperature=0.7, objective=objective, objective_settings=settings, weight=weight)
        loss = term(a, b, ids, ids)
        return [loss.detach(), *torch.autograd.grad(loss, (a, b))]

    found = run()
    monkeypatch.setattr(Cluster, "factor", lambda self, pairs: None)
    for ours, theirs in zip(found, run(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)
