"""PathSim, and the most similar nodes of each by it, without ever holding all counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph.blocks import row_blocks
from recgraph.sparse.compose import Counts, compose_blocks, stack_rows
from recgraph.sparse.csr import Csr
from recgraph.sparse.top_k import top_k_mask

__all__ = ["pathsim", "pathsim_top_k"]

_SMALLEST = torch.finfo(torch.float64).tiny


def pathsim(counts: Csr) -> Tensor:
    """[E] float64: ``2 A_ij / (A_ii + A_jj)`` of each entry of a square matrix of path counts.

    Source: Sun et al., PathSim: Meta Path-Based Top-K Similarity Search in Heterogeneous Information Networks, VLDB
    2011.
    """
    diagonal = counts.diagonal().to(torch.float64)
    return _similarity(counts, diagonal, diagonal)


def _similarity(block: Csr, of_rows: Tensor, of_columns: Tensor) -> Tensor:
    both = of_rows[block.rows].add_(of_columns[block.indices]).clamp_(min=_SMALLEST)
    return block.values(torch.float64).mul(2).div_(both)


def pathsim_top_k(parts: Sequence[Csr], counts: Counts, k: int, features: Tensor | Csr | None = None) -> Csr:
    """Each row's k most similar columns, with their counts; ties by :data:`recgraph.sparse.top_k.TIE_RULE`.

    Args:
        parts: one or two matrices whose product, [N, N], holds the counts.
        k: at least 1.
        features: [N, F]; ties are broken by their cosine first.

    Returns:
        [N, N]; weights are counts, or none where counts are binary.
    """
    cosine = None if features is None else _Cosine(features)
    if len(parts) == 1:
        second = None if cosine is None else cosine(parts[0], 0)
        return parts[0].select(top_k_mask(parts[0], k, pathsim(parts[0]), second))
    left, right = parts
    diagonal = _diagonal(left, right, counts)
    kept = []
    for rows, block in compose_blocks(left, right, counts):
        scores = _similarity(block, diagonal[rows], diagonal)
        second = None if cosine is None else cosine(block, rows.start)
        kept.append(block.select(top_k_mask(block, k, scores, second)))
    return stack_rows(kept, right.shape[1], left)


class _Cosine:
    """Cosines of the features of the two ends of entries; 0 for a node without features."""

    def __init__(self, features: Tensor | Csr) -> None:
        dense = features.to_dense() if isinstance(features, Csr) else features
        self.units = F.normalize(dense, dim=1)

    def __call__(self, block: Csr, first_row: int) -> Tensor:
        """[E], of the entries of rows ``first_row ...`` of a square matrix."""
        found = torch.empty(block.nnz, dtype=self.units.dtype, device=block.device)
        for rows in row_blocks(block.shape[0], block.shape[1], self.units):
            entries = slice(int(block.indptr[rows.start]), int(block.indptr[rows.stop]))
            own = self.units[rows.start + first_row : rows.stop + first_row]
            found[entries] = (own @ self.units.t())[block.rows[entries] - rows.start, block.indices[entries]]
        return found


def _diagonal(left: Csr, right: Csr, counts: Counts) -> Tensor:
    """[N] float64: the diagonal of the product."""
    if right is left.t():
        squares = left.values(torch.float64).square()
        sums = left.with_weights(squares).row_sums()
        return sums if counts == "full" else (sums > 0).to(torch.float64)
    found = torch.zeros(left.shape[0], dtype=torch.float64, device=left.device)
    for rows, block in compose_blocks(left, right, counts):
        own = block.indices == block.rows + rows.start
        found[block.indices[own]] = block.values(torch.float64)[own]
    return found
