"""Inner products of chosen pairs of rows, in blocks where the pairs are a good part of all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recgraph.accelerated import is_accelerated
from recgraph.blocks import refuse_second_derivative, score_blocks
from recgraph.sparse import pair_products as sparse
from recgraph.sparse.ragged import Ragged

__all__ = ["pair_products"]

# a pair alone costs as much as this many cells of a product of matrices: with gradients, 1,000 pairs of 64 numbers
# for each of 4,057 rows took 0.37 s of a core alone and 0.14 s in blocks, 50 pairs 0.007 s and 0.081 s
_CELLS = 10
_FEW = 1 << 16


def pair_products(x: Tensor, y: Tensor, pairs: Ragged, block_rows: int | None = None) -> Tensor:
    """[P]: ``x_i . y_j`` for each row i and each j of its list, in the order of the lists.

    Of many, all products of a block of rows are made, and again for their gradients; the result can be differentiated
    once then. Else see :func:`recgraph.sparse.pair_products.pair_products`.

    Args:
        x: [N, D] floating point.
        y: [M, D] of its type.
        pairs: N lists, P rows of y in all.
        block_rows: rows of x in memory at once; None picks by the size of the cache.
    """
    n = len(pairs.values)
    if is_accelerated(x) or n < _FEW or _CELLS * n < len(x) * len(y):
        return sparse.pair_products(x, y, pairs)
    return _PairProducts.apply(pairs, block_rows, x, y)  # type: ignore[no-untyped-call, no-any-return]


class _PairProducts(torch.autograd.Function):
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
