"""What computations on blocks of rows share: block sizes, the type they compute in, sums of many,
the range of exp.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from recgraph.sparse.device import is_accelerated

#: a block stays in a core's cache; an accelerator wants few and large kernels instead
BYTES_HOST = 4 * 2**20
_BYTES_ACCELERATOR = 512 * 2**20
#: fewer rows make matrix products slow, however large their columns make the block
FEWEST_ROWS = 32
# values that are added one by one in their own type: the sum of more would lose digits, and stand
# still in the end
_SUMMED = 2**16
# F.normalize divides shorter vectors by it
_SHORTEST = 1e-12
#: ``exp`` of anything between minus and plus this is far from overflow and from subnormal numbers,
#: which are slow: a quarter of the exponents is left for the sum over the columns and the products
#: with gradients
EXPONENT_LIMIT = {
    dtype: 0.75 * math.log(torch.finfo(dtype).max) for dtype in (torch.float32, torch.float64)
}


def row_blocks(
    n_rows: int, n_columns: int, like: Tensor, block_rows: int | None = None
) -> Iterator[slice]:
    """The rows of each block of an [n_rows, n_columns] matrix of the type and device of ``like``,
    the largest first; without ``block_rows`` by the size of the cache."""
    if block_rows is None:
        budget = _BYTES_ACCELERATOR if is_accelerated(like) else BYTES_HOST
        block_rows = max(budget // (max(n_columns, 1) * like.element_size()), FEWEST_ROWS)
    for start in range(0, n_rows, block_rows):
        yield slice(start, min(start + block_rows, n_rows))


def score_blocks(
    n_rows: int, n_columns: int, like: Tensor, block_rows: int | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """As :func:`row_blocks`, each with the memory [n, n_columns] in which its scores are computed,
    the same for all: memory of its own for each block would cost as much time as the product that
    fills it."""
    buffer: Tensor | None = None
    for rows in row_blocks(n_rows, n_columns, like, block_rows):
        if buffer is None:
            buffer = like.new_empty(rows.stop, n_columns)
        yield rows, buffer[: rows.stop - rows.start]


def limited(before: Sequence[float], most: float, most_rows: int) -> Iterator[slice]:
    """Ranges of at most so many rows whose sizes sum to ``most`` at most; a row that exceeds it is
    a range of its own.

    ``before`` [R + 1] holds for each row the sum of the sizes of all rows before it.
    """
    first, end = 0, len(before) - 1
    while first < end:
        stop = max(bisect_right(before, before[first] + most) - 1, first + 1)
        stop = min(stop, first + most_rows)
        yield slice(first, stop)
        first = stop


def work_type(*tensors: Tensor) -> torch.dtype:
    """The type in which losses compute: the widest of the tensors', but never below float32."""
    work = torch.float32
    for tensor in tensors:
        work = torch.promote_types(work, tensor.dtype)
    return work


def total_of(sums: Sequence[Tensor], like: Tensor) -> Tensor:
    """The total of the sums of blocks, scalars, in float64 where there are several; of none 0 in
    the type of like.
    """
    if len(sums) > 1:
        return torch.stack([*sums]).sum(dtype=torch.float64)
    if sums:
        return sums[0]
    return like.new_zeros(())


def group_sizes(groups: Tensor, n: int) -> Tensor:
    """[n] int64: how many of ``groups`` [N], in [0, n), are each; ``bincount`` would wait for an
    accelerator.
    """
    return groups.new_zeros(n).index_add_(0, groups, groups.new_ones(()).expand(groups.shape))


def group_sums(values: Tensor, groups: Tensor, n: int) -> Tensor:
    """[n, ...]: sums of ``values`` [N, ...] by ``groups`` [N], in [0, n), in their type; without
    gradient. Stretches of 65,536 values are added in that type, and their sums in float64, so that
    no sum stands still."""
    step, shape = max(_SUMMED, 4 * n), (n, *values.shape[1:])
    if len(values) <= step:
        return values.new_zeros(shape).index_add_(0, groups, values)
    total = torch.zeros(shape, dtype=torch.float64, device=values.device)
    for start in range(0, len(values), step):
        part = slice(start, start + step)
        total += values.new_zeros(shape).index_add_(0, groups[part], values[part])
    return total.to(values.dtype)


def even_bounds(n_rows: int, n_groups: int, rows: slice = slice(None)) -> list[int]:
    """Where consecutive groups of as equal size as can be begin and end: G + 1 ascending numbers
    from 0; within ``rows``, if given, counted from the first of these."""
    start, stop, _ = rows.indices(n_rows)
    bounds = []
    for group in range(n_groups + 1):
        bound = n_rows * group // n_groups
        bounds.append(min(max(bound, start), stop) - start)
    return bounds


def of_groups(values: Tensor, bounds: Sequence[int]) -> Tensor:
    """[n, ...]: of each row the values [G, ...] of its group (:func:`even_bounds`); of one group
    [1, ...].
    """
    if len(values) == 1:
        return values
    rows = []
    for group, (start, stop) in zip(values, pairwise(bounds), strict=True):
        rows.append(group.expand(stop - start, *group.shape))
    return torch.cat(rows)


def unit_length(vectors: Tensor) -> Tensor:
    """Vectors [..., D] over their lengths, as ``F.normalize``; one that is 0 stays 0 and gets no
    gradient: there ``F.normalize`` multiplies it by 1e12, and a narrow state is 0 where dropout
    takes all of its dimensions."""
    lengths: Tensor = vectors.norm(dim=-1, keepdim=True)
    return vectors / lengths.masked_fill(lengths <= _SHORTEST, math.inf)


def refuse_second_derivative(what: str) -> None:
    """To be called in backward: under ``create_graph`` what forward made would pass for constants.
    torch's own ``once_differentiable`` does not notice where the incoming gradient is a constant,
    as it is of every loss."""
    if torch.is_grad_enabled():
        raise RuntimeError(f"{what} can be differentiated once; create_graph=True is not supported")
