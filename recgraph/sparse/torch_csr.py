"""A :class:`Csr` as one of torch's own sparse tensors, which many libraries take."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from recgraph.sparse.csr import Csr

__all__ = ["csr_tensor"]


def csr_tensor(adj: Csr, dtype: torch.dtype | None = None) -> Tensor:
    """A ``torch.sparse_csr`` tensor that shares the matrix's own; weights of a type (default: their own)."""
    with warnings.catch_warnings():  # torch says at first use that its CSR tensors are in beta
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        # the entries were checked when they were made; checking again would wait for the device
        return torch.sparse_csr_tensor(adj.indptr, adj.indices, adj.values(dtype), adj.shape, check_invariants=False)
