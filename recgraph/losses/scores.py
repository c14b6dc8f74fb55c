"""Scores of hidden states or rows against rows of a table; rows of length 1.

The vectors of many columns, T x K x D numbers, are never in memory: scores are sampled from a
product of matrices, or made in blocks of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from recgraph.sparse.blocks import refuse_second_derivative, row_blocks, unit_length, work_type
from recgraph.sparse.device import full_precision, is_accelerated
from recgraph.sparse.ragged import Ragged
from recgraph.sparse.rows import distinct_rows, is_sparse, lookup, touched
from recgraph.sparse.spmm import pair_products

# for so few vectors a row, passes one by one are several times as fast as a batched product of tiny
# matrices
_FEW = 4
#: from so many columns on, sampled scores are faster than a batched product of vectors that were
#: looked up
MANY = 16


def pair_scores(table: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``s_bk = table[rows_b] . table[columns_bk]``, in a quarter of the time of lookups under
    autograd on CPU.

    With few columns the gradient by the table is made in one scatter; it can be taken once. With
    many see :func:`own_scores`.

    Args:
        table: [N, D].
        rows, columns: [B] and [B, K] int64, of scores [B, K].
    """
    if columns.shape[1] >= MANY and not is_accelerated(table):
        return own_scores(lookup(table, rows), table, columns)
    scores: Tensor = _PairScores.apply(table, rows, columns)  # type: ignore[no-untyped-call]
    return scores


class _PairScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        places = torch.cat([rows[:, None], columns], 1)
        vectors = table.index_select(0, places.view(-1)).view(*places.shape, -1)
        ctx.save_for_backward(vectors, places)
        ctx.n_rows = table.shape[0]
        # products under autocast would be rounded to half precision
        with full_precision(table):
            return torch.bmm(vectors[:, 1:], vectors[:, 0, :, None]).squeeze(2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        refuse_second_derivative("scores of pairs")
        vectors, places = ctx.saved_tensors
        grads = torch.empty_like(vectors)
        _weighted_sum(grad, vectors[:, 1:], grads[:, 0])
        torch.mul(grad[:, :, None], vectors[:, :1], out=grads[:, 1:])
        index, values = places.view(-1), grads.flatten(0, 1)
        total = vectors.new_zeros(ctx.n_rows, vectors.shape[2])
        return total.index_add_(0, index, values), None, None


def _weighted_sum(weights: Tensor, vectors: Tensor, out: Tensor) -> None:
    """``out_b = sum_k weights_bk vectors_bk``; [B, K], [B, K, D] and [B, D]."""
    if not 0 < weights.shape[1] <= _FEW:
        out.copy_(torch.bmm(weights[:, None], vectors).squeeze(1))
        return
    torch.mul(weights[:, :1], vectors[:, 0], out=out)
    for k in range(1, weights.shape[1]):
        out.addcmul_(weights[:, k, None], vectors[:, k])


def own_scores(
    hidden: Tensor, table: Tensor, columns: Tensor, block_rows: int | None = None
) -> Tensor:
    """``s_tk = hidden_t . table[columns_tk]``, without the T x K x D vectors in memory.

    On the host they are those of :func:`recgraph.sparse.spmm.pair_products`. On an accelerator
    blocks of rows look their vectors up, in backward once more, and the gradient can be taken once.
    Computed in the wider type of the two, at least float32.

    Args:
        hidden, table: [T, D] and [N, D].
        columns: [T, K] int64, of scores [T, K].
        block_rows: rows whose vectors are in memory at once, where they are looked up; None: the
            device decides.
    """
    table, columns = touched(table, columns)
    if block_rows is None and not is_accelerated(table):
        n_rows, n_columns = columns.shape
        pairs = Ragged(columns.flatten(), n_columns * torch.arange(n_rows + 1))
        return pair_products(hidden, table, pairs).view(n_rows, n_columns)
    scores: Tensor = _OwnScores.apply(hidden, table, columns, block_rows)  # type: ignore[no-untyped-call]
    return scores


class _OwnScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, table: Tensor, columns: Tensor, block_rows: int | None
    ) -> Tensor:
        ctx.save_for_backward(hidden, table, columns)
        ctx.block_rows = block_rows
        x = hidden.to(work_type(hidden, table))
        scores = x.new_empty(columns.shape)
        for rows, vectors in _own_vectors(x, table, columns, block_rows):
            torch.sum(vectors.mul_(x[rows, None]), 2, out=scores[rows])
        return scores

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("scores of negatives")
        hidden, table, columns = ctx.saved_tensors
        x = hidden.to(work_type(hidden, table))
        by_hidden = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        by_table = x.new_zeros(len(table), x.shape[1]) if ctx.needs_input_grad[1] else None
        for rows, vectors in _own_vectors(x, table, columns, ctx.block_rows):
            weights = grad[rows, :, None]
            if by_hidden is not None:
                torch.sum(vectors.mul_(weights), 1, out=by_hidden[rows])
            if by_table is not None:
                torch.mul(weights, x[rows, None], out=vectors)
                by_table.index_add_(0, columns[rows].flatten(), vectors.flatten(0, 1))
        # torch brings each to the type of its input
        return by_hidden, by_table, None, None


def _own_vectors(
    x: Tensor, table: Tensor, columns: Tensor, block_rows: int | None
) -> Iterator[tuple[slice, Tensor]]:
    """The rows of each block with the vectors [n, K, D] of their columns, in the type of x."""
    n_columns, width = columns.shape[1], x.shape[1]
    for rows in row_blocks(len(x), n_columns * width, x, block_rows):
        vectors = table.index_select(0, columns[rows].flatten()).to(x.dtype)
        yield rows, vectors.view(-1, n_columns, width)


def unit_rows(table: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of an index, brought to length 1, and the index into them.

    Args:
        table: [N, D].
        index: int64 of any shape.

    Returns:
        [U, D], the distinct ones, with the gradient that the table takes, and a tensor of the
        index's shape. They are all rows of the table on an accelerator, which would have to tell
        how many are distinct, and where the index has as many entries.
    """
    takes_all = is_accelerated(table) or len(table) <= index.numel()
    if takes_all and not is_sparse(table):
        return unit_length(table), index
    rows, places = distinct_rows(index, len(table))
    return unit_length(lookup(table, rows)), places
