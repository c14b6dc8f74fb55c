"""What computations on blocks of rows share: block sizes, the type they compute in, sums of many, the range of ``exp``.

Losses make loss and gradients in one pass, in an autograd function of their own: each block of an N x M matrix of
scores yields both before the next one overwrites it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from recgraph.accelerated import is_accelerated

#: a block stays in a core's cache; an accelerator wants few and large kernels instead
BYTES_HOST = 4 * 2**20
_BYTES_ACCELERATOR = 512 * 2**20
#: fewer rows make matrix products slow, however large their columns make the block
FEWEST_ROWS = 32
# values that are added one by one in their own type: the sum of more would lose digits, and stand still in the end
_SUMMED = 2**16


def row_blocks(n_rows: int, n_columns: int, like: Tensor, block_rows: int | None = None) -> Iterator[slice]:
    """The rows of each block, the largest first.

    Args:
        n_rows: rows in all, N.
        n_columns: columns, M.
        like: a tensor of the type and device of the matrix.
        block_rows: rows of a block; None picks by the size of the cache.
    """
    if block_rows is None:
        budget = _BYTES_ACCELERATOR if is_accelerated(like) else BYTES_HOST
        block_rows = max(budget // (max(n_columns, 1) * like.element_size()), FEWEST_ROWS)
    for start in range(0, n_rows, block_rows):
        yield slice(start, min(start + block_rows, n_rows))


def score_blocks(
    n_rows: int, n_columns: int, like: Tensor, block_rows: int | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """As :func:`row_blocks`, each with the memory [n, n_columns] in which its scores are computed, the same for all.

    Memory of its own for each block would cost as much time as the product that fills it: the system hands out pages
    one by one.
    """
    buffer: Tensor | None = None
    for rows in row_blocks(n_rows, n_columns, like, block_rows):
        if buffer is None:
            buffer = like.new_empty(rows.stop, n_columns)
        yield rows, buffer[: rows.stop - rows.start]


def work_type(*tensors: Tensor) -> torch.dtype:
    """The type in which losses compute: the widest of the tensors', but never below float32."""
    work = torch.float32
    for tensor in tensors:
        work = torch.promote_types(work, tensor.dtype)
    return work


def total_of(sums: Sequence[Tensor], like: Tensor) -> Tensor:
    """The total of the sums of blocks, scalars: of one block its sum; of more their sum in float64; of none 0.

    Float32 loses a digit each time that ten times as many are added.

    Args:
        like: a tensor of the device and the type of a total of none.
    """
    if len(sums) > 1:
        return torch.stack([*sums]).sum(dtype=torch.float64)
    return sums[0] if sums else like.new_zeros(())


def group_sizes(groups: Tensor, n: int) -> Tensor:
    """[n] int64: how many of ``groups`` [N], in [0, n), are each; float32 would stop counting at 2^24."""
    if is_accelerated(groups):  # bincount would wait for the device
        one = groups.new_ones(()).expand(groups.shape)
        return groups.new_zeros(n).index_add_(0, groups, one)
    return torch.bincount(groups, minlength=n)


def group_sums(values: Tensor, groups: Tensor, n: int) -> Tensor:
    """[n, ...]: sums of ``values`` [N, ...] by group, in their type; without gradient.

    Stretches of 65,536 values are added in that type, and their sums in float64, so that no sum stands still.

    Args:
        groups: [N] int64, in [0, n).
    """
    step, shape = max(_SUMMED, 4 * n), (n, *values.shape[1:])
    if len(values) <= step:
        return values.new_zeros(shape).index_add_(0, groups, values)
    total = torch.zeros(shape, dtype=torch.float64, device=values.device)
    for start in range(0, len(values), step):
        part = slice(start, start + step)
        total += values.new_zeros(shape).index_add_(0, groups[part], values[part])
    return total.to(values.dtype)


def even_bounds(n_rows: int, n_groups: int, own: slice = slice(None)) -> list[int]:
    """Where consecutive groups of as equal size as can be begin and end: 0, ..., and how many rows there are.

    Args:
        n_rows: of all groups.
        n_groups: G; of more than rows some are empty.
        own: consecutive rows whose bounds are wanted, counted from the first of them.

    Returns:
        G + 1 ascending numbers: group g has the rows from number g to number g + 1.
    """
    start, stop, _ = own.indices(n_rows)
    return [min(max(n_rows * group // n_groups, start), stop) - start for group in range(n_groups + 1)]


def of_groups(values: Tensor, bounds: Sequence[int]) -> Tensor:
    """[n, ...]: of each row the values of its group; [1, ...] of a single group, which broadcasts.

    Args:
        values: [G, ...].
        bounds: as of :func:`even_bounds`.
    """
    if len(values) == 1:
        return values
    sizes = [stop - start for start, stop in pairwise(bounds)]
    return torch.cat([one.expand(size, *one.shape) for one, size in zip(values, sizes, strict=True)])


def exponent_limit(dtype: torch.dtype) -> float:
    """``exp`` of anything between minus and plus this is far from overflow and from subnormal numbers.

    A quarter of the exponents is left for the sum over the columns and the products with gradients. Subnormal
    numbers would make matrix products slower by an order of magnitude.
    """
    return 0.75 * math.log(torch.finfo(dtype).max)


def refuse_second_derivative(what: str) -> None:
    """To be called in backward: under ``create_graph`` what was made in forward would pass for constants.

    torch's ``once_differentiable`` does not notice where the incoming gradient is a constant, as it is of every loss:
    the second derivative then lacks a term.

    Raises:
        RuntimeError: backward runs with ``create_graph=True``.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(f"{what} can be differentiated once; create_graph=True is not supported")
