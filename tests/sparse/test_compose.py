"""Products of sparse matrices against scipy and dense ones, and their blocks."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recgraph.sparse import products as module
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import Chain, Normalisation, normalise
from recgraph.sparse.products import compose, compose_blocks, n_pairs
from recgraph.sparse.spmm import spmm


def _matrix(seed: int, shape: tuple[int, int], density: float, weighted: bool = True) -> Csr:
    made = sp.random_array(shape, density=density, rng=np.random.default_rng(seed))
    made.data = np.ceil(made.data * 9)
    adj = Csr.from_scipy(made)
    return adj if weighted else adj.with_weights(None)


@pytest.mark.parametrize("density", [0.01, 0.3])
@pytest.mark.parametrize("weighted", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("small_blocks", [False, True])
def test_counts_equal_scipy(
    density: float, weighted: tuple[bool, bool], small_blocks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if small_blocks:
        monkeypatch.setattr(module, "_MAX_CELLS", 200)
        monkeypatch.setattr(module, "_MAX_PAIRS", 300)
    a, b = _matrix(0, (60, 50), density, weighted[0]), _matrix(1, (50, 70), density, weighted[1])
    expected = (a.to_scipy().astype(float) @ b.to_scipy().astype(float)).tocsr()
    expected.sort_indices()
    product = compose(a, b)
    assert np.array_equal(product.indptr, expected.indptr)
    assert np.array_equal(product.indices, expected.indices)
    assert np.array_equal(product.values(), expected.data)
    binary = compose(a, b, "binary")
    assert binary.weights is None
    assert torch.equal(binary.indices, product.indices)
    assert (n_pairs(a, b) >= product.degrees).all()


def test_several_entries_at_one_place_count_each(device: torch.device) -> None:
    a = Csr.from_coo(torch.tensor([0, 0, 1]), torch.tensor([1, 1, 0]), shape=(2, 2)).to(device)
    b = Csr.from_coo(torch.tensor([1, 1, 0]), torch.tensor([2, 2, 0]), shape=(2, 3)).to(device)
    assert compose(a, b).to_dense().tolist() == [[0, 0, 4], [1, 0, 0]]


def test_fractions_to_rounding_and_the_type_of_the_widest(device: torch.device) -> None:
    draw = torch.Generator().manual_seed(0)
    a = Csr.from_dense(torch.rand(20, 30, generator=draw, dtype=torch.float64)).to(device)
    b = Csr.from_dense(torch.rand(30, 10, generator=draw)).to(device)
    product = compose(a, b)
    assert product.values().dtype == torch.float64
    torch.testing.assert_close(product.to_dense(), a.to_dense() @ b.to_dense().double(), rtol=1e-13, atol=0)


def test_blocks_are_the_rows_of_the_product() -> None:
    a, b = _matrix(2, (40, 30), 0.2), _matrix(3, (30, 20), 0.2)
    whole = compose(a, b).to_dense()
    stop = 0
    for rows, block in compose_blocks(a, b):
        assert rows.start == stop
        torch.testing.assert_close(block.to_dense(), whole[rows].double(), check_dtype=False)
        stop = rows.stop
    assert stop == 40


@pytest.mark.parametrize("kind", [None, "row", "column", "symmetric", "meow"])
def test_a_chain_equals_its_product(kind: Normalisation | None, device: torch.device) -> None:
    a, b = _matrix(4, (30, 12), 0.1), _matrix(5, (12, 30), 0.2, weighted=False)
    factors = [factor.to(device, torch.float64) for factor in (a, b)]
    chain, product = Chain.of(factors), compose(*factors)
    torch.testing.assert_close(chain.row_sums(), product.row_sums(), check_dtype=False)
    if kind is not None:
        chain, product = chain.normalise(kind), normalise(product, kind)
    x = torch.rand(30, 4, dtype=torch.float64, device=device, requires_grad=True)
    (by_factors,) = torch.autograd.grad((spmm(chain, x) ** 2).sum(), x)
    (by_product,) = torch.autograd.grad((spmm(product, x) ** 2).sum(), x)
    torch.testing.assert_close(spmm(chain, x), spmm(product, x), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(by_factors, by_product, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(spmm(chain.t(), x), spmm(product.t(), x), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(chain.to_csr().to_dense(), product.to_dense())
    assert chain.to(dtype=torch.float32).factors[0].values().dtype == torch.float32


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("density", [0.0005])
def test_long_blocks_give_the_bits_of_short_ones(
    weighted: bool, density: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = _matrix(0, (300, 200), 0.03), _matrix(1, (200, 40_000), density)
    # fractions, whose sums depend on the order
    a, b = (m.with_weights(torch.rand(m.nnz, generator=draw, dtype=torch.float64)) for m in (a, b))
    if not weighted:
        a, b = a.with_weights(None), b.with_weights(None)
    long, n_long = compose(a, b), len(list(compose_blocks(a, b)))
    monkeypatch.setattr(module, "_MAX_SORTED", 0)
    short, n_short = compose(a, b), len(list(compose_blocks(a, b)))
    assert n_short == 300 // 13 + 1
    assert n_long < n_short
    assert torch.equal(long.indptr, short.indptr)
    assert torch.equal(long.indices, short.indices)
    assert torch.equal(long.values(), short.values())


def test_work_grows_with_the_pairs_and_not_with_the_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    n_degrees: list[int] = []
    own = Csr.degrees.fget
    assert own is not None
    monkeypatch.setattr(Csr, "degrees", property(lambda m: (n_degrees.append(m.shape[0]), own(m))[1]))
    for n in (10_000, 40_000):
        draw = torch.Generator().manual_seed(n)
        rows = torch.arange(n).repeat_interleave(3)
        a, b = (Csr.from_coo(rows, torch.randint(n, (3 * n,), generator=draw), shape=(n, n)) for _ in range(2))
        n_degrees.clear()
        n_blocks = sum(1 for _ in compose_blocks(a, b))
        assert n_blocks <= 2 * 9 * n / module._MAX_SORTED + 1
        assert sum(n_degrees) <= 3 * n
