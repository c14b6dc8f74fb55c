"""Weights of cosines that are the similarities over a temperature: one product makes both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from recgraph.contrast.objectives import InfoNCE, NTXent, Views
from recgraph.contrast.term import ContrastiveTerm
from recgraph.contrast.views import Pairs, Similarity
from recgraph.ranks import Share
from recgraph.registry import make

N, M, D = 12, 17, 5
COSINE = {"similarity": "cosine", "temperature": 0.3}
WEIGHTS: dict[str, dict[str, Any]] = {
    "hardness": {"name": "hardness", "beta": 1.5},
    "hardest": {"name": "hardness", "hardest": 0.4, "most_similar": 0.7},
    "false negative": {"name": "false_negative", "threshold": 0.1},
}
#: whether the weight sees what the similarity sees, and the settings of the term
TERMS: dict[str, tuple[bool, dict[str, Any]]] = {
    "info_nce": (True, {"objective": "info_nce"}),
    "of no temperature": (True, {"objective": "info_nce", "temperature": 1.0}),
    "scheduled": (
        True,
        {"objective": "info_nce", "temperature_schedule": "linear", "temperature_end": 0.9, "temperature_epochs": 4},
    ),
    "both directions": (True, {"objective": "info_nce", "objective_settings": {"both_directions": True}}),
    "positive out": (True, {"objective": "info_nce", "objective_settings": {"count_positive": False}}),
    "positive weighed": (True, {"objective": "info_nce", "objective_settings": {"weigh_positive": True}}),
    "drawn": (True, {"objective": "info_nce", "objective_settings": {"n_candidates": 7}}),
    "drawn, positive weighed": (
        True,
        {"objective": "nt_xent", "objective_settings": {"n_candidates": 7, "weigh_positive": True}},
    ),
    "nt_xent": (True, {"objective": "nt_xent"}),
    "debiased_nt_xent": (True, {"objective": "debiased_nt_xent"}),
    "debiased_info_nce": (True, {"objective": "debiased_info_nce"}),
    "queue": (True, {"objective": "info_nce", "queue_size": 10}),
    "whitened": (True, {"objective": "info_nce", "transform": "centre"}),
    "mixed further candidates": (True, {"objective": "info_nce", "mixture": "mochi"}),
    "mixed candidates": (False, {"objective": "info_nce", "mixture": "feature_transformation"}),
    "inner products": (False, {"objective": "info_nce", "similarity": "dot"}),
    "heads with a temperature for each pair": (False, {"objective": "multi_head"}),
}


@pytest.fixture
def was_shared(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each block of all pairs, whether its cosines are made of similarities."""
    found: list[bool] = []
    cosines = Pairs.cosines

    def noted(self: Pairs) -> Tensor:
        found.append(self.temperature is not None and self.similarities is not None)
        return cosines(self)

    monkeypatch.setattr(Pairs, "cosines", noted)
    return found


def views(n: int = N, m: int = N) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return tuple(torch.randn(k, D, generator=draw, dtype=torch.float64).requires_grad_() for k in (n, m))  # type: ignore


def of_two_products(run: Callable[[], list[Tensor]], monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    with monkeypatch.context() as patch:
        patch.setattr(Similarity, "over_cosines", lambda *_: None)
        return run()


@pytest.mark.parametrize("block_rows", [None, 5])
@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("name", TERMS)
def test_the_same_as_by_two_products(
    name: str, kind: str, block_rows: int | None, was_shared: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, given = TERMS[name]
    settings = {**COSINE, **given}
    settings["objective_settings"] = {**settings.get("objective_settings", {}), "block_rows": block_rows}
    a, b = views()

    def run() -> list[Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            term = ContrastiveTerm(weight=make("weight", WEIGHTS[kind]), dim=D, **settings).double()
        ids = torch.arange(N) // 2 * 2  # some rows have one id
        values = [term(a, b, ids + k * N, generator=torch.Generator().manual_seed(3), epoch=1) for k in range(2)]
        return [values[1], *torch.autograd.grad(values[1], (a, b))]

    found = run()
    assert any(was_shared) == shared
    for ours, theirs in zip(found, of_two_products(run, monkeypatch), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_temperature_for_each_candidate_is_not_shared(kind: str, was_shared: list[bool]) -> None:
    a, b = views(N, M)
    term = ContrastiveTerm(objective="info_nce", similarity="cosine", weight=make("weight", WEIGHTS[kind]))
    positives = torch.arange(N)
    term(a, b, torch.arange(N), torch.arange(M) + 5, positives, torch.linspace(0.1, 1, M, dtype=a.dtype))
    assert was_shared
    assert not any(was_shared)
    term(a, b, torch.arange(N), torch.arange(M) + 5, positives)
    assert was_shared[-1]


@pytest.mark.parametrize("objective", [InfoNCE, NTXent])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_the_anchors_of_a_rank(kind: str, objective: type[InfoNCE] | type[NTXent], was_shared: list[bool]) -> None:
    """The mean over ranks of losses and gradients is that of all anchors."""
    a, b = views()
    ids = torch.arange(N)

    def of(share: Share | None) -> list[Tensor]:
        shown = Views(a, b, ids, ids, share=share)
        loss = objective()(shown, Similarity(similarity="cosine", temperature=0.3), make("weight", WEIGHTS[kind])).loss
        return [loss, *torch.autograd.grad(loss, (a, b))]

    parts = [of(Share((5, 7), index)) for index in range(2)]
    for whole, *shares in zip(of(None), *parts, strict=True):
        torch.testing.assert_close(torch.stack(shares).mean(0), whole, rtol=1e-10, atol=1e-12)
    assert all(was_shared)


@pytest.mark.parametrize("objective", ["info_nce", "nt_xent", "debiased_nt_xent"])
def test_a_weight_without_gradient_is_a_constant(objective: str) -> None:
    """The loss and its gradients are those of the same numbers in a table."""
    a, b = views()
    ids, weight = torch.arange(N), make("weight", WEIGHTS["false negative"])
    rows = torch.cat([a, b]).detach() if objective != "info_nce" else a.detach()
    others = rows if objective != "info_nce" else b.detach()
    of_rows = torch.cat([ids, ids]) if objective != "info_nce" else ids
    w = weight.factor(Pairs(of_rows, of_rows, rows, others))

    class Table(type(weight)):  # type: ignore[misc]
        def factor(self, pairs: Pairs) -> Tensor:
            return w.clone()

    terms = [ContrastiveTerm(objective=objective, weight=one, **COSINE) for one in (weight, Table(threshold=0.1))]
    losses = [term(a, b, ids, ids) for term in terms]
    torch.testing.assert_close(*losses, rtol=1e-10, atol=1e-12)
    for ours, theirs in zip(*(torch.autograd.grad(loss, (a, b)) for loss in losses), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [None, *WEIGHTS])
@pytest.mark.parametrize("objective", ["info_nce", "nt_xent", "debiased_info_nce"])
def test_rows_of_half_precision_have_the_loss_of_the_same_numbers(
    objective: str, kind: str | None, dtype: torch.dtype
) -> None:
    """Their directions over a low temperature are not rounded once more."""
    a, b = (x.detach().to(dtype) for x in views())
    weight = None if kind is None else make("weight", WEIGHTS[kind])
    term = ContrastiveTerm(objective=objective, similarity="cosine", temperature=0.05, weight=weight)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(term(a, b), term(a.float(), b.float()))
