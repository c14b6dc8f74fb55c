"""PathSim and the most similar nodes by it, without holding all counts; and what a meta-path costs beforehand."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.route import PathError, Route, is_palindrome
from recgraph.rng import derive
from recgraph.sparse.blocks import row_blocks, unit_length
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import power
from recgraph.sparse.products import Counts, compose, compose_blocks, count_dtype, stack_rows
from recgraph.sparse.select import split_hubs, top_k_mask
from recgraph.sparse.spmm import spmm

# Rows whose entries are counted exactly for an estimate, and the most entries that they may have in all.
_SAMPLE = 128
_MAX_SAMPLED = 1 << 23
_INDEX_BYTES = 8
_MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """What a meta-path costs, known before it is made.

    Attributes:
        path: as it was written.
        shape: (rows, columns).
        nnz: entries of the composed matrix, estimated from a sample of rows; exact where that is all rows.
        kept_nnz: entries after the top-k per row, or ``nnz``.
        nbytes: the kept matrix with its transpose.
        factor_nbytes: the factorised form, transposes included.
    """

    path: str
    shape: tuple[int, int]
    nnz: int
    kept_nnz: int
    nbytes: int
    factor_nbytes: int

    @property
    def density(self) -> float:
        """Estimated entries per place before any top-k."""
        return self.nnz / max(self.shape[0] * self.shape[1], 1)

    def __str__(self) -> str:
        kept = f", {self.kept_nnz:,} after top-k" if self.kept_nnz != self.nnz else ""
        return (
            f"{self.path}: {self.shape[0]:,} x {self.shape[1]:,}, about {self.nnz:,} entries{kept}, "
            f"{self.nbytes / _MIB:,.1f} MiB; factorised {self.factor_nbytes / _MIB:,.1f} MiB"
        )


def steps_of(route: Route, graph: HeteroGraph, weights: bool, counts: Counts = "full") -> list[Csr]:
    """The matrix of each step, see :meth:`recgraph.graph.route.Step.followed`.

    Raises:
        PathError: full counts would sum negative weights: sums of which normalisation takes no root, and of which
            PathSim is no similarity.
    """
    matrices = [step.followed(graph, weights) for step in route]
    for step, matrix in zip(route, matrices, strict=True):
        if counts == "full" and matrix.weights is not None and bool((matrix.weights < 0).any()):
            raise PathError(
                f"edges {'-'.join(step.edge_type)} have negative weights, which counts = 'full' cannot take; use "
                "counts='binary' or weights=False"
            )
    return matrices


def halves(route: Route, steps: Sequence[Csr], counts: Counts) -> list[Csr]:
    """One or two matrices whose product is the path; one entry a place. The second may be the first's transpose."""
    if len(steps) == 1:
        return [_whole(steps, counts)]
    middle = len(steps) // 2
    left = _whole(steps[:middle], counts)
    return [left, left.t() if is_palindrome(route) else _whole(steps[middle:], counts)]


def _whole(steps: Sequence[Csr], counts: Counts) -> Csr:
    product = steps[0].pattern() if counts == "binary" else steps[0].coalesce()
    for step in steps[1:]:
        product = compose(product, step, counts)
    return product


def path_counts(steps: Sequence[Csr]) -> Tensor:
    """[R] float64: the paths that begin at each node, each of repeated edges counted."""
    counts = torch.ones(steps[-1].shape[1], dtype=torch.float64, device=steps[0].device)
    for step in reversed(steps):
        counts = step.with_weights(counts[step.indices]).row_sums()
    return counts


def estimate_nnz(steps: Sequence[Csr]) -> int:
    """Entries of the product of all steps.

    The bound of a row is the number of its paths, or of the columns that can be reached where that is less. The
    estimate scales the sum of bounds by the ratio that rows at regular distances show.
    """
    reachable = int((steps[-1].t().degrees > 0).sum())
    bounds = path_counts(steps).clamp(max=reachable)
    total = float(bounds.sum())
    n_rows = bounds.numel()
    if not total:
        return 0
    n = max(min(_SAMPLE, int(_MAX_SAMPLED * n_rows / total), n_rows), min(8, n_rows))
    rows = (torch.arange(n, device=bounds.device) * n_rows) // n
    found = steps[0].take_rows(rows).with_weights(None)
    if len(steps) == 1:
        found = found.pattern()
    for step in steps[1:]:
        found = compose(found, step, "binary")
    sampled = float(bounds[rows].sum())
    return round(total * found.nnz / sampled) if sampled else int(total)


