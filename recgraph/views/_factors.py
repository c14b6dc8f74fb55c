"""The two halves of a meta-path, whose product it is, and what that product will cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recgraph.data.hetero import HeteroGraph
from recgraph.sparse.compose import Counts, compose, count_dtype
from recgraph.sparse.csr import Csr
from recgraph.views._route import Route, is_palindrome

__all__ = ["Cost", "estimate_cost", "estimate_nnz", "halves", "path_counts", "steps_of"]

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
        nnz_bound: a number that it cannot exceed.
        kept_nnz: entries after the top-k per row, or ``nnz``.
        nbytes: the kept matrix with its transpose, and the halves that it is made from.
        factor_nnz, factor_nbytes: entries and bytes of the factorised form, transposes included.
    """

    path: str
    shape: tuple[int, int]
    nnz: int
    nnz_bound: int
    kept_nnz: int
    nbytes: int
    factor_nnz: int
    factor_nbytes: int

    @property
    def density(self) -> float:
        """Estimated entries per place before any top-k."""
        return self.nnz / max(self.shape[0] * self.shape[1], 1)

    def __str__(self) -> str:
        kept = f", {self.kept_nnz:,} after top-k" if self.kept_nnz != self.nnz else ""
        return (
            f"{self.path}: {self.shape[0]:,} x {self.shape[1]:,}, about {self.nnz:,} entries "
            f"({100 * self.density:.2g} %){kept}, {self.nbytes / _MIB:,.1f} MiB; "
            f"factorised {self.factor_nnz:,} entries, {self.factor_nbytes / _MIB:,.1f} MiB"
        )


def steps_of(route: Route, graph: HeteroGraph, weights: bool) -> list[Csr]:
    """The matrix of each step; without their weights, or with."""
    matrices = [step.matrix(graph) for step in route]
    return matrices if weights else [matrix.with_weights(None) for matrix in matrices]


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


def estimate_nnz(steps: Sequence[Csr]) -> tuple[int, int]:
    """Entries of the product of all steps: an estimate and a bound.

    The bound of a row is the number of its paths, or of the columns that can be reached where that is less. The
    estimate scales the sum of bounds by the ratio that rows at regular distances show.
    """
    reachable = int((steps[-1].t().degrees > 0).sum())
    bounds = path_counts(steps).clamp(max=reachable)
    total = float(bounds.sum())
    n_rows = bounds.numel()
    if not total:
        return 0, 0
    n = max(min(_SAMPLE, int(_MAX_SAMPLED * n_rows / total), n_rows), min(8, n_rows))
    rows = (torch.arange(n, device=bounds.device) * n_rows) // n
    found = steps[0].take_rows(rows).with_weights(None)
    if len(steps) == 1:
        found = found.pattern()
    for step in steps[1:]:
        found = compose(found, step, "binary")
    sampled = float(bounds[rows].sum())
    if not sampled:
        return int(total), int(total)
    return round(total * found.nnz / sampled), int(total)


def estimate_cost(path: str, route: Route, steps: Sequence[Csr], counts: Counts, top_k: int | None) -> Cost:
    """The cost of a path; nothing larger than a sample of its rows is made."""
    shape = (steps[0].shape[0], steps[-1].shape[1])
    nnz, bound = estimate_nnz(steps)
    kept = nnz if top_k is None else min(nnz, shape[0] * top_k)
    weight = 0 if counts == "binary" else count_dtype(*steps).itemsize
    middle = max(len(steps) // 2, 1)
    parts = [steps[:middle], steps[middle:]] if len(steps) > 1 else [steps]
    half = sum(estimate_nnz(part)[0] for part in (parts[:1] if is_palindrome(route) else parts))
    factor_nnz = sum(step.nnz for step in steps)
    distinct = {step.edge_type: matrix for step, matrix in zip(route, steps, strict=True)}.values()
    per_entry = _INDEX_BYTES + weight
    nbytes = 2 * per_entry * (kept + half) + 2 * _INDEX_BYTES * (shape[0] + 1)
    return Cost(path, shape, nnz, bound, kept, nbytes, factor_nnz, 2 * sum(matrix.nbytes for matrix in distinct))
