"""Tables whose rows are shared out over the ranks, each of which holds and steps its own.

A sharded table is a parameter whose value is a ``DTensor``, ``Shard(0)`` on a mesh of all ranks: each holds consecutive
rows. :func:`recgraph.rows.lookup` and :func:`recgraph.rows.touched` read it, on all ranks at once. Whatever else reads
the parameter fails loudly, as torch does not mix such tensors with others.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = [
    "Rows",
    "has_shards",
    "is_sharded",
    "local_rows",
    "mean_of_rows",
    "own_rows",
    "shard",
    "unshard",
]

_MARK = "_own_rows"


class Rows(NamedTuple):
    """The rows that a rank holds: from ``first`` up to, and without, ``last``."""

    first: int
    last: int


def own_rows(table: Tensor) -> Rows | None:
    """The rows of a sharded table that this rank holds; None of all other tensors."""
    found: Rows | None = getattr(table, _MARK, None)
    return found


def is_sharded(table: Tensor) -> bool:
    """Whether the rows of the table are shared out over the ranks."""
    return own_rows(table) is not None


def has_shards(model: object) -> bool:
    """Whether a model has a sharded table."""
    return isinstance(model, nn.Module) and any(is_sharded(parameter) for parameter in model.parameters())


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


def _whole_table(table: Tensor) -> Tensor:
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
    holder._parameters[own_name] = nn.Parameter(_whole_table(table), requires_grad=table.requires_grad)


def mean_of_rows(table: Tensor, mask: Tensor) -> Tensor:
    """[D]: the mean of the first rows of a table that a mask [n] bool, n up to N, keeps.

    Of a sharded table all ranks ask for it at once; their sums are added in float64, so that the last bits are not
    those of a table that is whole.
    """
    own = own_rows(table)
    if own is None:
        return table[: len(mask)][mask].mean(0)
    kept_mask = mask[own.first : own.last]
    total = local_rows(table)[: len(kept_mask)][kept_mask].sum(0, dtype=torch.float64)
    dist.all_reduce(total)
    return (total / mask.sum()).to(table.dtype)


def _holder(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, own_name = name.rpartition(".")
    return module.get_submodule(path), own_name
