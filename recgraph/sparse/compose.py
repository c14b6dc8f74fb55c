"""Products of sparse matrices, in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from recgraph.sparse.csr import Csr
from recgraph.sparse.ragged import Ragged

__all__ = ["Counts", "compose", "compose_blocks", "count_dtype", "n_pairs", "stack_rows"]

Counts = Literal["full", "binary"]

# Pairs (an entry of a, an entry of b's row) and cells of a block: some tens of megabytes, cells within a core's cache.
_MAX_PAIRS = 1 << 20
_MAX_CELLS = 1 << 19
# Below so many pairs a cell a block is sorted; above, its cells are counted.
_SPARSE = 1 / 16


def n_pairs(a: Csr, b: Csr) -> Tensor:
    """[R] int64: the multiplications that each row of the product costs; no row has more entries than that."""
    per_entry = b.degrees[a.indices]
    before = torch.cat([per_entry.new_zeros(1), torch.cumsum(per_entry, 0)])
    return before[a.indptr[1:]] - before[a.indptr[:-1]]


def compose(a: Csr, b: Csr, counts: Counts = "full", dtype: torch.dtype | None = None) -> Csr:
    """``A B`` with one entry a place.

    Args:
        a: [R, K].
        b: [K, C].
        counts: ``"full"`` sums the products of weights (numbers of paths, where there are no weights);
            ``"binary"`` has an entry without weight where such a path exists (weights are not looked at).
        dtype: of the weights; default: the widest of both. Sums are made in float64.

    Raises:
        ValueError: the inner sizes differ.
    """
    dtype = dtype or count_dtype(a, b)
    return stack_rows([block for _, block in compose_blocks(a, b, counts, dtype)], b.shape[1], a)


def stack_rows(blocks: Sequence[Csr], n_columns: int, like: Csr) -> Csr:
    """Blocks of rows one under the other.

    Args:
        blocks: each [b, n_columns], all with weights or all without; may be none.
        like: a matrix on the device.
    """
    if not blocks:
        return Csr(like.indptr[:1], like.indices[:0], None, (0, n_columns))
    shape = Ragged.from_lengths(blocks[0].indices, torch.cat([block.degrees for block in blocks]))
    indices = torch.cat([block.indices for block in blocks])
    weights = [block.weights for block in blocks if block.weights is not None]
    return Csr(shape.offsets, indices, torch.cat(weights) if weights else None, (shape.n_rows, n_columns))


def count_dtype(*factors: Csr) -> torch.dtype:
    """The type of a product's weights: the widest of the factors', the default type where none has any."""
    dtypes = [factor.weights.dtype for factor in factors if factor.weights is not None]
    result = dtypes[0] if dtypes else torch.get_default_dtype()
    for dtype in dtypes[1:]:
        result = torch.promote_types(result, dtype)
    return result


def compose_blocks(
    a: Csr, b: Csr, counts: Counts = "full", dtype: torch.dtype | None = None
) -> Iterator[tuple[slice, Csr]]:
    """The product of :func:`compose` a block of rows at a time; the whole is never held.

    Yields:
        (rows, block): ``block`` [b, C] is ``(A B)[rows]``.
    """
    if a.shape[1] != b.shape[0]:
        raise ValueError(f"shapes {a.shape} and {b.shape} cannot be multiplied: {a.shape[1]} is not {b.shape[0]}")
    if counts not in ("full", "binary"):
        raise ValueError(f"counts = {counts!r} must be 'full' or 'binary'")
    if counts == "binary":
        a, b = a.with_weights(None), b.with_weights(None)
    dtype = dtype or count_dtype(a, b)
    pairs = n_pairs(a, b)
    before = torch.cat([pairs.new_zeros(1), torch.cumsum(pairs, 0)]).tolist()
    for rows in _blocks(before, b.shape[1]):
        block = _product(a.row_block(rows), b, before[rows.stop] - before[rows.start])
        values = None if counts == "binary" or block.weights is None else block.weights.to(dtype)
        yield rows, block.with_weights(values)


def _blocks(before: list[int], n_columns: int) -> Iterator[slice]:
    """Ranges of rows within the limits; a row that alone exceeds them is a range of its own."""
    first, widest = 0, max(_MAX_CELLS // max(n_columns, 1), 1)
    last = len(before) - 1
    for row in range(1, last + 1):
        if row == last or row - first == widest or before[row + 1] - before[first] > _MAX_PAIRS:
            yield slice(first, row)
            first = row


def _product(a: Csr, b: Csr, n: int) -> Csr:
    """The product of few rows with B; weights float64."""
    lengths = b.degrees[a.indices]
    before = torch.cumsum(lengths, 0) - lengths
    # entry e of a meets the entries of row a.indices[e] of b, which are consecutive
    starts = b.indptr[a.indices] - before
    partners = torch.repeat_interleave(starts, lengths, output_size=n).add_(torch.arange(n, device=b.device))
    cells = torch.repeat_interleave(a.rows * b.shape[1], lengths, output_size=n).add_(b.indices[partners])
    weights = None
    if b.weights is not None:
        weights = b.weights.to(torch.float64)[partners]
    if a.weights is not None:
        other = torch.repeat_interleave(a.weights.to(torch.float64), lengths, output_size=n)
        weights = other if weights is None else weights.mul_(other)
    shape = (a.shape[0], b.shape[1])
    make = _by_sorting if n < _SPARSE * shape[0] * shape[1] else _by_counting
    return make(cells, weights, shape)


def _by_counting(cells: Tensor, weights: Tensor | None, shape: tuple[int, int]) -> Csr:
    n_cells = shape[0] * shape[1]
    totals = torch.bincount(cells, weights, minlength=n_cells).view(shape)
    hit_mask = (totals if weights is None else torch.bincount(cells, minlength=n_cells).view(shape)) > 0
    counts = hit_mask.sum(1)
    keys = torch.nonzero(hit_mask.view(-1)).squeeze(1)
    values = totals.view(-1)[keys].to(torch.float64)
    first_cell = torch.arange(shape[0], device=cells.device) * shape[1]
    rows = Ragged.from_lengths(keys.sub_(torch.repeat_interleave(first_cell, counts, output_size=keys.numel())), counts)
    return Csr(rows.offsets, rows.values, values, shape)


def _by_sorting(cells: Tensor, weights: Tensor | None, shape: tuple[int, int]) -> Csr:
    if weights is None:
        keys, counts = torch.unique(cells, return_counts=True)
        values = counts.to(torch.float64)
    else:
        keys, group = torch.unique(cells, return_inverse=True)
        values = torch.bincount(group, weights, minlength=keys.numel())
    width = max(shape[1], 1)
    rows = Ragged.from_lengths(keys % width, torch.bincount(keys // width, minlength=shape[0]))
    return Csr(rows.offsets, rows.values, values, shape)
