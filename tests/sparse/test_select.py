"""Entries that are taken: the k best by the rule of ties, and random ones, uniform and the same for
one generator.
"""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from torch import Tensor

from recgraph.sparse import blocks
from recgraph.sparse.csr import Csr
from recgraph.sparse.ragged import Ragged
from recgraph.sparse.select import TIE_RULE, sample_rows, top_k


def _oracle(adj: Csr, k: int, scores: Tensor) -> list[int]:
    """The numbers of the entries that stay."""
    kept: list[int] = []
    for row in range(adj.shape[0]):
        entries = range(int(adj.indptr[row]), int(adj.indptr[row + 1]))
        best = sorted(entries, key=lambda e: (float(scores[e]), int(adj.indices[e])), reverse=True)
        kept += sorted(best[:k])
    return kept


def _numbered(present: Tensor) -> Csr:
    """A matrix whose weights are the numbers of its entries."""
    adj = Csr.from_dense(present.to(torch.float64))
    return adj.with_weights(torch.arange(adj.nnz, device=adj.device, dtype=torch.float64))


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
    adj = _numbered(present.to(device))
    scores = torch.randint(levels, (adj.nnz,), generator=draw).to(
        device=device, dtype=torch.float64
    )
    assert TIE_RULE == "highest column index first"
    kept = top_k(adj, k, scores)
    assert kept.values().tolist() == _oracle(adj, k, scores)
    assert torch.equal(kept.degrees, adj.degrees.clamp(max=k))


@pytest.mark.parametrize("k", [1, 3, 8])
def test_further_scores_among_equals(k: int, device: torch.device) -> None:
    draw = torch.Generator().manual_seed(k)
    adj = _numbered((torch.rand(40, 30, generator=draw) < 0.5).to(device))
    first, second, third = (
        torch.randint(n, (adj.nnz,), generator=draw).to(device, torch.float64) for n in (2, 4, 3)
    )
    assert top_k(adj, k, first, second).values().tolist() == _oracle(adj, k, 10 * first + second)
    kept = top_k(adj, k, first, second, third)
    assert kept.values().tolist() == _oracle(adj, k, 100 * first + 10 * second + third)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matrix() -> Csr:
    """Rows of 0, 1, 5, 40 and 3 entries, with repeats."""
    lengths = torch.tensor([0, 1, 5, 40, 3])
    rows = torch.repeat_interleave(torch.arange(5), lengths)
    cols = torch.randint(30, (int(lengths.sum()),), generator=generator(1))
    return Csr.from_coo(rows, cols, torch.rand(len(rows), generator=generator(2)), shape=(5, 30))


def sums(adj: Csr, entries: Ragged, scale: Tensor) -> Tensor:
    """[K]: the estimates of the rows' sums of weights."""
    return (
        torch.zeros(len(scale)).index_add(0, entries.rows, adj.values()[entries.values])
        * scale.float()
    )


@pytest.mark.parametrize("fan_out", [None, 40, 100])
def test_covers_the_whole_neighbourhood(fan_out: int | None, device: torch.device) -> None:
    adj, rows = matrix().to(device), torch.tensor([3, 0, 2, 3, 1], device=device)
    entries, scale = sample_rows(adj, rows, fan_out, generator())
    whole = adj.take_rows(rows)
    assert torch.equal(entries.offsets, whole.indptr)
    assert torch.equal(adj.indices[entries.values], whole.indices)
    assert torch.equal(scale, torch.ones_like(scale))


@pytest.mark.parametrize("replace", [False, True])
def test_draws_of_each_row_its_own_entries(replace: bool) -> None:
    adj, rows = matrix(), torch.tensor([3, 0, 2, 1, 3, 4])
    sampled, _ = sample_rows(adj, rows, 4, generator(), replace)
    lists = sampled.to_lists()
    assert [len(entries) for entries in lists] == (
        [4, 0, 4, 4, 4, 4] if replace else [4, 0, 4, 1, 4, 3]
    )
    for row, entries in zip(rows.tolist(), lists, strict=True):
        assert entries == sorted(entries)
        assert replace or len(set(entries)) == len(entries)
        assert all(adj.indptr[row] <= entry < adj.indptr[row + 1] for entry in entries)
    assert sample_rows(adj, rows, 4, generator(), replace)[0].to_lists() == lists
    assert sample_rows(adj, rows, 4, generator(9), replace)[0].to_lists() != lists


def test_every_subset_is_equally_likely() -> None:
    n, degree, k = 60_000, 6, 3
    adj = Csr(torch.tensor([0, degree]), torch.arange(degree), None, (1, degree))
    entries, _ = sample_rows(adj, torch.zeros(n, dtype=torch.int64), k, generator())
    found = Counter(map(tuple, entries.values.view(n, k).tolist()))
    subsets = list(itertools.combinations(range(degree), k))
    assert set(found) == set(subsets)
    expected = n / len(subsets)
    chi_square = sum((count - expected) ** 2 / expected for count in found.values())
    # 19 degrees of freedom: above 43.8 with probability 0.001
    assert chi_square < 43.8


@pytest.mark.parametrize("replace", [False, True])
def test_scaled_sums_are_unbiased(replace: bool) -> None:
    adj, n = matrix(), 20_000
    for row in (2, 3, 4):
        estimates = sums(adj, *sample_rows(adj, torch.full((n,), row), 3, generator(row), replace))
        error = estimates.std() / n**0.5
        assert abs(estimates.mean() - adj.row_sums()[row]) <= 4 * error + 1e-4
