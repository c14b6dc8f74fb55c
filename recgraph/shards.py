"""Tables whose rows are shared out over the ranks, each of which holds and steps its own.

A sharded table is a parameter whose value is a ``DTensor``, ``Shard(0)`` on a mesh of all ranks: each holds consecutive
rows. What reads it calls :func:`touched` (or :func:`recgraph.rows.lookup`), on all ranks at once: each asks the owners
for the distinct rows of its index, and its gradient goes back to them in the same way, so that an owner has the mean
over ranks of the gradients of its rows, row-sparse, and nobody has any other's. Whatever else reads the parameter fails
loudly, as torch does not mix such tensors with others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recgraph.blocks import refuse_second_derivative

__all__ = [
    "Rows",
    "gathered_tables",
    "is_sharded",
    "local_rows",
    "own_rows",
    "shard",
    "touched",
    "unshard",
    "whole_table",
]

_MARK = "_own_rows"


class Rows(NamedTuple):
    """The rows that a rank holds: ``first`` and those after it, up to ``last`` alone."""

    first: int
    last: int


def own_rows(table: Tensor) -> Rows | None:
    """The rows of a sharded table that this rank holds; None of all other tensors."""
    found: Rows | None = getattr(table, _MARK, None)
    return found


def is_sharded(table: Tensor) -> bool:
    """Whether the rows of the table are shared out over the ranks."""
    return own_rows(table) is not None


def shard(module: nn.Module, name: str) -> nn.Parameter:
    """Share out the rows of a parameter, on all ranks at once; rank 0's values count.

    Args:
        module: that has it, perhaps in a module of its own.
        name: such as ``"item_embedding.weight"``.

    Returns:
        The sharded parameter, which has taken the other's place.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    holder, own_name = _holder(module, name)
    whole = holder._parameters[own_name]
    assert whole is not None
    mesh = init_device_mesh(whole.device.type, (dist.get_world_size(),))
    shared = nn.Parameter(distribute_tensor(whole.detach(), mesh, [Shard(0)]), requires_grad=whole.requires_grad)
    # as torch.chunk divides them: the last ranks may have fewer, or none
    size = -(-len(whole) // dist.get_world_size())
    first = min(size * dist.get_rank(), len(whole))
    setattr(shared, _MARK, Rows(first, min(first + size, len(whole))))
    holder._parameters[own_name] = shared
    return shared


def local_rows(table: Tensor) -> Tensor:
    """The rows that this rank holds, sharing their memory, without gradient; all of a table that is not sharded."""
    if not is_sharded(table):
        return table.detach()
    rows: Tensor = table.detach().to_local()  # type: ignore[attr-defined]
    return rows


def whole_table(table: Tensor) -> Tensor:
    """All rows, on every rank; to be called on all at once."""
    if not is_sharded(table):
        return table.detach()
    whole: Tensor = table.detach().full_tensor()  # type: ignore[attr-defined]
    return whole


def unshard(module: nn.Module, name: str) -> None:
    """The inverse of :func:`shard`: every rank has all rows."""
    holder, own_name = _holder(module, name)
    table = holder._parameters[own_name]
    assert table is not None
    holder._parameters[own_name] = nn.Parameter(whole_table(table), requires_grad=table.requires_grad)


@contextmanager
def gathered_tables(model: nn.Module) -> Iterator[None]:
    """The block in which every rank holds all rows of the sharded tables, to rank with them; none is trained in it."""
    sharded = {name: one for name, one in model.named_parameters() if is_sharded(one)}
    try:
        for name, table in sharded.items():
            holder, own_name = _holder(model, name)
            holder._parameters[own_name] = nn.Parameter(whole_table(table), requires_grad=False)
        yield
    finally:
        for name, table in sharded.items():
            holder, own_name = _holder(model, name)
            holder._parameters[own_name] = table


def touched(table: Tensor, index: Tensor, padding_idx: int | None = None) -> tuple[Tensor, Tensor]:
    """A table of the rows of an index and the index into it; what was given where the table is not sharded.

    Args:
        table: [N, D].
        index: int64 of any shape.
        padding_idx: a row that gets no gradient.

    Returns:
        [U, D], the distinct rows, with gradient, and a tensor of the index's shape.
    """
    if not is_sharded(table):
        return table, index
    rows, places = torch.unique(index, return_inverse=True)
    part: Tensor = _Fetched.apply(table, rows, padding_idx)  # type: ignore[no-untyped-call]
    return part, places


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
        ctx.asked, ctx.told, ctx.shape = asked.tolist(), told.tolist(), tuple(table.shape)
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
        return torch.sparse_coo_tensor(wanted[None], values, ctx.shape, check_invariants=False), None, None


def _exchanged(rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
    """Rows for each rank, in the order of ranks, against theirs for this one."""
    out = rows.new_empty(sum(received), *rows.shape[1:])
    dist.all_to_all_single(out, rows, received, sent)
    return out


def _holder(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, own_name = name.rpartition(".")
    return module.get_submodule(path), own_name
