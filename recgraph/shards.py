"""Tables whose rows are shared out over the ranks, each of which holds and steps its own.

A sharded table is a parameter whose value is a ``DTensor``, ``Shard(0)`` on a mesh of all ranks: each holds consecutive
rows. :func:`recgraph.rows.lookup` and :func:`recgraph.rows.touched` read it, on all ranks at once. Whatever else reads
the parameter fails loudly, as torch does not mix such tensors with others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = [
    "Rows",
    "TablePart",
    "building_own_rows",
    "built_in_parts",
    "has_shards",
    "is_sharded",
    "local_rows",
    "mean_of_rows",
    "new_table",
    "own_rows",
    "own_state",
    "rows_of_rank",
    "rows_on_first",
    "shard",
    "sharded_tables",
    "unshard",
]

_MARK = "_own_rows"
#: numbers that are drawn, or sent, at a time, about; and how many of them torch draws together
_BLOCK, _DRAWN_TOGETHER = 1 << 20, 16
_builds_own_rows = False


class Rows(NamedTuple):
    """The rows that a rank holds: from ``first`` up to, and without, ``last``."""

    first: int
    last: int


class TablePart(NamedTuple):
    """Consecutive rows of a table, and what draws their first values, in place."""

    n_rows: int
    draw: Callable[[Tensor], object]


def own_rows(table: Tensor) -> Rows | None:
    """The rows of a sharded table that this rank holds; None of all other tensors."""
    found: Rows | None = getattr(table, _MARK, None)
    return found


def is_sharded(table: Tensor) -> bool:
    """Whether the rows of the table are shared out over the ranks."""
    return own_rows(table) is not None


def rows_of_rank(n_rows: int, rank: int | None = None) -> Rows:
    """The rows that a rank holds of a table, as ``torch.chunk`` divides them: the last may have fewer, or none.

    Args:
        n_rows: of the table.
        rank: None: this one.
    """
    size = -(-n_rows // dist.get_world_size())
    first = min(size * (dist.get_rank() if rank is None else rank), n_rows)
    return Rows(first, min(first + size, n_rows))


@contextmanager
def building_own_rows() -> Iterator[None]:
    """The block in which :func:`new_table` makes the rows of this rank alone, for :func:`shard` to take."""
    global _builds_own_rows
    before = _builds_own_rows
    _builds_own_rows = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    try:
        yield
    finally:
        _builds_own_rows = before


def new_table(width: int, parts: Sequence[TablePart]) -> nn.Embedding:
    """A table whose rows are drawn from torch's global generator, after the values that ``nn.Embedding`` draws.

    Within :func:`building_own_rows` a rank draws all rows, a block at a time, and keeps its own: these and what is
    drawn afterwards are those of the whole table, bit for bit.

    Args:
        width: D.
        parts: consecutive rows, each part with what gives a tensor [n, D] of its rows their values. It must draw number
            after number, as ``normal_`` and ``uniform_`` do.

    Returns:
        The table; one of own rows has ``num_embeddings`` of the whole and a weight [own rows, D].
    """
    n_rows = sum(part.n_rows for part in parts)
    if not _builds_own_rows:
        table = nn.Embedding(n_rows, width)
        with torch.no_grad():
            _draw(table.weight, Rows(0, n_rows), parts, n_rows)
        return table
    own = rows_of_rank(n_rows)
    weight = torch.empty(own.last - own.first, width)
    for each in ([TablePart(n_rows, nn.init.normal_)], parts):
        _draw(weight, own, each, max(_BLOCK // (_DRAWN_TOGETHER * width), 1) * _DRAWN_TOGETHER)
    table = nn.Embedding(len(weight), width, _weight=weight)
    table.num_embeddings = n_rows
    return table


def _draw(into: Tensor, own: Rows, parts: Sequence[TablePart], block_rows: int) -> None:
    """Draw the rows of all parts and keep the own ones.

    Args:
        block_rows: drawn at a time; a multiple of 16 where it is less than a part has. ``normal_`` draws 16 numbers
            together, and the last 16 again where they are not a multiple.
    """
    start = 0
    for part in parts:
        # a last block of less than 16 numbers would be drawn in another way
        firsts = [0, *range(block_rows, part.n_rows - _DRAWN_TOGETHER + 1, block_rows)]
        for first, last in pairwise([*firsts, part.n_rows]):
            low, high = max(start + first, own.first), min(start + last, own.last)
            is_own = low == start + first and high == start + last
            rows = into[low - own.first : high - own.first] if is_own else into.new_empty(last - first, into.shape[1])
            if len(rows):
                part.draw(rows)
            if low < high and not is_own:
                into[low - own.first : high - own.first] = rows[low - start - first : high - start - first]
        start += part.n_rows


def built_in_parts(model: nn.Module) -> dict[str, int]:
    """Name of a table of which :func:`new_table` made the rows of this rank -> its N; not yet sharded."""
    return {
        f"{path}.weight": module.num_embeddings
        for path, module in model.named_modules()
        if isinstance(module, nn.Embedding) and module.num_embeddings != len(module.weight)
    }


def has_shards(model: object) -> bool:
    """Whether a model has a sharded table."""
    return isinstance(model, nn.Module) and any(map(is_sharded, model.parameters()))


def shard(module: nn.Module, name: str) -> nn.Parameter:
    """Share out the rows of a parameter, on all ranks at once; rank 0's values count.

    Of a table that was :func:`built_in_parts` each rank's rows are its part.

    Args:
        module: that has it, perhaps in a module of its own.
        name: such as ``"item_embedding.weight"``.

    Returns:
        The sharded parameter, which has taken the other's place.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    holder, own_name = _holder(module, name)
    given = holder._parameters[own_name]
    assert given is not None
    n_rows = built_in_parts(module).get(name)
    mesh = init_device_mesh(given.device.type, (dist.get_world_size(),))
    if n_rows is None:
        value = distribute_tensor(given.detach(), mesh, [Shard(0)])
    else:
        size, stride = torch.Size((n_rows, given.shape[1])), (given.shape[1], 1)
        value = DTensor.from_local(given.detach(), mesh, [Shard(0)], run_check=False, shape=size, stride=stride)
    shared = nn.Parameter(value, requires_grad=given.requires_grad)
    setattr(shared, _MARK, rows_of_rank(len(shared)))
    holder._parameters[own_name] = shared
    return shared


