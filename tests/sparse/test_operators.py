"""Chains, sums and compressed rows against what they stand for; what is shared is shared on a device."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recgraph.sparse.csr import Csr, random_matrix
from recgraph.sparse.operators import Chain, Normalisation, Placing, Sum, compress_rows, normalise
from recgraph.sparse.products import compose
from recgraph.sparse.spmm import spmm


def _repeated(device: torch.device, weighted: bool = True) -> Csr:
    draw = torch.Generator().manual_seed(0)
    few = random_matrix(5, 60, 90, draw, weighted=weighted).to(dtype=torch.float64)
    return few.take_rows(torch.randint(5, (60,), generator=draw)).to(device)


@pytest.mark.parametrize("weighted", [True, False])
def test_equal_rows_are_held_once(weighted: bool, device: torch.device) -> None:
    adj = _repeated(device, weighted)
    small = compress_rows(adj)
    assert isinstance(small, Chain)
    assert small.factors[1].shape == (5, 60)
    assert torch.equal(compose(*small.factors).to_dense().double(), adj.to_dense().double())


def test_rows_that_differ_in_one_weight_are_not_equal() -> None:
    adj = _repeated(torch.device("cpu"))
    weights = adj.values().clone()
    weights[7] += 1e-9
    changed = adj.with_weights(weights)
    small = compress_rows(changed)
    assert isinstance(small, Chain)
    assert small.factors[1].shape == (6, 60)
    assert torch.equal(compose(*small.factors).to_dense(), changed.to_dense())


@pytest.mark.parametrize("kind", ["row", "column", "symmetric", "meow"])
def test_a_sum_equals_what_it_makes(kind: Normalisation, device: torch.device) -> None:
    first, second = _repeated(device), random_matrix(60, 60, 400, torch.Generator().manual_seed(1)).to(device)
    second = second.with_weights(second.values(torch.float64))
    both = Sum((compress_rows(first), second), (2.0, 0.5))
    made = Csr.from_dense(2 * first.to_dense() + 0.5 * second.to_dense())
    x = torch.rand(60, 4, dtype=torch.float64, device=device, requires_grad=True)
    torch.testing.assert_close(both.row_sums(), made.row_sums())
    for ours, theirs in ((both, made), (both.t(), made.t()), (normalise(both, kind), normalise(made, kind))):
        torch.testing.assert_close(spmm(ours, x), spmm(theirs, x), rtol=1e-12, atol=1e-14)
        grads = [torch.autograd.grad((spmm(op, x) ** 2).sum(), x)[0] for op in (ours, theirs)]
        torch.testing.assert_close(grads[0], grads[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [None, "row", "column", "symmetric", "meow"])
def test_a_chain_equals_its_product(kind: Normalisation | None, device: torch.device) -> None:
    draw = torch.Generator().manual_seed(4)
    factors = (
        random_matrix(30, 12, 36, draw, weighted=True).to(device, torch.float64),
        random_matrix(12, 30, 72, draw).to(device),
    )
    chain, product = Chain(factors), compose(*factors)
    torch.testing.assert_close(chain.row_sums(), product.row_sums(), check_dtype=False)
    if kind is not None:
        chain, product = normalise(chain, kind), normalise(product, kind)
    x = torch.rand(30, 4, dtype=torch.float64, device=device, requires_grad=True)
    (by_factors,) = torch.autograd.grad((spmm(chain, x) ** 2).sum(), x)
    (by_product,) = torch.autograd.grad((spmm(product, x) ** 2).sum(), x)
    torch.testing.assert_close(spmm(chain, x), spmm(product, x), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(by_factors, by_product, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(spmm(chain.t(), x), spmm(product.t(), x), rtol=1e-12, atol=1e-14)


META = torch.device("meta")


def adjacency() -> Csr:
    dense = torch.tensor([[0.0, 2.0, 1.0], [2.0, 0.0, 0.0], [1.0, 0.0, 4.0]])
    return Csr.from_dense(dense)


def distinct_bytes(*tensors: Tensor | None) -> int:
    """Of the storages behind the tensors, each counted once."""
    found = {}
    for tensor in tensors:
        if tensor is not None:
            storage = tensor.untyped_storage()
            found[storage._cdata] = storage.nbytes()
    return sum(found.values())


def test_a_matrix_with_other_weights_shares_its_places() -> None:
    plain = adjacency()
    scaled = normalise(plain, "symmetric")
    place = Placing(META)
    there, also = place(plain), place(scaled)
    assert place(plain) is there
    assert there.indices is also.indices
    assert there.indptr is also.indptr
    assert there.weights is not also.weights
    # what is computed from the places is computed once
    assert there.shared("mark", lambda: object()) is also.shared("mark", lambda: object())
    taken = distinct_bytes(there.indices, there.indptr, there.weights, also.indices, also.indptr, also.weights)
    held = plain.indptr, plain.indices, plain.weights, plain.weights.clone()
    assert taken == distinct_bytes(*held)


def test_chains_and_sums_share_their_factors() -> None:
    plain = adjacency()
    chain = normalise(Chain((plain, plain)), "row")
    whole = Sum((chain, plain), (1.0, -1.0))
    place = Placing(META, torch.float64)
    moved, alone = place(whole), place(plain)
    assert isinstance(moved, Sum)
    term, other = moved.terms
    assert isinstance(term, Chain)
    assert term.factors[0] is term.factors[1] is other is alone
    assert alone.weights is not None
    assert alone.weights.dtype == torch.float64
    kept = place.keeping_types()(plain)
    assert kept.indices is alone.indices
    assert kept.weights is not None
    assert kept.weights.dtype == torch.float32
