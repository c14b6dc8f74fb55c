"""Negatives that all targets of a step share: the loss against a dense one, and against each
target's own.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph import registry
from recgraph.losses.pairwise import PairWeights
from recgraph.sparse import blocks
from recgraph.sparse.rows import SPARSE_GRADIENTS

N_ITEMS, D, T, K = 23, 5, 100, 40
EXACT = {"rtol": 1e-11, "atol": 1e-12}
LOSSES: list[tuple[str, dict[str, Any]]] = [
    ("bpr", {}),
    ("bce", {"calibration": 0.5}),
    ("bce", {"negative_weight": 30.0}),
    ("ccl", {"margin": 0.1, "negative_weight": 20.0}),
]


def inputs(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(8)
    hidden = torch.randn(T, D, generator=g, dtype=torch.float64).to(device).requires_grad_()
    table = torch.nn.Parameter(
        torch.randn(N_ITEMS + 1, D, generator=g, dtype=torch.float64).to(device)
    )
    return hidden, torch.randint(1, N_ITEMS + 1, (T,), generator=g).to(device), table


def weights_of(device: torch.device) -> PairWeights:
    g = torch.Generator().manual_seed(9)
    return PairWeights(
        *(torch.rand(*size, generator=g, dtype=torch.float64).to(device) for size in ((T,), (T, K)))
    )


@pytest.mark.parametrize(("name", "settings"), LOSSES)
@pytest.mark.parametrize(
    ("row_sparse", "budget", "bounds"),
    [(False, 2**20, [0, T]), (True, 1, [0, 37, 37, T])],
    ids=["one", "groups"],
)
def test_blocks_of_shared_negatives_are_the_dense_loss(
    name: str,
    settings: dict[str, Any],
    row_sparse: bool,
    budget: int,
    bounds: list[int],
    device: torch.device,
    monkeypatch: Any,
) -> None:
    monkeypatch.setattr(blocks, "BYTES_HOST", budget)  # of blocks of 32 rows, or of one
    loss = registry.load("loss", name)(n_negatives=K, shared=True, **settings)
    hidden, targets, table = inputs(device)
    n_groups = len(bounds) - 1
    drawn = torch.randint(
        1, N_ITEMS + 1, (n_groups, K), generator=torch.Generator().manual_seed(2)
    ).to(device)
    of_each = torch.stack(
        [drawn[max(g for g in range(n_groups) if bounds[g] <= t)] for t in range(T)]
    )
    keep_mask, weights = of_each != targets[:, None], weights_of(device)
    x, y = (F.normalize(one, dim=1) if loss.cosine else one for one in (hidden, table))
    scores = x @ y.T
    positive, negative = scores.gather(1, targets[:, None])[:, 0], scores.gather(1, of_each)
    expected = loss.of_scores(positive, negative, keep_mask, N_ITEMS, weights)
    wanted = torch.autograd.grad(expected, (hidden, table))
    setattr(table, SPARSE_GRADIENTS, row_sparse)
    value = loss.against_shared(drawn, bounds, keep_mask, hidden, targets, table, N_ITEMS, weights)
    torch.testing.assert_close(value, expected, **EXACT)
    found = torch.autograd.grad(value, (hidden, table))
    assert found[1].is_sparse == row_sparse
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got.to_dense() if got.is_sparse else got, want, **EXACT)


@pytest.mark.parametrize(("name", "settings"), LOSSES)
@pytest.mark.parametrize("n_groups", [4, 250])
def test_one_draw_serves_all_targets_of_a_group(
    name: str, settings: dict[str, Any], n_groups: int
) -> None:
    loss = registry.load("loss", name)(n_negatives=K, shared=True, n_groups=n_groups, **settings)
    hidden, targets, table = inputs(torch.device("cpu"))
    drawn = loss.draw(T, N_ITEMS, torch.Generator().manual_seed(4), table.device)
    assert drawn.shape == (n_groups, K)
    # each target with the negatives of its group as its own
    own = registry.load("loss", name)(n_negatives=K, **settings)
    bounds = blocks.even_bounds(T, n_groups)
    sizes = torch.tensor(bounds).diff()
    assert int(sizes.max()) - int(sizes.min()) <= 1
    expected = own.against(drawn.repeat_interleave(sizes, 0), hidden, targets, table)
    value = loss(hidden, targets, table, torch.Generator().manual_seed(4))
    torch.testing.assert_close(value, expected, **EXACT)
    inputs_of = hidden, table
    for got, want in zip(
        torch.autograd.grad(value, inputs_of), torch.autograd.grad(expected, inputs_of), strict=True
    ):
        torch.testing.assert_close(got, want, **EXACT)