def local_rows(table: Tensor) -> Tensor:
    """The rows that this rank holds, sharing their memory, without gradient; all of a table that is not sharded."""
    if not is_sharded(table):
        return table.detach()
    rows: Tensor = table.detach().to_local()  # type: ignore[attr-defined]
    return rows


def rows_on_first(table: Tensor) -> Iterator[Tensor]:
    """All rows of a sharded table in their order, a block at a time, on the host of rank 0.

    All ranks run through it: the others send their rows and get none.
    """
    n_rows, width = table.shape
    own, local, is_first = own_rows(table), local_rows(table), dist.get_rank() == 0
    assert own is not None
    for rank in range(dist.get_world_size()):
        rows = rows_of_rank(n_rows, rank)
        starts = range(rows.first, rows.last, max(_BLOCK // width, 1))
        for first, last in pairwise([*starts, rows.last]):
            if rank == dist.get_rank():
                block = local[first - own.first : last - own.first].to("cpu")
                if is_first:
                    yield block
                else:
                    dist.send(block, 0)
            elif is_first:
                block = torch.empty(last - first, width, dtype=table.dtype)
                dist.recv(block, rank)
                yield block


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


def sharded_tables(model: nn.Module) -> dict[str, nn.Parameter]:
    """The sharded tables of a model, by name."""
    return {name: table for name, table in model.named_parameters() if is_sharded(table)}


def own_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, of sharded tables this rank's rows; memory is shared with the model."""
    return {**model.state_dict(), **{name: local_rows(table) for name, table in sharded_tables(model).items()}}


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
