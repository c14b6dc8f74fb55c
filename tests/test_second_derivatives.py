"""Every function with a backward of its own is right when it is differentiated twice, or refuses to
be.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import recgraph
from recgraph.contrast.term import ContrastiveTerm
from recgraph.encoders.graph import symmetric_product
from recgraph.models.collaborative.base import half_squared_norms
from recgraph.sparse.csr import Csr
from recgraph.sparse.ragged import Ragged
from recgraph.sparse.spmm import _PairsInBlocks, pair_products, spmm

Case = tuple[Callable[..., Tensor], tuple[Tensor, ...]]


def drawn(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()
        for shape in shapes
    )


def products_of_pairs() -> Case:
    pairs = Ragged.from_lists([[0, 2], [], [1, 1, 3], [2]])
    return lambda x, y: _PairsInBlocks.apply(pairs, 3, x, y), drawn((4, 3), (5, 3))


def sparse_products_of_pairs() -> Case:
    pairs = Ragged.from_lists([[0, 2], [], [3, 1, 1], [2]])
    return lambda x, y: pair_products(x, y, pairs), drawn((4, 3), (5, 3))


def sparse_product() -> Case:
    adj = Csr.from_dense(torch.tensor([[1.0, 0, 2], [0, 3, 0]]).double())
    return lambda x, weights: spmm(adj.with_weights(weights), x), drawn((3, 2), (3,))


def product_with_a_symmetric_matrix() -> Case:
    adj = Csr.from_dense(torch.tensor([[0, 2.0], [2.0, 1.0]]).double())
    return lambda x: symmetric_product(adj, x), drawn((2, 3))


def squared_norms() -> Case:
    places = (torch.tensor([0, 2, 2]), torch.tensor([[1, 2]]), torch.zeros(0, dtype=torch.int64))
    return lambda table: half_squared_norms(table, places), drawn((4, 3))


TWICE = {
    "encoders/graph.py:_SymmetricProduct": product_with_a_symmetric_matrix,
    "models/collaborative/base.py:_HalfWeightedNorms": squared_norms,
    "sparse/spmm.py:_Product": sparse_product,
    "sparse/spmm.py:_PairsAtEntries": sparse_products_of_pairs,
}


@pytest.mark.parametrize(
    "made", [products_of_pairs(), (ContrastiveTerm(temperature=0.5), drawn((5, 3), (5, 3)))]
)
def test_refuses_to_be_differentiated_twice(made: Case) -> None:
    function, inputs = made
    assert torch.autograd.gradcheck(function, inputs)
    for asked in inputs:
        with pytest.raises(
            RuntimeError, match=r"can be differentiated once; create_graph=True is not supported"
        ):
            # the gradient that comes in is a constant here, and what once_differentiable looks at
            torch.autograd.grad(function(*inputs).sum(), asked, create_graph=True)


@pytest.mark.parametrize("name", TWICE)
def test_can_be_differentiated_twice(name: str) -> None:
    function, inputs = TWICE[name]()
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(lambda *given: function(*given).pow(2), inputs)


def test_every_other_function_refuses_before_all_else() -> None:
    package, found = Path(recgraph.__file__).parent, set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any(
                ast.unparse(base).endswith("Function") for base in node.bases
            ):
                (backward,) = (
                    one
                    for one in node.body
                    if isinstance(one, ast.FunctionDef) and one.name == "backward"
                )
                if not ast.unparse(backward.body[0]).startswith("refuse_second_derivative("):
                    found.add(f"{path.relative_to(package).as_posix()}:{node.name}")
    assert found == set(TWICE)
