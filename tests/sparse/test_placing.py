"""What is shared on the host is shared on a device: counted on torch's ``meta`` device, which stands for any other."""

from __future__ import annotations

import torch
from torch import Tensor

from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import Chain, Sum, normalise
from recgraph.sparse.placing import Placing

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
    assert taken == plain.nbytes + plain.weights.nbytes


def test_chains_and_sums_share_their_factors() -> None:
    plain = adjacency()
    chain = Chain.of((plain, plain)).normalise("row")
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


def test_values_are_those_of_to() -> None:
    """Another type on the host: the places stay the same objects, and each value is what ``to`` makes of it."""
    plain = adjacency()
    moved = Placing("cpu", torch.float64)(plain)
    assert moved.indices is plain.indices
    assert torch.equal(moved.to_dense(), plain.to(dtype=torch.float64).to_dense())
