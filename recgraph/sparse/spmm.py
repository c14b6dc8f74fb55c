"""Sparse times dense, with gradients to both, by one of three backends; and inner products of
chosen pairs of rows.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from types import ModuleType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph.sparse.blocks import refuse_second_derivative, score_blocks, work_type
from recgraph.sparse.csr import Csr, csr_tensor
from recgraph.sparse.device import full_precision, is_accelerated
from recgraph.sparse.operators import Chain, Sum
from recgraph.sparse.ragged import Ragged

#: ``"auto"`` is torch, the fastest on CPU
Backend = Literal["auto", "torch", "pyg", "dgl"]
#: what :func:`spmm` accepts: a matrix, or a product or sum of matrices that is never made
Operator = Csr | Chain | Sum

# entries at a time where each is a dot product of two gathered rows
_BLOCK = 1 << 15
# from so many pairs on, of which each costs as much as this many cells of a product of matrices,
# blocks are faster
_FEW, _CELLS = 1 << 16, 10


def spmm(adj: Operator, x: Tensor, backend: Backend = "auto") -> Tensor:
    """``A X``, [R, D], of ``adj`` [R, C] and ``x`` [C, D], in the type of ``x``; backends agree to
    rounding.

    Several entries at one place count each; a row without entries gives zeros. Gradients go to
    ``x``, and to ``adj.weights`` where they ask for one. On CPU the result is the same bit for bit
    whenever it is computed again.
    """
    if x.dim() != 2 or x.shape[0] != adj.shape[1]:
        raise ValueError(
            f"x has shape {tuple(x.shape)}; a matrix of shape {adj.shape} needs [{adj.shape[1]}, D]"
        )
    if isinstance(adj, Csr):
        result: Tensor = _Product.apply(backend, x, adj.weights, adj)  # type: ignore[no-untyped-call]
        return result
    if isinstance(adj, Sum):
        parts = []
        for coefficient, term in zip(adj.coefficients, adj.terms, strict=True):
            parts.append(coefficient * spmm(term, x, backend))
        return sum(parts[1:], parts[0])
    x = _scale_rows(x, adj.right)
    for factor in reversed(adj.factors):
        x = spmm(factor, x, backend)
    return _scale_rows(x, adj.left)


def _scale_rows(x: Tensor, scale: Tensor | None) -> Tensor:
    if scale is None:
        return x
    return x * scale.to(x.dtype)[:, None]


class _Product(torch.autograd.Function):
    """The gradient to ``x`` is a product with the transpose, which is held with the matrix: torch's
    own transposes every time, for six times the cost. The one to the weights is made at the entries
    alone: torch's makes R x C cells.
    """

    @staticmethod
    def forward(ctx: Any, backend: Backend, x: Tensor, weights: Tensor | None, adj: Csr) -> Tensor:
        ctx.adj, ctx.backend = adj, backend
        ctx.save_for_backward(weights, x if ctx.needs_input_grad[2] else None)
        if not adj.nnz or not x.shape[1]:
            return x.new_zeros(adj.shape[0], x.shape[1])
        if weights is not None:
            adj = adj.with_weights(weights.detach().to(x.dtype))
        with full_precision(x):  # autocast would round the matrix and x
            return multiply(adj, x, backend)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, Tensor | None, None]:
        weights, x = ctx.saved_tensors
        adj, grad_x, grad_weights = ctx.adj, None, None
        if ctx.needs_input_grad[2]:
            # the saved weights carry their history where a second derivative is wanted
            adj = adj.with_weights(weights)
            grad_weights = _at_entries(adj, grad, x).to(weights.dtype)
        if ctx.needs_input_grad[1]:
            grad_x = spmm(adj.t(), grad, ctx.backend)
        return None, grad_x, grad_weights, None


def multiply(adj: Csr, x: Tensor, backend: Backend) -> Tensor:
    """``A X`` without gradients; the weights have the type of ``x``."""
    if backend == "pyg":
        from torch_geometric.utils import spmm as multiply_by_pyg

        return multiply_by_pyg(csr_tensor(adj, x.dtype), x)  # type: ignore[no-any-return]
    if backend == "dgl":
        dgl = load_dgl()
        # columns send, rows receive; edge e is entry e
        edges = {
            ("column", "to", "row"): ("csc", (adj.indptr, adj.indices, adj.indices.new_empty(0)))
        }
        counts = {"column": adj.shape[1], "row": adj.shape[0]}
        graph = adj.shared("dgl", lambda: dgl.heterograph(edges, num_nodes_dict=counts))
        return dgl.ops.gspmm(graph, "mul", "sum", x, adj.values(x.dtype)[:, None])  # type: ignore[no-any-return]
    if not x.is_cpu:  # cuSPARSE
        return csr_tensor(adj, x.dtype) @ x
    return F.embedding_bag(
        adj.indices,
        x,
        adj.indptr,
        mode="sum",
        include_last_offset=True,
        per_sample_weights=adj.weights,
    )


def load_dgl() -> Any:
    """The package ``dgl``; an ImportError says how to get it.

    DGL 2.1.0, the newest wheel for Linux, needs on import a GraphBolt library built for the very
    torch version and ``torchdata.datapipes``, which no longer exists. An empty module in the place
    of ``dgl.graphbolt`` passes both by; heterographs, message passing with gradients and samplers
    work, ``dgl.sparse`` and GraphBolt do not.
    """
    if "dgl" in sys.modules:
        return sys.modules["dgl"]
    try:
        import packaging.version

        # DGL looks for it inside setuptools, which no longer carries it
        extern = ModuleType("setuptools.extern")
        extern.packaging = packaging  # type: ignore[attr-defined]
        sys.modules.setdefault("setuptools.extern", extern)
        sys.modules.setdefault("setuptools.extern.packaging", packaging)
        sys.modules["dgl.graphbolt"] = ModuleType(
            "dgl.graphbolt", "left out by recgraph: no build for this torch"
        )
        # without a choice DGL asks for one on stderr and writes a file to the user's home
        os.environ.setdefault("DGLBACKEND", "pytorch")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("dgl")
    except Exception as error:  # DGL raises whatever its native parts raise
        for name in [*sys.modules]:
            if name.partition(".")[0] == "dgl":
                del sys.modules[name]
        raise ImportError(
            f"DGL cannot be used here: {type(error).__name__}: {error}. Get it with pip install 'recgraph[dgl]' "
            "(Linux, Python < 3.13)"
        ) from error


def _at_entries(adj: Csr, left: Tensor, right: Tensor) -> Tensor:
    """[E]: ``left[row] . right[column]`` of each entry."""
    # torch's sampled product knows these types, refuses more entries than the matrix has places,
    # and is differentiated once
    is_known = left.dtype in (torch.float32, torch.float64) and not torch.is_grad_enabled()
    if is_known and adj.nnz <= adj.shape[0] * adj.shape[1]:
        places = csr_tensor(adj.with_weights(left.new_zeros(adj.nnz)), left.dtype)
        sampled: Tensor = torch.sparse.sampled_addmm(places, left, right.t(), beta=0.0)
        return sampled.values()
    products = []
    blocks = zip(torch.split(adj.rows, _BLOCK), torch.split(adj.indices, _BLOCK), strict=True)
    for rows, columns in blocks:
        products.append(torch.linalg.vecdot(left[rows], right[columns]))
    return torch.cat(products)


def pair_products(x: Tensor, y: Tensor, pairs: Ragged, block_rows: int | None = None) -> Tensor:
    """[P]: ``x_i . y_j`` for each row i and each j of its list, in the order of the lists.

    On the host the products are sampled from ``x y^T``, and their gradients are sparse products.
    Where the pairs are many and a good part of all, all products of a block of rows are made
    instead; the result can then be differentiated once. On an accelerator, where counting the pairs
    of a column would make the host wait, the rows are looked up. The result has the wider type of x
    [N, D] and y [M, D], at least float32.
    """
    dtype = work_type(x, y)
    x, y = x.to(dtype), y.to(dtype)
    if is_accelerated(x):
        products: Tensor = torch.linalg.vecdot(x[pairs.rows], y[pairs.values])
        return products
    n = len(pairs.values)
    if n >= _FEW and _CELLS * n >= len(x) * len(y):
        return _PairsInBlocks.apply(pairs, block_rows, x, y)  # type: ignore[no-untyped-call, no-any-return]
    adj = Csr(pairs.offsets, pairs.values, None, (len(x), len(y)))
    return _PairsAtEntries.apply(adj, x, y)  # type: ignore[no-untyped-call, no-any-return]


class _PairsAtEntries(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, adj: Csr, x: Tensor, y: Tensor) -> Tensor:
        ctx.adj = adj
        ctx.save_for_backward(x, y)
        with full_precision(x):  # autocast would round the vectors
            return _at_entries(adj, x, y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        x, y = ctx.saved_tensors
        adj = ctx.adj.with_weights(grad)
        by_x = by_y = None
        if ctx.needs_input_grad[1]:
            by_x = spmm(adj, y)
        if ctx.needs_input_grad[2]:
            by_y = spmm(adj.t(), x)
        return None, by_x, by_y


class _PairsInBlocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pairs: Ragged, block_rows: int | None, x: Tensor, y: Tensor) -> Tensor:
        products = x.new_empty(len(pairs.values))
        for rows, t in score_blocks(len(x), len(y), x, block_rows):
            torch.mm(x[rows], y.t(), out=t)
            some, cells = _cells(pairs, rows, len(y))
            products[some] = t.view(-1)[cells]
        ctx.save_for_backward(x, y)
        ctx.settings = pairs, block_rows
        return products

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("products of many pairs")
        x, y = ctx.saved_tensors
        pairs, block_rows = ctx.settings
        by_x = torch.empty_like(x)
        by_y = torch.zeros_like(y)
        for rows, t in score_blocks(len(x), len(y), x, block_rows):
            some, cells = _cells(pairs, rows, len(y))
            t.zero_().view(-1).index_add_(0, cells, grad_output[some])
            torch.mm(t, y, out=by_x[rows])
            by_y.addmm_(t.t(), x[rows])
        return None, None, by_x, by_y


def _cells(pairs: Ragged, rows: slice, n_columns: int) -> tuple[slice, Tensor]:
    """Which pairs are those of a block of rows, and their cells in it."""
    some = slice(int(pairs.offsets[rows.start]), int(pairs.offsets[rows.stop]))
    return some, (pairs.rows[some] - rows.start) * n_columns + pairs.values[some]
