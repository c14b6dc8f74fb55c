"""The k best entries of each row, ties by the rule."""

from __future__ import annotations

import pytest
import torch

from recgraph.sparse import blocks
from recgraph.sparse.csr import Csr
from recgraph.sparse.top_k import TIE_RULE, top_k, top_k_mask


def _oracle(adj: Csr, k: int, scores: list[float]) -> list[bool]:
    keep = [False] * adj.nnz
    for row in range(adj.shape[0]):
        entries = range(int(adj.indptr[row]), int(adj.indptr[row + 1]))
        best = sorted(entries, key=lambda e: (scores[e], int(adj.indices[e])), reverse=True)
        for entry in best[:k]:
            keep[entry] = True
    return keep


@pytest.mark.parametrize("k", [1, 3, 8, 50])
@pytest.mark.parametrize("levels", [1, 3, 1000])
@pytest.mark.parametrize("budget", [4 * 2**20, 64])
def test_against_sorted_rows(
    k: int, levels: int, budget: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BYTES_HOST", budget)
    monkeypatch.setattr(blocks, "FEWEST_ROWS", 2)
    draw = torch.Generator().manual_seed(k * levels)
    present = torch.rand(40, 30, generator=draw) < torch.rand(40, 1, generator=draw)
    adj = Csr.from_dense(present.to(torch.float64)).to(device)
    scores = torch.randint(levels, (adj.nnz,), generator=draw).to(device=device, dtype=torch.float64)
    assert TIE_RULE == "highest column index first"
    assert top_k_mask(adj, k, scores).tolist() == _oracle(adj, k, scores.tolist())
    kept = top_k(adj, k, scores)
    assert torch.equal(kept.degrees, adj.degrees.clamp(max=k))
    assert (kept.values() == 1).all()


def test_by_weights_with_ties_at_the_cut() -> None:
    adj = Csr.from_dense(torch.tensor([[1.0, 2.0, 2.0, 2.0], [0.0, 5.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    assert top_k(adj, 2).to_dense().tolist() == [[0, 0, 2, 2], [0, 5, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("k", [1, 3, 8])
def test_further_scores_among_equals(k: int, device: torch.device) -> None:
    draw = torch.Generator().manual_seed(k)
    adj = Csr.from_dense((torch.rand(40, 30, generator=draw) < 0.5).to(torch.float64)).to(device)
    first, second, third = (torch.randint(n, (adj.nnz,), generator=draw).to(device, torch.float64) for n in (2, 4, 3))
    assert top_k_mask(adj, k, first, second).tolist() == _oracle(adj, k, (10 * first + second).tolist())
    kept = top_k_mask(adj, k, first, second, third)
    assert kept.tolist() == _oracle(adj, k, (100 * first + 10 * second + third).tolist())
    assert torch.equal(top_k(adj, k, first, second, third).indices, adj.indices[kept])
