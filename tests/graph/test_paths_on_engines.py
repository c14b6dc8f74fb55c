"""Paths that are composed and ranked over pieces of rows equal those that are made at once, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recgraph.graph import pathsim as _pathsim
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath
from recgraph.parallel import Engine
from recgraph.sparse import products
from recgraph.sparse.csr import Csr
from recgraph.sparse.products import compose, pieces_for


def same(found: Csr, expected: Csr) -> None:
    assert found.shape == expected.shape
    assert torch.equal(found.indptr, expected.indptr)
    assert torch.equal(found.indices, expected.indices)
    assert (found.weights is None) == (expected.weights is None)
    if found.weights is not None and expected.weights is not None:
        assert found.weights.dtype == expected.weights.dtype
        assert torch.equal(found.weights, expected.weights)


def matrix(seed: int, shape: tuple[int, int], weighted: bool) -> Csr:
    draw = np.random.default_rng(seed)
    made = Csr.from_scipy(sp.random_array(shape, density=0.05, rng=draw))
    return made if weighted else made.with_weights(None)


@pytest.fixture
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_MAX_CELLS", 3000)
    monkeypatch.setattr(products, "_MAX_PAIRS", 2000)


@pytest.mark.usefixtures("_small_blocks")
def test_products(engine: Engine) -> None:
    for weighted in (True, False):
        a, b = matrix(0, (300, 200), weighted), matrix(1, (200, 250), weighted)
        for counts in ("full", "binary"):
            same(compose(a, b, counts, engine=engine), compose(a, b, counts))
    same(compose(a, b, dtype=torch.float64, engine=engine), compose(a, b, dtype=torch.float64))
    empty = Csr.from_dense(torch.zeros(0, 200))
    same(compose(empty, b, engine=engine), compose(empty, b))
    with pytest.raises(ValueError, match="cannot be multiplied"):
        compose(b, b, engine=engine)


@pytest.mark.usefixtures("_small_blocks")
def test_pieces_cost_alike_and_hold_every_row_once(engine: Engine) -> None:
    a, b = matrix(0, (300, 200), True), matrix(1, (200, 250), True)
    pieces = [*pieces_for(engine, a, b)]
    assert 3 <= len(pieces) <= 4 * engine.size
    firsts = [piece.value[0] for piece in pieces]
    assert firsts == [0, *np.cumsum([piece.value[1].shape[0] for piece in pieces])[:-1]]
    assert sum(piece.value[1].nnz for piece in pieces) == a.nnz
    assert pieces[0].name.startswith("rows 0 to ")


def graph() -> HeteroGraph:
    draw = np.random.default_rng(3)
    relations = {
        ("paper", "by", "author"): sp.random_array((400, 150), density=0.02, rng=draw),
        ("paper", "on", "subject"): sp.random_array((400, 12), density=0.1, rng=draw),
    }
    features = {"paper": torch.from_numpy(draw.standard_normal((400, 8)))}
    return HeteroGraph.from_scipy(relations, features=features)


@pytest.mark.usefixtures("_small_blocks")
@pytest.mark.parametrize(
    ("path", "settings"),
    [
        ("paper-author-paper", {}),
        ("paper-author-paper", {"counts": "binary", "weights": False}),
        ("paper-author-paper", {"top_k": 7}),
        ("paper-subject-paper", {"top_k": 7, "ties": "cosine", "counts": "binary"}),
        ("paper-author-paper-subject-paper", {"top_k": 5}),
        ("author-paper-subject-paper-author", {"top_k": 5, "form": "compressed"}),
    ],
)
def test_meta_paths(path: str, settings: dict[str, object], engine: Engine) -> None:
    typed, found = graph(), MetaPath(path, **settings)
    same(found.adjacency(typed, engine), found.adjacency(typed))
    same(found.counts(typed, engine), found.counts(typed))


def test_a_diagonal_is_found_in_pieces(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_MAX_CELLS", 500)
    a, b = matrix(0, (90, 70), True), matrix(1, (70, 90), True)
    expected = (a.to_scipy().astype(float) @ b.to_scipy().astype(float)).diagonal()
    for one in (None, engine):
        assert np.allclose(_pathsim._diagonal(a, b, "full", one), expected, rtol=1e-12, atol=0)
