"""The cosine contrastive loss, and binary cross-entropy with weights, against sums over all pairs;
losses of cosines in models."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph.losses.pairwise import BCE, BPR, CCL, PairWeights
from recgraph.losses.scores import own_scores
from recgraph.rng import dropout
from recgraph.sparse.blocks import even_bounds, of_groups
from recgraph.sparse.rows import SPARSE_GRADIENTS

T, K, N_ITEMS, D = 7, 5, 11, 4


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, targets, a table and negatives, of which one is the target."""
    g = torch.Generator().manual_seed(2)
    hidden = torch.randn(T, D, generator=g, dtype=torch.float64).requires_grad_()
    table = torch.randn(N_ITEMS + 1, D, generator=g, dtype=torch.float64).requires_grad_()
    targets = torch.randint(1, N_ITEMS + 1, (T,), generator=g)
    negatives = torch.randint(1, N_ITEMS + 1, (T, K), generator=g)
    negatives[3, 1] = targets[3]
    return hidden, targets, table, negatives


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())


def some_weights() -> PairWeights:
    g = torch.Generator().manual_seed(8)
    return PairWeights(torch.rand(T, generator=g).double(), torch.rand(T, K, generator=g).double())


def ccl_oracle(margin: float, weight: float, weights: PairWeights | None) -> Tensor:
    hidden, targets, table, negatives = inputs()
    total = torch.zeros((), dtype=torch.float64)
    for t in range(T):
        own = 1 if weights is None else weights.positive[t]
        total = total + own * (1 - cosine(hidden[t], table[targets[t]]))
        for k in range(K):
            if negatives[t, k] == targets[t]:
                continue
            own = 1 if weights is None else weights.negative[t, k]
            above = cosine(hidden[t], table[negatives[t, k]]) - margin
            total = total + weight / K * own * max(above, above.new_zeros(()))
    return total / T


@pytest.mark.parametrize(("margin", "weight"), [(0.0, 1.0), (0.3, 150.0), (-0.5, 2.0)])
def test_ccl_is_its_equation(margin: float, weight: float) -> None:
    hidden, targets, table, negatives = inputs()
    loss = CCL(margin=margin, negative_weight=weight, n_negatives=K)
    value = loss.against(negatives, hidden, targets, table)
    torch.testing.assert_close(value, ccl_oracle(margin, weight, None), rtol=1e-12, atol=1e-12)
    # the same of whatever length the vectors have
    again = loss.against(
        negatives, hidden * 3, targets, table * torch.arange(1, N_ITEMS + 2)[:, None]
    )
    torch.testing.assert_close(again, value, rtol=1e-12, atol=1e-12)


def test_weights_of_pairs_multiply_their_addends() -> None:
    hidden, targets, table, negatives = inputs()
    weights, keep_mask = some_weights(), negatives != targets[:, None]
    cosines = F.normalize(hidden, dim=1) @ F.normalize(table, dim=1).T
    cosines = cosines.detach()
    own, drawn = cosines.gather(1, targets[:, None])[:, 0], cosines.gather(1, negatives)
    value = CCL(margin=0.2, negative_weight=30.0, n_negatives=K).of_scores(
        own, drawn, keep_mask, N_ITEMS, weights
    )
    torch.testing.assert_close(value, ccl_oracle(0.2, 30.0, weights), rtol=1e-12, atol=1e-12)
    total = 0.0
    for t in range(T):
        total += float(weights.positive[t]) * math.log1p(math.exp(-float(own[t])))
        for k in range(K):
            if keep_mask[t, k]:
                total += (
                    30
                    / K
                    * float(weights.negative[t, k])
                    * math.log1p(math.exp(float(drawn[t, k])))
                )
    bce = BCE(negative_weight=30.0, n_negatives=K).of_scores(
        own, drawn, keep_mask, N_ITEMS, weights
    )
    assert float(bce) == pytest.approx(total / T, rel=1e-12)
    assert not BPR.weighs_pairs


@pytest.mark.parametrize("shared", [False, True])
def test_dropout_of_ccl_comes_after_the_length(shared: bool) -> None:
    hidden, targets, table, negatives = inputs()
    settings = {"shared": True, "n_groups": 2} if shared else {}
    loss = CCL(margin=0.1, negative_weight=20.0, n_negatives=K, dropout=0.5, **settings)
    drawn = negatives[:2] if shared else negatives
    of_each = of_groups(drawn, even_bounds(T, 2)) if shared else drawn
    value = loss.against(drawn, hidden, targets, table, generator=torch.Generator().manual_seed(4))

    unit = dropout(F.normalize(hidden, dim=1), 0.5, torch.Generator().manual_seed(4))
    assert 0 < int((unit == 0).sum()) < unit.numel()
    cosines = unit @ F.normalize(table, dim=1).T
    # such a target costs nothing, and not less
    assert bool((cosines.gather(1, targets[:, None]) > 1).any())
    own = (1 - cosines.gather(1, targets[:, None])[:, 0]).clamp(min=0)
    hinge = (cosines.gather(1, of_each) - 0.1).clamp(min=0) * (of_each != targets[:, None])
    expected = (own + 20 * hinge.mean(1)).mean()
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(value, (hidden, table)),
        torch.autograd.grad(expected, (hidden, table)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)
    plain = CCL(margin=0.1, negative_weight=20.0, n_negatives=K, **settings)
    without = loss.eval().against(
        drawn, hidden, targets, table, generator=torch.Generator().manual_seed(4)
    )
    assert torch.equal(without, plain.against(drawn, hidden, targets, table))


@pytest.mark.parametrize(("block_rows", "row_sparse"), [(None, False), (7, True)])
@pytest.mark.parametrize(
    "types", [("float32", "float32"), ("float64", "float32"), ("bfloat16", "float32")]
)
def test_own_scores_are_those_of_all_vectors_at_once(
    types: tuple[str, str], block_rows: int | None, row_sparse: bool, device: torch.device
) -> None:
    """In float32 and blocks bit for bit: what the losses over all vectors gave, they give in
    blocks.
    """
    g = torch.Generator().manual_seed(1)
    hidden = torch.randn(30, 16, generator=g).to(device, getattr(torch, types[0])).requires_grad_()
    table = torch.nn.Parameter(torch.randn(9, 16, generator=g).to(device, getattr(torch, types[1])))
    columns = torch.randint(9, (30, 5), generator=g).to(device)
    work = torch.promote_types(hidden.dtype, table.dtype)
    expected = (F.embedding(columns, table).to(work) * hidden.to(work)[:, None]).sum(2)
    setattr(table, SPARSE_GRADIENTS, row_sparse)
    scores = own_scores(hidden, table, columns, block_rows)
    pull = torch.linspace(-1, 1, scores.numel(), device=device).view_as(scores).to(scores.dtype)
    found = torch.autograd.grad(scores, (hidden, table), pull)
    assert found[1].is_sparse == row_sparse
    wanted = torch.autograd.grad(expected, (hidden, table), pull)
    # a table of a narrower type had its gradient summed in that type, and has it now in the wider
    # one
    in_blocks = block_rows is not None and device.type == "cpu"
    exact = (
        {"rtol": 0, "atol": 0}
        if in_blocks and types[0] != "float64"
        else {"rtol": 1e-4, "atol": 1e-5}
    )
    torch.testing.assert_close(scores, expected, **exact)
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got.to_dense() if got.is_sparse else got, want, **exact)
