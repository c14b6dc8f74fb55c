"""Tables whose gradients are rows: a step on a large table costs what it touches, not what the table holds.

The gradient of a table, a parameter [N, D] with a row for each item or user, is *row-sparse* where it is a sparse
tensor of the rows that a batch touched, with a value [D] each; a row may be there several times, and the sum counts.
The trainer says so of a parameter with :func:`set_row_sparse`; what reads tables (lookups, losses) asks with
:func:`is_row_sparse`. Every other table, such as one that a propagation made, has a dense gradient, and so has every
reader that does not ask: their sum with rows is dense, and right.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from recgraph.accelerated import is_accelerated
from recgraph.blocks import refuse_second_derivative
from recgraph.shards import is_sharded, local_rows, own_rows

__all__ = [
    "ROWS_OF_LAZY",
    "distinct_rows",
    "is_row_sparse",
    "lookup",
    "read_once",
    "row_gradient",
    "rows_from",
    "set_row_sparse",
    "summed_rows",
    "touched",
]

#: with ``table_optimiser = "auto"``, tables of more rows have row-sparse gradients and are stepped by lazy Adam
ROWS_OF_LAZY = 100_000
_MARK = "_gradient_is_row_sparse"
# marking the rows of an index in a mask of the whole table is the faster way where the table has fewer rows an entry
_ROWS_AN_ENTRY = 2


def set_row_sparse(parameter: nn.Parameter, is_sparse: bool = True) -> None:
    """Say of a table whether readers give it row-sparse gradients."""
    setattr(parameter, _MARK, is_sparse)


def is_row_sparse(table: Tensor) -> bool:
    """Whether the table takes row-sparse gradients: False of all that is computed."""
    return bool(getattr(table, _MARK, False))


def lookup(table: Tensor, index: Tensor, padding_idx: int | None = None) -> Tensor:
    """``table[index]``, [*index.shape, D], with the gradient that the table takes.

    Args:
        table: [N, D].
        index: int64 of any shape.
        padding_idx: a row that gets no gradient.
    """
    if not is_sharded(table):
        return F.embedding(index, table, padding_idx=padding_idx, sparse=is_row_sparse(table))
    part, places = touched(table, index, padding_idx)
    return F.embedding(places, part)


class _RowsFrom(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, first: int) -> Tensor:
        ctx.first, ctx.shape = first, table.shape
        return table.detach()[first:]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        refuse_second_derivative("a table with row-sparse gradients")
        if not gradient.is_sparse:
            return F.pad(gradient, (0, 0, ctx.first, 0)), None
        index, values = gradient._indices()[0] + ctx.first, gradient._values()
        return row_gradient(index, values, ctx.shape[0]), None


def rows_from(table: Tensor, first: int) -> Tensor:
    """``table[first:]`` without a copy; it takes row-sparse gradients where the table does."""
    if not is_row_sparse(table):
        return table[first:]
    part: Tensor = _RowsFrom.apply(table, first)  # type: ignore[no-untyped-call]
    setattr(part, _MARK, True)
    return part


def row_gradient(index: Tensor, values: Tensor, n_rows: int, is_summed: bool = False) -> Tensor:
    """The row-sparse gradient of a table; it shares the memory of the values.

    Args:
        index: [n] int64, the rows, in any order, repeated or not.
        values: [n, D].
        n_rows: N of the table.
        is_summed: whether the rows are distinct and ascending.
    """
    size = (n_rows, values.shape[1])
    return torch.sparse_coo_tensor(index[None], values, size, check_invariants=False, is_coalesced=is_summed)


def distinct_rows(index: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
    """The distinct rows of an index, ascending, and the place of each of its entries among them.

    Args:
        index: int64 in ``0..n_rows - 1``, of any shape.
        n_rows: N of the table.

    Returns:
        [U] and a tensor of the index's shape, with ``rows[places] == index``.
    """
    if index.numel() * _ROWS_AN_ENTRY < n_rows:
        rows, places = torch.unique(index, return_inverse=True)
        return rows, places
    touched_mask = torch.zeros(n_rows, dtype=torch.bool, device=index.device)
    touched_mask[index.flatten()] = True
    rows = touched_mask.nonzero().flatten()
    place_of = torch.empty(n_rows, dtype=torch.int64, device=index.device)
    place_of[rows] = torch.arange(len(rows), device=index.device)
    return rows, place_of[index]


def summed_rows(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct rows [U] of a row-sparse gradient, ascending, and the sum of the values [U, D] of each."""
    if gradient.is_coalesced():
        return gradient.indices()[0], gradient.values()
    index, values = gradient._indices()[0], gradient._values()
    rows, places = distinct_rows(index, gradient.shape[0])
    return rows, values.new_zeros(len(rows), *values.shape[1:]).index_add_(0, places, values)


