"""Weights of cosines that are the similarities over a temperature: one product makes both."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from recgraph.contrast.parts import Pairs, Similarity
from recgraph.contrast.term import ContrastiveTerm
from recgraph.registry import make

N, D = 12, 5
#: whether the weight sees what the similarity sees, and the settings of the term
TERMS: dict[str, tuple[bool, dict[str, Any]]] = {
    "info_nce": (True, {"objective": "info_nce"}),
    "drawn": (True, {"objective": {"name": "nt_xent", "n_candidates": 7, "weigh_positive": True}}),
    "debiased": (True, {"objective": "debiased_nt_xent"}),
    "queue": (True, {"objective": "info_nce", "queue_size": 10}),
    "inner products": (False, {"objective": "info_nce", "similarity": "dot"}),
}


@pytest.mark.parametrize("hardest", [1.0, 0.4])
@pytest.mark.parametrize("name", TERMS)
def test_the_same_as_by_two_products(name: str, hardest: float, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, given = TERMS[name]
    settings = {"similarity": "cosine", "temperature": 0.3, **given}
    objective = settings.get("objective", "nt_xent")
    table = {"name": objective} if isinstance(objective, str) else objective
    settings["objective"] = {**table, "block_rows": 5}
    a, b = (torch.randn(N, D, generator=torch.Generator().manual_seed(k), dtype=torch.float64) for k in (1, 2))
    a, b = a.requires_grad_(), b.requires_grad_()
    was_shared: list[bool] = []
    cosines = Pairs.cosines

    def noted(self: Pairs) -> Tensor:
        was_shared.append(self.temperature is not None and self.similarities is not None)
        return cosines(self)

    monkeypatch.setattr(Pairs, "cosines", noted)

    def run() -> list[Tensor]:
        weight = make("weight", {"name": "hardness", "beta": 1.5, "hardest": hardest})
        term = ContrastiveTerm(weight=weight, dim=D, **settings).double()
        ids = torch.arange(N) // 2 * 2  # some rows have one id
        values = [term(a, b, ids + k * N, generator=torch.Generator().manual_seed(3)) for k in range(2)]
        return [values[1], *torch.autograd.grad(values[1], (a, b))]

    found = run()
    assert any(was_shared) == shared
    monkeypatch.setattr(Similarity, "over_cosines", lambda *_: None)
    for ours, theirs in zip(found, run(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
