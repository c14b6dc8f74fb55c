"""The softmax over the entries of each row of a sparse matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from recgraph.sparse.csr import Csr

__all__ = ["row_softmax"]


def row_softmax(adj: Csr, scores: Tensor) -> Tensor:
    """[E]: ``exp(s_e) / sum of exp(s_f) over the entries f of e's row``.

    Args:
        adj: [R, C], whose weights are not read; a row without entries has no share.
        scores: [E] floating point, one an entry.
    """
    peak = torch.segment_reduce(scores.detach(), "max", offsets=adj.indptr, initial=-torch.inf)
    weights = (scores - peak[adj.rows]).exp()
    total = torch.zeros_like(peak).index_add(0, adj.rows, weights)
    return weights / total[adj.rows]
