"""Random views of graphs: exact shares, what is never drawn, once or anew, the same on all
devices.
"""

from __future__ import annotations

import pytest
import torch
from random_matrices import random_matrix

from recgraph.augment.graph import EdgeDrop, FeatureMask
from recgraph.rng import Generators
from recgraph.sparse.csr import Csr


def _adjacency(device: torch.device, n_cols: int = 30) -> Csr:
    return (
        random_matrix(30, n_cols, 300, torch.Generator().manual_seed(0), weighted=True)
        .coalesce()
        .to(device)
    )


def test_edges_go_by_an_exact_share_and_the_identity_comes(device: torch.device) -> None:
    adj = _adjacency(device)
    off = int((adj.rows != adj.indices).sum())
    view = EdgeDrop(ratio=0.3)(adj, torch.Generator().manual_seed(0))
    assert view.weights is None
    assert view.nnz == off - int(0.3 * off) + 30
    dense = view.to_dense()
    assert (dense.diagonal() == 1).all()
    assert not bool(((dense > 0) & (adj.to_dense() == 0)).fill_diagonal_(False).any())


def test_edges_that_keep_their_weights(device: torch.device) -> None:
    adj = _adjacency(device, n_cols=20)
    view = EdgeDrop(ratio=0.5, binary=False)(adj, torch.Generator().manual_seed(0))
    assert view.nnz == adj.nnz - int(0.5 * adj.nnz)
    dense, mine = adj.to_dense(), view.to_dense()
    assert torch.equal(mine[mine > 0], dense[mine > 0])
    square = EdgeDrop(ratio=0.0, binary=False, self_loops=False)(
        _adjacency(device), torch.Generator()
    )
    assert torch.equal(square.to_dense(), _adjacency(device).to_dense())


def test_a_stored_feature_of_0_is_none_that_could_be_masked() -> None:
    values = torch.tensor([1.0, 0.0] * 5)
    sparse = Csr.from_coo(
        torch.zeros(10, dtype=torch.int64), torch.arange(10), values, shape=(1, 10)
    )
    for seed in range(8):
        masks = [
            FeatureMask(ratio=0.4)(x, torch.Generator().manual_seed(seed))
            for x in (sparse, sparse.to_dense())
        ]
        assert torch.equal(masks[0].to_dense(), masks[1])
        assert int((masks[1] != 0).sum()) == 3


@pytest.mark.parametrize("sparse", [False, True])
def test_features_go_by_an_exact_share(sparse: bool, device: torch.device) -> None:
    adj = _adjacency(device, n_cols=12)
    features = adj if sparse else adj.to_dense()
    masked = FeatureMask(ratio=0.25)(features, torch.Generator().manual_seed(0))
    before = adj.to_dense()
    after = masked.to_dense() if isinstance(masked, Csr) else masked
    n = int((before != 0).sum())
    assert int((after != 0).sum()) == n - int(0.25 * n)
    assert torch.equal(after[after != 0], before[after != 0])
    assert torch.equal(before, adj.to_dense()), "the features themselves are not changed"


def test_once_as_published() -> None:
    adj, generators = _adjacency(torch.device("cpu")), Generators(7)

    def draw(view: EdgeDrop, name: str, of: Generators = generators) -> list[int]:
        return view(adj, view.stream(of, name)).indices.tolist()

    once = EdgeDrop()
    assert draw(once, "pap") == draw(once, "pap") == draw(once, "pap", Generators(7))
    assert draw(once, "pap") != draw(once, "psp")
    assert draw(once, "pap") != draw(once, "pap", Generators(8))
