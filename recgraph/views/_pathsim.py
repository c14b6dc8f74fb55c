"""PathSim, and the most similar nodes of each by it, without ever holding all counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph.blocks import row_blocks
from recgraph.sparse.compose import Counts, compose_blocks, stack_rows
from recgraph.sparse.csr import Csr
from recgraph.sparse.normalise import power
from recgraph.sparse.spmm import spmm
from recgraph.sparse.top_k import top_k_mask

__all__ = ["pathsim", "pathsim_top_k"]

# features with a larger share of entries than this are multiplied with a dense matrix
_DENSE = 1 / 64
# stands for a sum of 0, of nodes without a way back to themselves; what is divided by it stays in the range of float64
_SMALLEST = 1e-100


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
        second = None if cosine is None else cosine(parts[0], 0, k)
        return parts[0].select(top_k_mask(parts[0], k, pathsim(parts[0]), second))
    left, right = parts
    diagonal = _diagonal(left, right, counts)
    kept = []
    for rows, block in compose_blocks(left, right, counts):
        scores = _similarity(block, diagonal[rows], diagonal)
        second = None if cosine is None else cosine(block, rows.start, k)
        kept.append(block.select(top_k_mask(block, k, scores, second)))
    return stack_rows(kept, right.shape[1], left)


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
            if features.density > _DENSE:
                self.columns = self.columns.to_dense()
        else:
            self.units = F.normalize(features.to(torch.float64), dim=1)
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
        parts = [torch.empty(0, device=entries.device)]
        for rows, products in self._products(nodes):
            some = entries.row_block(rows)
            parts.append(products[some.rows, some.indices].to(torch.float32))
        return torch.cat(parts)

    def _products(self, nodes: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """(rows, [b, N]): cosines of the given nodes with all, in blocks."""
        columns = self.columns
        own = self.units.take_rows(nodes) if isinstance(self.units, Csr) else self.units[nodes]
        if isinstance(own, Csr) and isinstance(columns, Csr):
            for rows, block in compose_blocks(own, columns):
                yield rows, block.to_dense()
            return
        assert isinstance(columns, Tensor)
        for rows in row_blocks(nodes.numel(), columns.shape[1], columns):
            yield rows, spmm(own.row_block(rows), columns) if isinstance(own, Csr) else own[rows] @ columns


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
