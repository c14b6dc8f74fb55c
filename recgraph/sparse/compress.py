"""Matrices with many equal rows, held with each of them once."""

from __future__ import annotations

import torch
from torch import Tensor

from recgraph.sparse.chain import Chain
from recgraph.sparse.csr import Csr

__all__ = ["compress_rows"]

# A chain pays where it has fewer entries than this share of the matrix.
_WORTH = 0.5
# Odd 64-bit numbers that spread their factor over all bits.
_MIX = (-7046029254386353131, -4417276706812531889)


def compress_rows(adj: Csr) -> Chain | Csr:
    """``P U``, U the distinct rows and P the one that each row is; the matrix itself where that saves less than half.

    The papers of a subject, the authors of the same conferences relate to the same nodes: after PathSim's top-k, 4,019
    rows of ACM's paper-subject-paper are 60 different ones, and a product costs 2 % of its entries.
    """
    if not adj.nnz:
        return adj
    _, group = torch.unique(torch.stack([_fingerprints(adj), adj.degrees]), dim=1, return_inverse=True)
    n_groups = int(group.max()) + 1
    every = torch.arange(adj.shape[0], device=adj.device)
    # the first row of each group stands for it
    first = torch.zeros(n_groups, dtype=torch.int64, device=adj.device).scatter_reduce(
        0, group, every, "amin", include_self=False
    )
    distinct = adj.take_rows(first)
    if adj.shape[0] + distinct.nnz > _WORTH * adj.nnz or not _equal(distinct.take_rows(group), adj):
        return adj
    which = Csr(torch.arange(adj.shape[0] + 1, device=adj.device), group, None, (adj.shape[0], n_groups))
    return Chain((which, distinct))


def _fingerprints(adj: Csr) -> Tensor:
    """[R] int64: equal for equal rows."""
    bits = adj.indices * _MIX[0]
    if adj.weights is not None:
        bits = bits + adj.weights.detach().to(torch.float64).view(torch.int64) * _MIX[1]
    bits = (bits ^ (bits >> 29)) * _MIX[1]
    return torch.zeros(adj.shape[0], dtype=torch.int64, device=adj.device).index_add_(0, adj.rows, bits)


def _equal(a: Csr, b: Csr) -> bool:
    if not (torch.equal(a.indptr, b.indptr) and torch.equal(a.indices, b.indices)):
        return False
    return a.weights is None or b.weights is None or torch.equal(a.weights, b.weights)
