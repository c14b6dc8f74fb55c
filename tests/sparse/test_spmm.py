"""The contract of sparse times dense: every backend gives the same values and gradients."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from recgraph.sparse.csr import Csr, random_matrix
from recgraph.sparse.spmm import BACKENDS, Backend, spmm

# (shape, entries): rectangular, empty rows and columns, several entries at one place, none at all
SHAPES = {"wide": ((30, 60), 90), "tall": ((60, 20), 200), "dense": ((7, 5), 300), "empty": ((4, 3), 0)}
RTOL = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "dgl":
        request.getfixturevalue("dgl")
    name: Backend = request.param
    return name


@pytest.fixture(params=sorted(SHAPES))
def adj(request: pytest.FixtureRequest, device: torch.device) -> Csr:
    (n_rows, n_cols), n = SHAPES[request.param]
    matrix = random_matrix(n_rows, n_cols, n, torch.Generator().manual_seed(0), weighted=True)
    return matrix.to(device, torch.float64)


def _inputs(adj: Csr, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(adj.shape[1], 8, generator=draw, dtype=torch.float64)
    y = torch.randn(adj.shape[0], 8, generator=draw, dtype=torch.float64)
    return x.to(adj.device, dtype).requires_grad_(), y.to(adj.device, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [True, False])
def test_values_and_gradients_are_those_of_the_dense_product(
    adj: Csr, backend: Backend, dtype: torch.dtype, weighted: bool
) -> None:
    x, y = _inputs(adj, dtype)
    weights = adj.values(dtype).clone().requires_grad_() if weighted else None
    result = spmm(adj.with_weights(weights), x, backend)
    assert result.dtype == dtype
    wanted = (x, weights) if weights is not None else (x,)
    grads = torch.autograd.grad((result * y).sum(), wanted)

    dense = adj.with_weights(weights).to_dense().to(dtype)
    expected = dense @ x
    torch.testing.assert_close(result, expected, rtol=RTOL[dtype], atol=RTOL[dtype])
    for got, ours in zip(grads, torch.autograd.grad((expected * y).sum(), wanted), strict=True):
        torch.testing.assert_close(got, ours, rtol=RTOL[dtype], atol=RTOL[dtype])


def test_mixed_precision_rounds_no_product(adj: Csr, backend: Backend) -> None:
    def run() -> tuple[torch.Tensor, torch.Tensor]:
        x, y = _inputs(adj, torch.float32)
        result = spmm(adj, x, backend)
        return result, torch.autograd.grad((result * y).sum(), x)[0]

    exact = run()
    with torch.autocast(adj.device.type, torch.bfloat16):
        mixed = run()
    for ours, theirs in zip(mixed, exact, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_the_same_bit_for_bit_on_cpu(backend: Backend) -> None:
    adj = random_matrix(200, 300, 5000, torch.Generator().manual_seed(0), weighted=True)

    def run() -> tuple[torch.Tensor, ...]:
        fresh = Csr(adj.indptr, adj.indices, adj.values().clone().requires_grad_(), adj.shape)
        x, y = _inputs(fresh, torch.float32)
        result = spmm(fresh, x, backend)
        return result, *torch.autograd.grad((result * y).sum(), (x, fresh.values()))

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)


def test_derivatives_of_both_orders(backend: Backend) -> None:
    adj = random_matrix(6, 5, 12, torch.Generator().manual_seed(2), weighted=True)
    x = torch.rand(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    weights = adj.values(torch.float64).clone().requires_grad_()

    def product(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return spmm(adj.with_weights(weights), x, backend)

    assert torch.autograd.gradcheck(product, (x, weights))
    assert torch.autograd.gradgradcheck(product, (x, weights))


def test_weights_in_the_type_of_x(device: torch.device) -> None:
    adj = random_matrix(6, 5, 12, torch.Generator().manual_seed(2), weighted=True).to(device, torch.float64)
    x = torch.rand(5, 3, device=device)
    weights = adj.values().clone().requires_grad_()
    result = spmm(adj.with_weights(weights), x)
    assert result.dtype == torch.float32
    result.sum().backward()
    assert weights.grad is not None
    assert weights.grad.dtype == torch.float64
    half = spmm(adj, x.to(torch.bfloat16).requires_grad_())
    half.sum().backward()
    torch.testing.assert_close(half.float(), result, rtol=3e-2, atol=3e-2)


@pytest.mark.usefixtures("dgl")
def test_dgl_is_imported_without_traces() -> None:
    code = (
        "import os, sys, pathlib, tempfile\n"
        "os.environ['HOME'] = home = tempfile.mkdtemp()\n"
        "from recgraph.sparse.spmm import load_dgl as load\n"
        "dgl = load()\n"
        "assert load() is dgl\n"
        "g = dgl.heterograph({('a', 'r', 'b'): ([0, 1], [1, 0])})\n"
        "assert not list(pathlib.Path(home).rglob('*.json')), 'wrote to the home folder'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
