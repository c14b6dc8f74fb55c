"""Sparse times dense by PyTorch Geometric (``torch_geometric.utils.spmm``)."""

from __future__ import annotations

from torch import Tensor

from recgraph.sparse.backends._autograd import differentiable
from recgraph.sparse.csr import Csr, csr_tensor


def product(adj: Csr, x: Tensor) -> Tensor:
    """See :func:`recgraph.sparse.spmm.spmm`.

    Both products, forward and backward, are PyG's; the transpose and the gradient to the weights are ours, because
    PyG's come from torch, whose weight gradient makes the whole R x C matrix and is wrong in shape where several
    entries stand at one place.
    """
    return differentiable(_multiply, adj, x)


def _multiply(adj: Csr, x: Tensor) -> Tensor:
    from torch_geometric.utils import spmm

    return spmm(csr_tensor(adj, x.dtype), x)  # type: ignore[no-any-return]
