"""Every function with a backward of its own is right when it is differentiated twice, or refuses to be."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import recgraph
from recgraph.contrast.blockwise import log_sums
from recgraph.contrast.parts import _InverseRoot
from recgraph.contrast.regularisers import Uniformity
from recgraph.contrast.term import ContrastiveTerm
from recgraph.contrast.weights import Learned, Pairs
from recgraph.encoders.attention import attend, pack
from recgraph.encoders.graph import symmetric_product
from recgraph.losses.scores import own_scores, pair_scores
from recgraph.losses.softmax import FullSoftmax
from recgraph.models.collaborative.base import half_squared_norms
from recgraph.ranks import _Gathered
from recgraph.sparse.csr import Csr
from recgraph.sparse.ragged import Ragged
from recgraph.sparse.spmm import _PairsInBlocks, pair_products, spmm

Case = tuple[Callable[..., Tensor], tuple[Tensor, ...]]


def drawn(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in shapes)


# of several lengths, so that there is padding within a bucket
PACKED = pack(Ragged.from_lists([[1], [2, 3], [4, 5, 6], [1, 2, 3, 4]]), last_only=False)


def attention_of_the_last() -> Case:
    return lambda queries, kv: attend(kv, PACKED, 2, 0.0, None, queries), drawn((4, 4), (10, 8))


def term() -> Case:
    return ContrastiveTerm(temperature=0.5), drawn((5, 3), (5, 3))


def sum_over_candidates() -> Case:
    return log_sums, drawn((5, 3), (4, 3))


def products_of_pairs() -> Case:
    pairs = Ragged.from_lists([[0, 2], [], [1, 1, 3], [2]])
    return lambda x, y: _PairsInBlocks.apply(pairs, 3, x, y), drawn((4, 3), (5, 3))


def sparse_products_of_pairs() -> Case:
    pairs = Ragged.from_lists([[0, 2], [], [3, 1, 1], [2]])
    return lambda x, y: pair_products(x, y, pairs), drawn((4, 3), (5, 3))


def whitening() -> Case:
    return lambda x: _InverseRoot.apply((x @ x.mT + torch.eye(3).double())[None]), drawn((3, 3))


def learned_weight() -> Case:
    weight, ids = Learned(dim=3, inner_dim=2).double(), torch.arange(5)
    return lambda a, b: weight.log_w(Pairs(ids, ids, a, b)), drawn((5, 3), (5, 3))


def uniformity() -> Case:
    return Uniformity(), drawn((5, 3), (5, 3))


def softmax() -> Case:
    targets = torch.tensor([1, 3, 2])
    return lambda hidden, table: FullSoftmax()(hidden, targets, table), drawn((3, 2), (5, 2))


def scores_of_pairs() -> Case:
    rows, columns = torch.tensor([0, 2]), torch.tensor([[1, 3], [0, 1]])
    return lambda table: pair_scores(table, rows, columns), drawn((4, 3))


def scores_of_own_negatives() -> Case:
    columns = torch.tensor([[1, 3], [0, 1], [2, 2]])
    return lambda hidden, table: own_scores(hidden, table, columns, 2), drawn((3, 2), (4, 2))


def sparse_product() -> Case:
    adj = Csr.from_dense(torch.tensor([[1.0, 0, 2], [0, 3, 0]]).double())
    return lambda x, weights: spmm(adj.with_weights(weights), x), drawn((3, 2), (3,))


def product_with_a_symmetric_matrix() -> Case:
    adj = Csr.from_dense(torch.tensor([[0, 2.0], [2.0, 1.0]]).double())
    return lambda x: symmetric_product(adj, x), drawn((2, 3))


def squared_norms() -> Case:
    places = (torch.tensor([0, 2, 2]), torch.tensor([[1, 2]]), torch.zeros(0, dtype=torch.int64))
    return lambda table: half_squared_norms(table, places), drawn((4, 3))


REFUSE = {
    "contrast/blockwise.py:_OnePass": term,
    "contrast/blockwise.py:_OnePass, a softmax loss": softmax,
    "contrast/blockwise.py:_LogSums": sum_over_candidates,
    "sparse/spmm.py:_PairsInBlocks": products_of_pairs,
    "contrast/regularisers.py:_Potential": uniformity,
    "contrast/weights.py:_TanhSums": learned_weight,
    "contrast/parts.py:_InverseRoot": whitening,
    "encoders/attention.py:_Attention": attention_of_the_last,
    "losses/scores.py:_OwnScores": scores_of_own_negatives,
    "losses/scores.py:_PairScores": scores_of_pairs,
}
# of several processes, or with sparse gradients, which gradcheck cannot take: their backward asks before all else
ASK_FIRST = {
    "ranks.py:_Gathered": _Gathered,
}
TWICE = {
    "encoders/graph.py:_SymmetricProduct": product_with_a_symmetric_matrix,
    "models/collaborative/base.py:_HalfWeightedNorms": squared_norms,
    "sparse/spmm.py:_Product": sparse_product,
    "sparse/spmm.py:_PairsAtEntries": sparse_products_of_pairs,
}


@pytest.mark.parametrize("name", REFUSE)
def test_refuses_to_be_differentiated_twice(name: str) -> None:
    function, inputs = REFUSE[name]()
    assert torch.autograd.gradcheck(function, inputs)
    for asked in inputs:
        with pytest.raises(RuntimeError, match=r"can be differentiated once; create_graph=True is not supported"):
            # the gradient that comes in is a constant here, and what once_differentiable looks at
            torch.autograd.grad(function(*inputs).sum(), asked, create_graph=True)


@pytest.mark.parametrize("name", ASK_FIRST)
def test_asks_before_all_else(name: str) -> None:
    with torch.enable_grad(), pytest.raises(RuntimeError, match=r"can be differentiated once"):
        ASK_FIRST[name].backward(None, torch.ones(1))


@pytest.mark.parametrize("name", TWICE)
def test_can_be_differentiated_twice(name: str) -> None:
    function, inputs = TWICE[name]()
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(lambda *given: function(*given).pow(2), inputs)


def test_no_function_is_left_out() -> None:
    package = Path(recgraph.__file__).parent
    found = {
        f"{path.relative_to(package).as_posix()}:{node.name}"
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Function") for base in node.bases)
    }
    assert found == {name.partition(",")[0] for name in (*REFUSE, *ASK_FIRST, *TWICE)}