def estimate_cost(path: str, route: Route, steps: Sequence[Csr], counts: Counts, top_k: int | None) -> Cost:
    """The cost of a path; nothing larger than a sample of its rows is made."""
    shape = (steps[0].shape[0], steps[-1].shape[1])
    nnz = estimate_nnz(steps)
    kept = nnz if top_k is None else min(nnz, shape[0] * top_k)
    per_entry = _INDEX_BYTES + (0 if counts == "binary" else count_dtype(*steps).itemsize)
    distinct = {step.edge_type: matrix for step, matrix in zip(route, steps, strict=True)}.values()
    return Cost(path, shape, nnz, kept, 2 * per_entry * kept, 2 * sum(matrix.nbytes for matrix in distinct))


# features with a larger share of entries than this are multiplied with a dense matrix
_DENSE = 1 / 64


def pathsim(counts: Csr) -> Tensor:
    """[E] float64: ``2 A_ij / (A_ii + A_jj)`` of each entry of a square matrix of path counts.

    It is 0 where no path leads from either node back to itself, as along a relation in one direction: PathSim is made
    for paths of which the way back is the way there.

    Source: Sun et al., PathSim: Meta Path-Based Top-K Similarity Search in Heterogeneous Information Networks, VLDB
    2011.
    """
    return ranking(counts).clamp_(min=0)


def ranking(counts: Csr) -> Tensor:
    """[E] float64: what a top-k compares: PathSim; below it, of entries for which it is 0, the counts.

    Such an entry has ``-1 / (1 + A_ij)``.
    """
    diagonal = counts.diagonal().to(torch.float64)
    return _ranking(counts, diagonal, diagonal)


def _ranking(block: Csr, of_rows: Tensor, of_columns: Tensor) -> Tensor:
    both, counts = of_rows[block.rows].add_(of_columns[block.indices]), block.values(torch.float64)
    has_way_back = both > 0
    return torch.where(has_way_back, 2 * counts / both.masked_fill_(~has_way_back, 1), -1 / (1 + counts))


def pathsim_top_k(
    parts: Sequence[Csr],
    counts: Counts,
    k: int,
    features: Tensor | Csr | None = None,
    order: Tensor | None = None,
    hub_cap: int | None = None,
) -> Csr:
    """Each row's k most similar columns (:func:`ranking`), with their counts; ties by
    :data:`recgraph.sparse.select.TIE_RULE`.

    Costs the square of each middle node's entries, or with ``hub_cap`` at most that many pairs for each entry of the
    first matrix: hubs are divided as :func:`recgraph.sparse.select.split_hubs` says, always in the same way. Counts and
    similarities are then those of the paths that are left; the diagonal, the paths from a node back to it, keeps its
    values.

    Args:
        parts: one or two matrices whose product, [N, N], holds the counts.
        k: at least 1.
        features: [N, F]; ties are broken by their cosine first.
        order: [N], different numbers; then by these, the highest first.
        hub_cap: at least 1; None divides no hub.

    Returns:
        [N, N]; weights are counts, or none where counts are binary.

    Warns:
        UserWarning: hubs are divided.
    """
    ties: list[_Cosine | _Order] = [] if features is None else [_Cosine(features)]
    if order is not None:
        ties.append(_Order(order.to(parts[0].device, torch.float64)))
    if len(parts) == 1:
        keys = [tie(parts[0], 0, k) for tie in ties]
        return parts[0].select(top_k_mask(parts[0], k, ranking(parts[0]), *keys))
    left, right = parts
    if hub_cap is not None:
        if n_hubs := int((right.degrees > hub_cap).sum()):
            warnings.warn(
                f"PathSim divides {n_hubs:,} nodes that lead to more than hub_cap = {hub_cap:,}", stacklevel=3
            )
        left, right = divide_hubs(left, right, hub_cap)
    diagonal = _diagonal(left, right, counts)
    kept = []
    for rows, block in compose_blocks(left, right, counts):
        scores = _ranking(block, diagonal[rows], diagonal)
        kept.append(block.select(top_k_mask(block, k, scores, *(tie(block, rows.start, k) for tie in ties))))
    return stack_rows(kept, right.shape[1], left)


