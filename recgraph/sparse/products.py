"""Sparse matrices in blocks of rows: products, co-occurrence of columns, and a ridge regression for
each row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph.sparse.blocks import limited
from recgraph.sparse.csr import Csr
from recgraph.sparse.ragged import Ragged, consecutive, offsets_of

Counts = Literal["full", "binary"]

# below so many pairs (an entry of a, an entry of b's row) a cell these are sorted; above, the cells
# are counted
_SPARSE = 1 / 16
# pairs and cells of a block: some tens of megabytes, cells within a core's cache
_MAX_PAIRS, _MAX_CELLS = 1 << 20, 1 << 19
# pairs of a block that is sorted, which makes no cells: what a cache holds
_MAX_SORTED = 1 << 16
# the most pairs, and the most cells, of a dense block (some 100 MB)
_MAX_COUNT_PAIRS, _MAX_COUNT_CELLS = 1 << 21, 1 << 21
# in rows of fewer columns than so many times k torch's topk takes another algorithm, which keeps
# others among equals
_PARTIAL = 64
# the most cells of gathered vectors, and of matrices, that ridge regressions hold at a time (16 MB
# of float32 each)
_MAX_RIDGE_CELLS = 1 << 22


def n_pairs(a: Csr, b: Csr) -> Tensor:
    """[R] int64: the multiplications that each row of the product costs; no row has more entries
    than that.
    """
    before = offsets_of(b.degrees[a.indices])
    return before[a.indptr[1:]] - before[a.indptr[:-1]]


def compose(a: Csr, b: Csr, counts: Counts = "full", dtype: torch.dtype | None = None) -> Csr:
    """``A B`` [R, C] of ``a`` [R, K] and ``b`` [K, C], with one entry a place: ``"full"`` counts
    sum the products of weights (numbers of paths, where there are none), in float64, and have the
    widest type of both unless it is given; ``"binary"`` ones are entries without weight where such
    a path exists."""
    return stack_rows([block for _, block in compose_blocks(a, b, counts, dtype)], b.shape[1], a)


def stack_rows(blocks: Sequence[Csr], n_columns: int, like: Csr) -> Csr:
    """Blocks of rows [b, n_columns], one under the other; of none an empty matrix on the device of
    ``like``.
    """
    if not blocks:
        return Csr(like.indptr[:1], like.indices[:0], None, (0, n_columns))
    indptr = offsets_of(torch.cat([block.degrees for block in blocks]))
    indices = torch.cat([block.indices for block in blocks])
    weights = None
    if blocks[0].weights is not None:
        weights = torch.cat([block.values() for block in blocks])
    return Csr(indptr, indices, weights, (len(indptr) - 1, n_columns))


def count_dtype(*factors: Csr) -> torch.dtype:
    """The type of a product's weights: the widest of the factors', the default type where none has
    any.
    """
    dtypes = [factor.weights.dtype for factor in factors if factor.weights is not None]
    if not dtypes:
        return torch.get_default_dtype()
    return reduce(torch.promote_types, dtypes)


def compose_blocks(
    a: Csr,
    b: Csr,
    counts: Counts = "full",
    dtype: torch.dtype | None = None,
    *,
    roots: bool = False,
) -> Iterator[tuple[slice, Csr]]:
    """The product of :func:`compose` a block of rows at a time: the rows, and ``(A B)[rows]`` [b,
    C]; with ``roots`` it sums the roots of products of weights.

    Costs the pairs of an entry of A and an entry of B that it leads to, whatever the number of
    columns. A block may have very many rows where these are nearly empty: its entries are bounded,
    not its cells.
    """
    if counts == "binary":
        a, b = a.with_weights(None), b.with_weights(None)
    dtype = dtype or count_dtype(a, b)
    before = offsets_of(n_pairs(a, b)).tolist()
    degrees = b.degrees
    if before[-1] < _SPARSE * a.shape[0] * b.shape[1]:
        blocks = limited(before, _MAX_SORTED, a.shape[0])
    else:
        blocks = limited(before, _MAX_PAIRS, max(_MAX_CELLS // max(b.shape[1], 1), 1))
    for rows in blocks:
        part = a.row_block(rows)
        cells, weights = _pairs(part, b, degrees, before[rows.stop] - before[rows.start], roots)
        block = _summed(cells, weights, (part.shape[0], b.shape[1]))
        if counts == "binary":
            yield rows, block.with_weights(None)
        else:
            yield rows, block.with_weights(block.values(dtype))


def _pairs(a: Csr, b: Csr, degrees: Tensor, n: int, roots: bool) -> tuple[Tensor, Tensor | None]:
    """The n pairs of a product of few rows with B, whose degrees are given: their cells and their
    float64 weights.
    """
    lengths = degrees[a.indices]
    # entry e of a meets the entries of row a.indices[e] of b, which are consecutive
    partners = consecutive(b.indptr[a.indices], lengths, n).values
    cells = torch.repeat_interleave(a.rows * b.shape[1], lengths, output_size=n)
    cells.add_(b.indices[partners])
    weights = None
    if b.weights is not None:
        weights = b.weights[partners].to(torch.float64)
    if a.weights is not None:
        factors = torch.repeat_interleave(a.weights.to(torch.float64), lengths, output_size=n)
        weights = factors if weights is None else weights.mul_(factors)
    if roots and weights is not None:
        weights = weights.sqrt_()
    return cells, weights


def _summed(cells: Tensor, weights: Tensor | None, shape: tuple[int, int]) -> Csr:
    """A block of the product: for each cell that is met its number of pairs, or the sum of their
    weights, float64.
    """
    width = max(shape[1], 1)
    n_cells = shape[0] * shape[1]
    if len(cells) >= _SPARSE * n_cells:
        totals = counts = torch.bincount(cells, weights, minlength=n_cells)
        if weights is not None:
            counts = torch.bincount(cells, minlength=n_cells)
        keys = torch.nonzero(counts > 0).squeeze(1)
        values = totals[keys]
    elif weights is None:
        keys, values = torch.unique(cells, return_counts=True)
    else:
        keys, places = torch.unique(cells, return_inverse=True)
        values = torch.bincount(places, weights, minlength=len(keys))
    rows = torch.div(keys, width, rounding_mode="floor")
    offsets = offsets_of(torch.bincount(rows, minlength=shape[0]))
    return Csr(offsets, keys.sub_(rows.mul_(width)), values.to(torch.float64), shape)


def distinct(rows: Ragged, n_columns: int) -> Ragged:
    """Each row of integers in ``0 ... n_columns - 1`` with every value once, ascending."""
    keys = torch.unique(rows.rows * n_columns + rows.values)
    row_of = torch.div(keys, n_columns, rounding_mode="floor")
    counts = torch.bincount(row_of, minlength=rows.n_rows)
    return Ragged.from_lengths(keys % n_columns, counts)


def presence(rows: Ragged, n_columns: int, row_weights: Tensor | None = None) -> Csr:
    """[R, n_columns]: a row's weight, or 1, in each of its columns; these are distinct and
    ascending.
    """
    return Csr(rows.offsets, rows.values, None, (rows.n_rows, n_columns)).scale(row_weights)


def co_occurrence(rows: Csr, columns: Tensor | None = None) -> Iterator[tuple[int, Tensor]]:
    """The matrix ``C[i, j] = sum of sqrt(w_ri w_rj) over the rows r that hold both i and j``, in
    blocks of its rows, or of those of ``columns``: the first one's place and the block [b,
    n_columns] float64.

    Costs the sum of squared row lengths and the cells of C; memory is bounded by the blocks.
    ``rows`` hold each column once, with weights w of at least 0 in float64, or none, which are 1: a
    row of weights 2 counts as two rows.
    """
    left = rows.t()
    if columns is not None:
        left = left.take_rows(columns)
    before = offsets_of(n_pairs(left, rows)).tolist()
    degrees, n_columns = rows.degrees, rows.shape[1]
    for block in limited(before, _MAX_COUNT_PAIRS, max(_MAX_COUNT_CELLS // n_columns, 1)):
        n_rows = block.stop - block.start
        n = before[block.stop] - before[block.start]
        cells, weights = _pairs(left.row_block(block), rows, degrees, n, roots=True)
        totals = torch.bincount(cells, weights, minlength=n_rows * n_columns)
        yield block.start, totals.to(torch.float64).view(n_rows, n_columns)


def neighbours(
    rows: Csr,
    k: int,
    shrink: float = 0.0,
    *,
    norms: Tensor | None = None,
    with_itself: bool = False,
) -> tuple[Tensor, Tensor]:
    """The k most similar columns of each, by ``C[i, j] / (n_i n_j + shrink)`` with C of these rows
    as in :func:`co_occurrence` and n, ``norms`` [n_columns] float64, by default the roots of the
    rows that hold a column.

    Without weights and shrinkage this is the cosine of two columns. Costs the sum of squared row
    lengths and up to 64 k cells a column.

    Returns:
        index [n_columns, k] int64 and similarity float32, most similar first; where fewer than k
        are above 0: 0 and 0.
    """
    n_columns = rows.shape[1]
    if norms is None:
        norms = torch.bincount(rows.indices, minlength=n_columns).to(torch.float64).sqrt()
    index = torch.zeros(n_columns, k, dtype=torch.int64, device=rows.device)
    similarity = torch.zeros(n_columns, k, dtype=torch.float32, device=rows.device)
    width = min(k, n_columns)
    if n_columns <= _PARTIAL * width:
        for first, block in co_occurrence(rows):
            here = slice(first, first + block.shape[0])
            if not with_itself:
                block.diagonal(first).zero_()
            # a column that no row holds has C = 0: any positive divisor will do
            block /= (norms[here, None] * norms + shrink).clamp_(min=1e-12)
            top, where = block.topk(width)
            index[here, :width] = where * (top > 0)
            similarity[here, :width] = top.to(torch.float32)
        return index, similarity
    for here, counts in compose_blocks(rows.t(), rows, dtype=torch.float64, roots=True):
        columns = counts.rows + here.start
        divisors = norms[columns] * norms[counts.indices] + shrink
        scores = counts.values() / divisors.clamp_(min=1e-12)
        if not with_itself:
            scores.masked_fill_(columns == counts.indices, 0)
        for block_rows, top, where in _top_of_sparse(counts.with_weights(scores), width):
            index[block_rows + here.start, :width] = where * (top > 0)
            similarity[block_rows + here.start, :width] = top.to(torch.float32)
    return index, similarity


def _top_of_sparse(scores: Csr, k: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """What ``topk(k)`` gives of the dense rows, whose weights are at least 0, with the same choice
    among equal ones.

    On the host torch scans a row of 64 k columns or more and keeps the best k so far, which are the
    first k columns to begin with; a 0 further on replaces none of these. So the result is that of a
    shorter row: the first k columns, the entries after them, and zeros up to 64 k columns. Yields
    rows [b], and their values and columns [b, k].
    """
    late = scores.select(scores.indices >= k)
    order = torch.argsort(late.degrees, descending=True, stable=True)
    lengths = late.degrees[order].tolist()
    done = 0
    while done < len(lengths):
        # the longest of those to come
        width = max(k + lengths[done], _PARTIAL * k)
        rows = order[done : done + max(_MAX_COUNT_CELLS // width, 1)]
        done += len(rows)
        cells = late.values().new_zeros(len(rows), width)
        columns = rows.new_zeros(len(rows), width)
        columns[:, :k] = torch.arange(k, device=rows.device)
        begin, rest = scores.take_rows(rows), late.take_rows(rows)
        first = begin.indices < k
        cells[begin.rows[first], begin.indices[first]] = begin.values()[first]
        place = torch.arange(rest.nnz, device=rows.device) - rest.indptr[rest.rows] + k
        cells[rest.rows, place] = rest.values()
        columns[rest.rows, place] = rest.indices
        top, where = cells.topk(k)
        yield rows, top, columns.gather(1, where)


def ridge_rows(rows: Csr, table: Tensor, weight: float, ridge: Tensor) -> Tensor:
    """For each row r with the table's vectors ``y_i, i in r``, by Cholesky, the solution x of

    ``(Y'Y + weight sum_{i in r} w_ri y_i y_i' + ridge_r I) x = sum_{i in r} (1 + weight w_ri)
    y_i``,

    with w the weights of ``rows`` (none: 1), which minimises
    ``sum_{i in r} (1 + weight w_ri) (1 - x y_i)^2 + sum_{i not in r} (x y_i)^2 + ridge_r |x|^2``.

    Costs a [D, D] matrix for each row, in blocks of rows. A block whose equations cannot be
    factored in the table's type, as ridge [R] is small beside the vectors, is solved in float64.
    The solution of an empty row is 0.
    """
    width = table.shape[1]
    gram = table.T @ table
    solution = table.new_zeros(rows.shape[0], width)
    for block, vectors, w in _ridge_blocks(rows, table, width * width):
        try:
            solution[block] = _solved(gram, vectors, w, weight, ridge[block])
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # rounding makes one's equations indefinite
            wide = table.double()
            solved = _solved(wide.T @ wide, vectors.double(), w, weight, ridge[block].double())
            solution[block] = solved.to(table.dtype)
    return solution


def _solved(
    gram: Tensor, vectors: Tensor, w: Tensor | None, weight: float, ridge: Tensor
) -> Tensor:
    """[b, D]: the solutions of rows with vectors [b, L, D], of weights [b, L, 1]."""
    if w is None:
        wanted = (1 + weight) * vectors.sum(1)
    else:
        w = w.to(vectors.dtype)
        wanted = ((1 + weight * w) * vectors).sum(1)
        vectors = vectors * w.sqrt()
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    normal = torch.baddbmm(gram + ridge[:, None, None] * eye, vectors.mT, vectors, alpha=weight)
    return torch.cholesky_solve(wanted[:, :, None], torch.linalg.cholesky(normal))[:, :, 0]


def _ridge_blocks(
    matrix: Csr, table: Tensor, cells_of_row: int
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Rows that are not empty, of similar length, within the limit: their numbers [b], the table's
    vectors of their columns [b, longest, D], zeros behind them, and the weights of these [b,
    longest, 1], if any."""
    rows = Ragged(matrix.indices, matrix.indptr)
    padded = F.pad(table, (0, 0, 0, 1))
    order = torch.argsort(rows.lengths, stable=True)
    order = order[rows.lengths[order] > 0]
    lengths = rows.lengths[order].tolist()
    first = 0
    # of ascending lengths: the next row would be the longest; behind the last one none fits
    for end, longest in enumerate([*lengths[1:], math.inf], 1):
        if (end + 1 - first) * max(longest * table.shape[1], cells_of_row) <= _MAX_RIDGE_CELLS:
            continue
        block = order[first:end]
        w = None
        if matrix.weights is not None:
            w = rows.with_values(matrix.weights).take(block).to_padded()[:, :, None]
        yield block, F.embedding(rows.take(block).to_padded(len(table)), padded), w
        first = end
