"""The default backend: ``embedding_bag`` on CPU, torch's CSR product (cuSPARSE) on an accelerator."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from recgraph.sparse.backends._autograd import differentiable
from recgraph.sparse.csr import Csr, csr_tensor


def product(adj: Csr, x: Tensor) -> Tensor:
    """See :func:`recgraph.sparse.spmm.spmm`."""
    return differentiable(_multiply, adj, x)


def _multiply(adj: Csr, x: Tensor) -> Tensor:
    if not x.is_cpu:
        return csr_tensor(adj, x.dtype) @ x
    return F.embedding_bag(
        adj.indices, x, adj.indptr, mode="sum", include_last_offset=True, per_sample_weights=adj.weights
    )
