"""Inner products of chosen pairs of rows: at the pairs alone, or in blocks where the pairs are a good part of all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recgraph.sparse.backends._autograd import at_entries
from recgraph.sparse.blocks import refuse_second_derivative, score_blocks, work_type
from recgraph.sparse.csr import Csr
from recgraph.sparse.device import full_precision, is_accelerated
from recgraph.sparse.ragged import Ragged
from recgraph.sparse.spmm import spmm

# a pair alone costs as much as this many cells of a product of matrices: with gradients, 1,000 pairs of 64 numbers
# for each of 4,057 rows took 0.37 s of a core alone and 0.14 s in blocks, 50 pairs 0.007 s and 0.081 s
_CELLS = 10
_FEW = 1 << 16


def pair_products(x: Tensor, y: Tensor, pairs: Ragged, block_rows: int | None = None) -> Tensor:
    """[P]: ``x_i . y_j`` for each row i and each j of its list, in the order of the lists.

    On the host no tensor of pairs and widths is made: the products are sampled from ``x y^T``, and their gradients are
    sparse products. Where the pairs are many and a good part of all, all products of a block of rows are made instead,
    and again for their gradients; the result can then be differentiated once. On an accelerator, where counting the
    pairs of a column would make the host wait, the rows are looked up.

    Args:
        x: [N, D] floating point.
        y: [M, D].
        pairs: N lists, P rows of y in all, in any order.
        block_rows: rows of x in memory at once; None picks by the size of the cache.

    Returns:
        In the wider type of the two, at least float32.
    """
    x, y = (one.to(work_type(x, y)) for one in (x, y))
    if is_accelerated(x):
        gathered: Tensor = torch.linalg.vecdot(x[pairs.rows], y[pairs.values])
        return gathered
    n = len(pairs.values)
    if n >= _FEW and _CELLS * n >= len(x) * len(y):
        return _InBlocks.apply(pairs, block_rows, x, y)  # type: ignore[no-untyped-call, no-any-return]
    adj = Csr(pairs.offsets, pairs.values, None, (len(x), len(y)))
    return _AtEntries.apply(adj, x, y)  # type: ignore[no-untyped-call, no-any-return]


class _AtEntries(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, adj: Csr, x: Tensor, y: Tensor) -> Tensor:
        ctx.adj = adj
        ctx.save_for_backward(x, y)
        with full_precision(x):  # autocast would round the vectors
            return at_entries(adj, x, y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        x, y = ctx.saved_tensors
        adj = ctx.adj.with_weights(grad)
        by_x = spmm(adj, y) if ctx.needs_input_grad[1] else None
        by_y = spmm(adj.t(), x) if ctx.needs_input_grad[2] else None
        return None, by_x, by_y


class _InBlocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pairs: Ragged, block_rows: int | None, x: Tensor, y: Tensor) -> Tensor:
        products = x.new_empty(len(pairs.values))
        for rows, t in score_blocks(len(x), len(y), x, block_rows):
            torch.mm(x[rows], y.t(), out=t)
            some, places = _places(pairs, rows, len(y))
            products[some] = t.view(-1)[places]
        ctx.save_for_backward(x, y)
        ctx.settings = pairs, block_rows
        return products

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("products of many pairs")
        x, y = ctx.saved_tensors
        pairs, block_rows = ctx.settings
        of_x, of_y = torch.empty_like(x), torch.zeros_like(y)
        for rows, t in score_blocks(len(x), len(y), x, block_rows):
            some, places = _places(pairs, rows, len(y))
            t.zero_().view(-1).index_add_(0, places, grad_output[some])
            torch.mm(t, y, out=of_x[rows])
            of_y.addmm_(t.t(), x[rows])
        return None, None, of_x, of_y


def _places(pairs: Ragged, rows: slice, n_columns: int) -> tuple[slice, Tensor]:
    """Which pairs are those of a block of rows, and their cells in it."""
    some = slice(int(pairs.offsets[rows.start]), int(pairs.offsets[rows.stop]))
    return some, (pairs.rows[some] - rows.start) * n_columns + pairs.values[some]
