"""Drawn candidates: all of them give the exact loss, and a few an unbiased estimate of the sum."""

from __future__ import annotations

import math
from typing import Any

import contrast_oracles as dense
import pytest
import torch
from refusing import refused
from torch import Tensor

from recgraph.contrast.blockwise import Candidates, NoCandidateError, contrast, contrast_drawn
from recgraph.contrast.term import ContrastiveTerm
from recgraph.contrast.weights import Pairs, Weight
from recgraph.registry import make
from recgraph.sparse.device import accelerator_path

N, D = 12, 5
FLAGS = [(True, False), (True, True), (False, False)]
WEIGHTS: dict[str, dict[str, Any]] = {
    "none": {},
    "cluster": {"name": "cluster"},
    "at hand": {"name": "cluster", "n_clusters": (2, 3)},
    "hardest": {"name": "hardness", "hardest": 0.4},
    "learned": {"name": "learned", "dim": D, "inner_dim": 4},
    "normalised": {"name": "learned", "dim": D, "inner_dim": 4, "normalise": True},
}


def views(n: int = N) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, n, D, generator=draw, dtype=torch.float64)
    return a.requires_grad_(), b.requires_grad_()


def weight_of(kind: str) -> Weight | None:
    if kind == "none":
        return None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weight: Weight = make("weight", WEIGHTS[kind]).double()
    if kind == "cluster":
        weight.prepare(lambda: torch.stack([torch.arange(100) % 3, torch.arange(100) % 4]))
    return weight


def agree(found: Tensor, expected: Tensor, *inputs: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    for mine, other in zip(*(torch.autograd.grad(loss, inputs) for loss in (found, expected)), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("kind", WEIGHTS)
def test_all_candidates_give_the_exact_loss(kind: str, flags: tuple[bool, bool]) -> None:
    (a, b), block_rows = views(), 5
    weight, positives = weight_of(kind), torch.arange(N).roll(3)
    pairs = None if weight is None else Pairs(torch.arange(N) + 5, torch.arange(N) + 7, a, b)
    candidates = Candidates(positives, torch.arange(N), *flags)
    exact, left_out = contrast(a, b, candidates, weight, pairs, block_rows)
    found, also = contrast_drawn(a, b, torch.arange(N), candidates, weight, pairs, block_rows)
    agree(found, exact, a, b, *([] if weight is None else weight.parameters()))
    assert int(left_out) == int(also)


@pytest.mark.parametrize("kind", ["none", "learned"])
@pytest.mark.parametrize("flags", FLAGS)
def test_the_sum_is_estimated_without_bias(kind: str, flags: tuple[bool, bool]) -> None:
    """Of one anchor the loss is the logarithm of that sum, less the positive's similarity; all 56 draws are made."""
    a, b = (view.detach() for view in views(8))
    weight, candidates = weight_of(kind), Candidates(torch.tensor([4]), None, *flags)
    pairs = None if weight is None else Pairs(torch.tensor([4]), torch.arange(8), a[:1], b)
    exact = contrast(a[:1], b, candidates, weight, pairs)[0].exp()
    draws = torch.combinations(torch.arange(8), 3)
    found = torch.stack([contrast_drawn(a[:1], b, drawn, candidates, weight, pairs)[0].exp() for drawn in draws])
    torch.testing.assert_close(found.mean(), exact, rtol=1e-10, atol=1e-12)
    assert bool(found.std() > 0)


@pytest.mark.parametrize("flags", FLAGS)
def test_drawn_candidates_are_dense(flags: tuple[bool, bool]) -> None:
    """The loss and its gradients written out, with log-weights that are no function of the embeddings."""
    a, b = views()
    log_w = torch.randn(N, N, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    drawn, positives = torch.tensor([0, 3, 5, 9]), torch.arange(N)
    pairs = Pairs(torch.arange(N), torch.arange(N), a, b)
    found, _ = contrast_drawn(a, b, drawn, Candidates(positives, None, *flags), dense.Dense(log_w), pairs)
    s = a @ b.T
    logits = (s + log_w)[:, drawn] + math.log(N / 4)
    logits = logits.masked_fill(drawn == positives[:, None], -math.inf)
    if flags[0]:
        own = s.diagonal() + (log_w.diagonal() if flags[1] else 0)
        logits = torch.cat([logits, own[:, None]], 1)
    agree(found, (logits.logsumexp(1) - s.diagonal()).mean(), a, b)


@pytest.mark.parametrize("objective", ["info_nce", "nt_xent"])
def test_a_term_draws_what_its_setting_says(objective: str) -> None:
    a, b = views()

    def loss(n_candidates: int | None, seed: int = 0) -> Tensor:
        term = ContrastiveTerm(objective={"name": objective, "n_candidates": n_candidates})
        found: Tensor = term(a, b, generator=torch.Generator().manual_seed(seed))
        return found

    assert torch.equal(loss(2 * N), loss(None))
    assert torch.equal(loss(4), loss(4))
    assert not torch.equal(loss(4), loss(4, seed=1))


def test_no_candidate_among_the_drawn() -> None:
    a, b = views()
    none, weight = torch.zeros(N, dtype=torch.int64), make("weight", "self_mask")
    given = a, b, torch.arange(3), Candidates(torch.arange(N), None, False), weight, Pairs(none, none, a, b)
    with refused("weight", by=NoCandidateError):
        contrast_drawn(*given)
    with accelerator_path():  # nobody waits to learn it
        loss, left_out = contrast_drawn(*given)
    assert loss.isnan()
    assert int(left_out) == N