def divide_hubs(left: Csr, right: Csr, hub_cap: int) -> tuple[Csr, Csr]:
    """:func:`recgraph.sparse.select.split_hubs`, always in the same way."""
    return split_hubs(left, right, hub_cap, torch.Generator().manual_seed(derive(0, "hubs")))


@dataclass(frozen=True)
class _Order:
    """[E]: the number [N] of the column of each entry."""

    numbers: Tensor

    def __call__(self, block: Csr, first_row: int, k: int) -> Tensor:
        return self.numbers[block.indices]


class _Cosine:
    """[E] float32: cosines of the features of the two ends of entries; 0 for a node without features.

    Made in float64: cosines that are equal stay equal after rounding, in whichever order a processor adds.
    """

    def __init__(self, features: Tensor | Csr) -> None:
        self.units: Tensor | Csr
        self.columns: Tensor | Csr  # [F, N]
        if isinstance(features, Csr):
            features = features.coalesce()
            exact = features.with_weights(features.values(torch.float64))
            lengths = exact.with_weights(exact.values().square()).row_sums().sqrt()
            self.units = exact.scale(left=power(lengths, -1))
            self.columns = self.units.t()
            if features.nnz > _DENSE * features.shape[0] * features.shape[1]:
                self.columns = self.columns.to_dense()
        else:
            self.units = unit_length(features.to(torch.float64))
            self.columns = self.units.t()

    def __call__(self, block: Csr, first_row: int, k: int) -> Tensor:
        """Of the entries of rows ``first_row ...`` of a square matrix; 0 in rows of at most k, which are kept whole."""
        is_long = block.degrees > k
        rows = torch.nonzero(is_long).squeeze(1)
        found = torch.zeros(block.nnz, device=block.device)
        found[is_long[block.rows]] = self._of(block.with_weights(None).take_rows(rows), rows + first_row)
        return found

    def _of(self, entries: Csr, nodes: Tensor) -> Tensor:
        """[E]: between each row's node and the columns of its entries."""
        columns = self.columns
        parts = [torch.empty(0, device=entries.device)]
        own = self.units.take_rows(nodes) if isinstance(self.units, Csr) else self.units[nodes]
        if isinstance(own, Csr) and isinstance(columns, Csr):
            for rows, block in compose_blocks(own, columns):
                parts.append(_look_up(block, entries.row_block(rows)).to(torch.float32))
            return torch.cat(parts)
        assert isinstance(columns, Tensor)
        for rows in row_blocks(nodes.numel(), columns.shape[1], columns):
            some = entries.row_block(rows)
            products = spmm(own.row_block(rows), columns) if isinstance(own, Csr) else own[rows] @ columns
            parts.append(products[some.rows, some.indices].to(torch.float32))
        return torch.cat(parts)


def _look_up(matrix: Csr, places: Csr) -> Tensor:
    """[E] of ``places``: the matrix's values there, 0 where it has no entry; one entry a place."""
    if not matrix.nnz:
        return matrix.values().new_zeros(places.nnz)
    entries = matrix.entries_at(places.rows, places.indices)
    return matrix.values()[entries].masked_fill_(entries < 0, 0)


def _diagonal(left: Csr, right: Csr, counts: Counts) -> Tensor:
    """[N] float64: the diagonal of the product."""
    if right is left.t():
        squares = left.values(torch.float64).square()
        sums = left.with_weights(squares).row_sums()
        return sums if counts == "full" else (sums > 0).to(torch.float64)
    found = torch.zeros(left.shape[0], dtype=torch.float64, device=left.device)
    for rows, block in compose_blocks(left, right, counts):
        own = block.indices == block.rows + rows.start
        found[block.rows[own] + rows.start] = block.values(torch.float64)[own]
    return found