def touched(table: Tensor, index: Tensor, padding_idx: int | None = None) -> tuple[Tensor, Tensor]:
    """A table of the rows of an index and the index into it; what was given where the table is not sharded.

    To be called on all ranks at once. Each asks the owners for the distinct rows of its index, and its gradient goes
    back to them in the same way, so that an owner has the mean over ranks of the gradients of its rows, row-sparse, and
    nobody has any other's.

    Args:
        table: [N, D].
        index: int64 of any shape.
        padding_idx: a row that gets no gradient.

    Returns:
        [U, D], the distinct rows, with gradient, and a tensor of the index's shape.
    """
    if not is_sharded(table):
        return table, index
    rows, places = distinct_rows(index, len(table))
    part: Tensor = _Fetched.apply(table, rows, padding_idx)  # type: ignore[no-untyped-call]
    return part, places


def read_once(table: Tensor, *indices: Tensor) -> tuple[Tensor, list[Tensor]]:
    """A table of the rows of several indices, and these as indices into it: one lookup, and so one gradient.

    With a lookup for each index, each would make a gradient as large as the table, and autograd would add them.

    Args:
        table: [N, D].
        indices: int64 of any shapes.

    Returns:
        [U, D], the distinct rows, with the gradient that the table takes, and a tensor of each index's shape. On an
        accelerator, which would have to wait for the number of distinct rows, the table itself unless it is sharded.
    """
    index = torch.cat([each.flatten() for each in indices])
    if is_sharded(table) or is_accelerated(table):
        part, places = touched(table, index)
    else:
        rows, places = distinct_rows(index, len(table))
        part = lookup(table, rows)
    of_each = torch.split(places, [each.numel() for each in indices])
    return part, [one.view(each.shape) for one, each in zip(of_each, indices, strict=True)]


class _Fetched(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, padding_idx: int | None) -> Tensor:
        """Rows, ascending, from the ranks that hold them."""
        own = own_rows(table)
        assert own is not None
        n_ranks = dist.get_world_size()
        size = -(-len(table) // n_ranks)
        asked = torch.bincount(rows // size, minlength=n_ranks)
        told = torch.empty_like(asked)
        dist.all_to_all_single(told, asked)
        ctx.padding_idx = padding_idx
        ctx.asked, ctx.told, ctx.n_rows = asked.tolist(), told.tolist(), len(table)
        wanted = _exchanged(rows, ctx.asked, ctx.told)
        ctx.save_for_backward(wanted)
        answers = local_rows(table).index_select(0, wanted - own.first)
        return _exchanged(answers, ctx.told, ctx.asked)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        refuse_second_derivative("rows of a table that ranks share out")
        (wanted,) = ctx.saved_tensors
        # every rank's loss is one of those whose mean is stepped on
        values = _exchanged(gradient.contiguous(), ctx.asked, ctx.told) / dist.get_world_size()
        if ctx.padding_idx is not None:  # it is not touched: weight decay does not reach it either
            kept_mask = wanted != ctx.padding_idx
            wanted, values = wanted[kept_mask], values[kept_mask]
        return row_gradient(wanted, values, ctx.n_rows), None, None


def _exchanged(rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
    """Rows for each rank, in the order of ranks, against theirs for this one."""
    out = rows.new_empty(sum(received), *rows.shape[1:])
    dist.all_to_all_single(out, rows, received, sent)
    return out
